"""Publishing on the Hub: what a folder must be like, and the upload."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from ..models import load_model
from ..outputs.folders import claim_folder, marker_beside, noting
from .cards import CARD_NAME, is_weights_licence_unknown
from .checks import (
    CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    PROCESSOR_CODE,
    PROCESSOR_NAME,
    code_files,
    folder_problems,
    source_problems,
)


# What is published; code comes from the package. All else stays: optimizer, checkpoints, arguments, logs, folders.
_PUBLISHED = (
    CONFIG_NAME,
    "*.safetensors",
    "*.safetensors.index.json",
    PROCESSOR_NAME,
    IMAGE_PROCESSOR_NAME,
    "processor_config.json",
    CARD_NAME,
    "*.png",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENSE-*.txt",
    "LICENSE-*.md",
    "NOTICE",
    "NOTICE.txt",
)


@dataclass
class PreparedFolder:
    """A folder that is ready for the Hub.

    Args:
        folder (`Path`): Where it is.
        files (`dict[str, int]`): Each file to upload and its size in bytes.
        left_out (`list[str]`): Entries of the source that stay here.
        warnings (`list[str]`): What its publisher should think about.
    """

    folder: Path
    files: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{size:>14,}  {name}" for name, size in sorted(self.files.items())]
        lines.append(f"{sum(self.files.values()):>14,}  bytes in {len(self.files)} files, in {self.folder}")
        if self.left_out:
            names = (name if name.isprintable() else ascii(name) for name in sorted(self.left_out))
            lines.append(f"left out: {', '.join(names)}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def prepare_folder(source: str | Path, target: str | Path, repo_id: str) -> PreparedFolder:
    """Copy what belongs on the Hub to a folder of its own, add the code, and check it.

    Files are taken by a list of allowed kinds; everything else is left out and named. Of links only those to such a
    file in the same folder are followed.

    Args:
        source (`str` or `Path`): Folder of a model of this package, with its card.
        target (`str` or `Path`): Folder to make; what an earlier call left there is replaced. Beside it lies
            a marker, `.NAME.amd_hf_output.json`, that says so.
        repo_id (`str`): Id on the Hub, `owner/name`.

    Raises:
        FileNotFoundError: If `source` is no folder of a model.
        ValueError: If the id is none, `target` holds other things, or anything is wrong with the folder: its weights
            are not whole, it holds or names code that is not this package's, a file is a link out of it, other code
            gives other answers, its card is missing or not valid, or a file reveals a secret, an absolute path or the
            name of the user. The error names everything that is wrong.
    """
    source, target = Path(source), Path(target)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id of the Hub: {error}") from error
    if not (source / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{source} is no folder of a model: it has no {CONFIG_NAME}.")
    # Entries of a kind to publish, whatever they are: file, link or something else.
    names = sorted(path.name for path in source.iterdir())
    published = [name for name in names if any(fnmatch.fnmatchcase(name, kind) for kind in _PUBLISHED)]
    _refuse_if_any(source, source_problems(source, published))  # before a byte of it is used
    if json.loads((source / CONFIG_NAME).read_text()).get("model_type") != "amd":
        raise ValueError(f"{source} holds no `amd` model: convert it first (`amd-hf convert`).")
    model = load_model(source)
    code = code_files(type(model))
    # The marker lies beside the folder, all of which is published.
    marker = marker_beside(target)
    names = [*published, *(path.name for path in code)]
    claim_folder(target, "publishing", more=names, marker=marker, option="prepared_dir")
    with noting(target, "publishing", more=names, marker=marker):
        for path in (*(source / name for name in published), *code):
            _copy(path.resolve(), target / path.name)
        _set_auto_map(target / CONFIG_NAME, model.config.auto_map)
        if (target / PROCESSOR_NAME).is_file():
            _set_auto_map(target / PROCESSOR_NAME, PROCESSOR_CODE)
    prepared = PreparedFolder(target, files=_sizes(target))
    prepared.left_out = sorted({path.name for path in source.iterdir()} - prepared.files.keys())
    _refuse_if_any(source, folder_problems(target, model, repo_id))
    data = ModelCard.load(target / CARD_NAME).data
    if is_weights_licence_unknown(data):
        prepared.warnings.append(
            "these weights were made by the authors of the paper, who state no licence for them: ask them before you "
            "publish"
        )
    elif not data.license:
        prepared.warnings.append(f"{CARD_NAME} names no `license` for the weights")
    return prepared


def _refuse_if_any(source: Path, problems: list[str]) -> None:
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ValueError(f"{source} is not fit to be published:{listed}")


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_size for path in folder.iterdir()}


def _copy(source: Path, target: Path) -> None:
    """Copy a file, and only a file: what has become a link or a pipe since it was looked at is an error."""
    # Without waiting: if it is now a pipe, opening it would block until somebody writes into it.
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{source} is no ordinary file: it is not published.")
        with open(target, "xb") as copied:
            shutil.copyfileobj(file, copied)


def _set_auto_map(path: Path, entries: dict[str, str]) -> None:
    """Say in a JSON file where the Auto classes find the code."""
    settings = json.loads(path.read_text())
    settings["auto_map"] = entries
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


# ---- Upload ----


def upload(
    prepared: PreparedFolder,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a prepared folder, exactly its files; make the repository where there is none.

    Args:
        prepared ([`PreparedFolder`]): From [`prepare_folder`].
        repo_id (`str`): Id on the Hub.
        private (`bool`, *optional*): Whether a new repository is private; the account's default when not given.
        token (`str`, *optional*): Token; that of `hf auth login` when not given.
        revision, commit_message (`str`, *optional*): Branch, `main` when not given, and headline of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If the folder has changed since it was prepared.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If it refuses.
    """
    if _sizes(prepared.folder) != prepared.files or any(path.is_symlink() for path in prepared.folder.iterdir()):
        raise ValueError(f"{prepared.folder} has changed since it was checked: prepare it again.")
    api = HfApi(token=token, library_name="amd_hf")
    with _naming_hub_errors(prepared.folder):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=prepared.folder,
            allow_patterns=sorted(prepared.files),
            revision=revision,
            commit_message=commit_message or "Upload model with amd_hf",
        )
    return commit.commit_url


