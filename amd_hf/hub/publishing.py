"""Publishing on the Hub: what a folder must be like, and the upload."""

from __future__ import annotations

import fnmatch
import inspect
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from .. import configuration_amd, video_processing_amd
from ..modeling_amd import AMDPreTrainedModel
from ..models import load_model
from ..outputs.folders import claim_folder, marker_beside, noting
from . import reader as hub_reader
from .cards.file_texts import PLACE_MARK, texts_of
from .cards.metadata import card_problems
from .cards.pages import is_weights_licence_unknown
from .cards.privacy import is_secret_name, known_secrets, private_parts, secret_parts
from .sources import CONFIG_NAME, PROCESSOR_CODE, PROCESSOR_NAME, settings_problems, source_problems


CARD_NAME = "README.md"
IMAGE_PROCESSOR_NAME = "preprocessor_config.json"  # of models of one frame

_MAX_SECONDS = 1800  # for another process to load a model and answer

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
    """Copies what belongs on the Hub to a folder of its own, adds the code, and checks it.

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
            gives other answers, its card is missing or not valid, or a file tells a secret, an absolute path or the
            name of the user. Names everything that is wrong.
    """
    source, target = Path(source), Path(target)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id of the Hub: {error}") from error
    if not (source / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{source} is no folder of a model: it has no {CONFIG_NAME}.")
    published = _published_names(source)
    _refuse_if_any(source, source_problems(source, published))  # before a byte of it is used
    if json.loads((source / CONFIG_NAME).read_text()).get("model_type") != "amd":
        raise ValueError(f"{source} holds no `amd` model: convert it first (scripts/convert_checkpoint.py).")
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
    prepared.warnings = _licence_warnings(target / CARD_NAME)
    return prepared


def _refuse_if_any(source: Path, problems: list[str]) -> None:
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ValueError(f"{source} is not fit to be published:{listed}")


def _published_names(folder: Path) -> list[str]:
    """Entries of a folder that are of a kind to publish, whatever they are: file, link or something else."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if any(fnmatch.fnmatchcase(name, kind) for kind in _PUBLISHED)]


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_size for path in folder.iterdir()}


def _copy(source: Path, target: Path) -> None:
    """Copies a file, and only a file: what has become a link or a pipe since it was looked at is an error."""
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{source} is no ordinary file: it is not published.")
        with open(target, "xb") as copied:
            shutil.copyfileobj(file, copied)


def code_files(kind: type) -> list[Path]:
    """The files that load a class of model as remote code, and its config and processor."""
    files: set[str] = set()
    for module in (sys.modules[kind.__module__], configuration_amd, video_processing_amd):
        path = str(module.__file__)
        files |= {path, *get_relative_import_files(path)}
    return sorted(map(Path, files))


def _set_auto_map(path: Path, entries: dict[str, str]) -> None:
    """Says in a JSON file where the Auto classes find the code."""
    settings = json.loads(path.read_text())
    settings["auto_map"] = entries
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


# ---- Checks of what is prepared ----


def folder_problems(folder: Path, model: AMDPreTrainedModel, repo_id: str) -> list[str]:
    """What speaks against publishing a folder that should answer as `model` does: an empty list where nothing."""
    problems = []
    card = folder / CARD_NAME
    if card.is_file():
        problems += [f"{CARD_NAME}: {problem}" for problem in card_problems(card)]
    else:
        problems.append(f"there is no {CARD_NAME}: a page must say what the model is (docs/publishing.md)")
    kind, processor = ("image", IMAGE_PROCESSOR_NAME) if model.config.num_frames == 1 else ("video", PROCESSOR_NAME)
    if not (folder / processor).is_file():
        problems.append(f"there is no {processor}: save the {kind} processor beside the model")
    problems += _foreign_code(folder, type(model))
    problems += _private_problems(folder, repo_id)
    problems += _foreign_tensors(folder, model)
    # Last, and only of a folder that is whole otherwise: it takes longest, and runs the code that is in it.
    return problems or _other_answers(folder, model)


def _foreign_code(folder: Path, kind: type) -> list[str]:
    """Code that is not, byte for byte, the package's own, and settings that name such."""
    ours = {path.name: path for path in code_files(kind)}
    names = [path.name for path in folder.iterdir()]
    problems = [
        f"{name} is not the code of this package"
        for name in sorted(names)
        if name.endswith(".py") and (name not in ours or (folder / name).read_bytes() != ours[name].read_bytes())
    ]
    return problems + [
        problem for name in names if name.endswith(".json") for problem in settings_problems(folder / name, names)
    ]


def _private_problems(folder: Path, repo_id: str) -> list[str]:
    """Secrets, absolute paths and user names in any file, and in its name. The code is the package's own."""
    problems: dict[str, None] = {}
    known = known_secrets()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            continue
        problems.update((f"the name of {path.name} tells {part}", None) for part in private_parts(path.name, repo_id))
        try:
            for where, text, is_noise in texts_of(path):
                parts = secret_parts(text, known) if is_noise else private_parts(text, repo_id, known)
                if text.startswith(PLACE_MARK):
                    parts.append("the place where it was taken")
                problems.update((f"{where} tells {part}", None) for part in parts)
        except ValueError as error:
            problems[str(error)] = None
    return list(problems)


def _foreign_tensors(folder: Path, model: AMDPreTrainedModel) -> list[str]:
    """Tensors that are no weights of the model, as those of an optimizer."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    foreign = sorted(names - model.state_dict().keys())
    if not foreign:
        return []
    return [f"{len(foreign)} tensors are no weights of {type(model).__name__}: {', '.join(foreign[:5])}"]


def _other_answers(folder: Path, model: AMDPreTrainedModel) -> list[str]:
    """Loads the folder as a reader does and compares its answers to a clip of noise.

    A reader has not installed this package, trusts the code in the folder, and here has no network and no secrets.
    """
    reference = f"{type(model).__module__.rpartition('.')[2]}.{type(model).__name__}"
    auto_class = next(name for name, code in configuration_amd.OUR_CODE.items() if code == reference)
    inputs = _noise(model)
    environment = {name: value for name, value in os.environ.items() if not is_secret_name(name)}
    with tempfile.TemporaryDirectory() as scratch:
        torch.save({**inputs, "num_threads": torch.get_num_threads()}, Path(scratch, "inputs.pt"))
        environment |= {"HF_HOME": scratch, "HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-", str(folder.resolve()), auto_class, scratch],
            input=Path(hub_reader.__file__).read_text(encoding="utf-8"),
            env=environment,
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=_MAX_SECONDS,
            check=False,
        )
        if done.returncode:
            last = next(
                (line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no word of why"
            )
            return [f"it cannot be loaded where this package is not installed: {last}"]
        theirs = torch.load(Path(scratch, "answer.pt"), weights_only=True)
    ours = hub_reader.answer(model, inputs)
    if torch.equal(ours, theirs):
        return []
    return [f"loaded by its own code it answers otherwise: by up to {(ours - theirs).abs().max():.2g}"]


def _noise(model: AMDPreTrainedModel) -> dict[str, Any]:
    """A fixed clip of noise, and what a model of its kind needs beside it."""
    config = model.config
    shape = (1, config.num_frames, config.num_channels, *config.image_height_width)
    clip = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"pixel_values": clip}
    if hasattr(model, "decoder"):
        inputs["bool_masked_pos"] = (torch.arange(config.num_patches) % 2 == 1)[None]
    elif "boxes" in inspect.signature(model.forward).parameters:
        height, width = config.image_height_width
        inputs["boxes"] = [torch.tensor([[0.0, 0.0, width / 2, height / 2]])]
    return inputs


def _licence_warnings(card: Path) -> list[str]:
    data = ModelCard.load(card).data
    if is_weights_licence_unknown(data):
        return [
            "these weights were made by the authors of the paper, who state no licence for them: ask them before you "
            "publish"
        ]
    if not data.license:
        return [f"{CARD_NAME} names no `license` for the weights"]
    return []


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
    """Uploads a prepared folder, exactly its files; makes the repository where there is none.

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
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=prepared.folder,
            allow_patterns=sorted(prepared.files),
            revision=revision,
            commit_message=commit_message or "Upload model with amd_hf",
        )
    except HfHubHTTPError as error:
        reason = f"The Hub refused ({_one_line(error)}). `hf auth login` logs you in. {prepared.folder} is ready."
        raise PermissionError(reason) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"The Hub cannot be reached ({_one_line(error)}). Everything is ready in {prepared.folder}: give the same "
            "command again with a network."
        ) from error
    return commit.commit_url


def _one_line(error: Exception) -> str:
    """The first line of what an error says, for those of the Hub go on with hints."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
