"""Check a folder of a model, show what would be uploaded, and publish it on the Hub.

amd-hf push --model_name_or_path my_model --repo_id me/my-model
amd-hf push --model_name_or_path my_model --repo_id me/my-model --dry_run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..hub.publishing import prepare_folder, upload
from ..options.commands import parse_command


@dataclass
class PushOptions:
    """The folder to publish, and its address on the Hub."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder of the model, with its README.md."})
    repo_id: str | None = field(default=None, metadata={"help": "Repository on the Hub: owner/name."})
    prepared_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for the files to upload; by default the model's folder name with `-hub` added."},
    )
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    dry_run: bool = field(default=False, metadata={"help": "Prepare and check the files without uploading them."})


def main(argv: Sequence[str] | None = None) -> str | None:
    """Publish a model's folder; return its address, none after `--dry_run`."""
    options, _ = parse_command("push", argv)
    if options.model_name_or_path is None or options.repo_id is None:
        raise ValueError("Say what to publish and where: `--model_name_or_path FOLDER --repo_id OWNER/NAME`.")
    source = Path(options.model_name_or_path)
    target = Path(options.prepared_dir or f"{source}-hub")
    # Show exactly what will be uploaded, also without `--dry_run`: the Hub keeps a history of every file.
    prepared = prepare_folder(source, target, options.repo_id)
    print(f"To be uploaded to {options.repo_id}:\n{prepared}", flush=True)
    if options.dry_run:
        return None
    address = upload(prepared, options.repo_id, private=options.private or None)
    print(f"Published: {address}")
    return address


if __name__ == "__main__":
    from . import start

    start("push")