def check_data_set(repo_id: str, video_ids: Iterable[str]) -> None:
    """Check what a data set would be published as, before days are spent on making it.

    Args:
        repo_id (`str`): Id on the Hub, `owner/name`.
        video_ids (iterable of `str`): Ids of its videos, which are published.

    Raises:
        ValueError: If the id is none, or ids of videos are paths of this machine.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id of the Hub: {error}") from error
    absolute = [video_id for video_id in video_ids if os.path.isabs(video_id)]
    if absolute:
        raise ValueError(
            f"{len(absolute)} ids of videos are paths of this machine, such as {absolute[0]}: give the folder that "
            "they are relative to (`--data_root`), or do not publish them."
        )


def upload_data_set(
    folder: Path, files: Iterable[str], repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Upload files of a prepared data set, and no others of its folder; make the repository where there is none.

    Args:
        folder (`Path`): The folder.
        files (iterable of `str`): Names in it.
        repo_id (`str`): Id of the data set on the Hub.
        private (`bool`, *optional*): Whether a new repository is private; the account's default when not given.
        token (`str`, *optional*): Token; that of `hf auth login` when not given.

    Returns:
        The address of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If it refuses.
    """
    api = HfApi(token=token, library_name="amd_hf")
    with _naming_hub_errors(folder):
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=sorted(files),
            commit_message="Upload data set with amd_hf",
        )
    return commit.commit_url


@contextmanager
def _naming_hub_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        reason = f"The Hub refused ({_one_line(error)}). `hf auth login` logs you in. {folder} is ready."
        raise PermissionError(reason) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"The Hub cannot be reached ({_one_line(error)}). Everything is ready in {folder}: give the same "
            "command again with a network."
        ) from error


def _one_line(error: Exception) -> str:
    """Return the first line of an error, since errors of the Hub continue with hints."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
