"""Publishing on the Hub: what a folder must be like, and the upload."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files

from . import configuration_amd, video_processing_amd
from .cards.metadata import card_problems
from .cards.pages import is_weights_licence_unknown
from .cards.privacy import private_parts
from .modeling_amd import AMDPreTrainedModel
from .sources import load_model


CARD_NAME = "README.md"
CONFIG_NAME = "config.json"
PROCESSOR_NAME = "video_preprocessor_config.json"
IMAGE_PROCESSOR_NAME = "preprocessor_config.json"  # of models of one frame

# What is published; code comes from the package. All else stays: optimizer, checkpoints, arguments, logs.
_PUBLISHED = (
    CONFIG_NAME,
    "*.safetensors",
    "*.safetensors.index.json",
    PROCESSOR_NAME,
    IMAGE_PROCESSOR_NAME,
    "processor_config.json",
    CARD_NAME,
    "*.png",
    "LICENSE*",
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
            lines.append(f"left out: {', '.join(sorted(self.left_out))}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def prepare_folder(source: str | Path, target: str | Path, repo_id: str) -> PreparedFolder:
    """Copies what belongs on the Hub to a folder of its own, adds the code, and checks it.

    Args:
        source (`str` or `Path`): Folder of a model of this package, with its card.
        target (`str` or `Path`): Folder to make; what an earlier call left there is replaced.
        repo_id (`str`): Id on the Hub, `owner/name`.

    Raises:
        FileNotFoundError: If `source` is no folder of a model.
        ValueError: If the id is none, `target` holds other things, or anything is wrong with the folder: its weights
            are not whole, other code gives other answers, its card is missing or not valid, or a file tells an
            absolute path or the name of the user. Names everything that is wrong.
    """
    source, target = Path(source), Path(target)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id of the Hub: {error}") from error
    if not (source / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{source} is no folder of a model: it has no {CONFIG_NAME}.")
    if json.loads((source / CONFIG_NAME).read_text()).get("model_type") != "amd":
        raise ValueError(f"{source} holds no `amd` model: convert it first (scripts/convert_checkpoint.py).")
    model = load_model(source)
    published = {path for pattern in _PUBLISHED for path in source.glob(pattern) if path.is_file()}
    code = code_files(type(model))
    _make_empty(target, {path.name for path in (*published, *code)})
    for path in (*published, *code):
        shutil.copy2(path, target / path.name)
    _add_auto_map(target / CONFIG_NAME, model.config.auto_map)
    if (target / PROCESSOR_NAME).is_file():
        _add_auto_map(target / PROCESSOR_NAME, {"AutoVideoProcessor": "video_processing_amd.AMDVideoProcessor"})
    left_out = {path.name for path in source.iterdir()} - {path.name for path in target.iterdir()}
    prepared = PreparedFolder(target, left_out=sorted(left_out))
    prepared.files = {path.name: path.stat().st_size for path in target.iterdir()}
    if problems := folder_problems(target, model, repo_id):
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise ValueError(f"{source} is not fit to be published:{listed}")
    prepared.warnings = _licence_warnings(target / CARD_NAME)
    return prepared


def code_files(kind: type) -> list[Path]:
    """The files that load a class of model as remote code, and its config and processor."""
    files: set[str] = set()
    for module in (sys.modules[kind.__module__], configuration_amd, video_processing_amd):
        path = str(module.__file__)
        files |= {path, *get_relative_import_files(path)}
    return sorted(map(Path, files))


def _make_empty(target: Path, expected: set[str]) -> None:
    """Makes a folder, or empties one that holds nothing but what we put there."""
    if target.exists():
        kinds = (*_PUBLISHED, *expected)
        strange = [path.name for path in target.iterdir() if not path.is_file() or not any(map(path.match, kinds))]
        if strange:
            raise ValueError(
                f"{target} holds other things ({', '.join(sorted(strange)[:5])}): choose another folder to prepare in."
            )
        for path in target.iterdir():
            path.unlink()
    target.mkdir(parents=True, exist_ok=True)


def _add_auto_map(path: Path, entries: dict[str, str]) -> None:
    """Says in a JSON file where the Auto classes find the code."""
    settings = json.loads(path.read_text())
    settings["auto_map"] = {**settings.get("auto_map", {}), **entries}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


# ---- Checks ----


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
    problems += _private_problems(folder, repo_id)
    problems += _foreign_tensors(folder, model)
    # Last, and only of a folder that is whole otherwise: it takes longest.
    return problems or _other_answers(folder, model)


def _private_problems(folder: Path, repo_id: str) -> list[str]:
    """Absolute paths and user names in files. The code is the package's own; pictures hold no text."""
    problems = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".py", ".png"):
            continue
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                text = json.dumps(file.metadata() or {})
        else:
            text = path.read_text(encoding="utf-8")
        problems += [f"{path.name} tells {part}" for part in private_parts(text, allowed=repo_id)]
    return problems


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
    """Loads the folder by the code inside it and compares its answers to a clip of noise."""
    kind = type(model)
    reference = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    loaded = get_class_from_dynamic_module(reference, str(folder)).from_pretrained(folder).eval()
    ours, theirs = _answer(model), _answer(loaded)
    if torch.equal(ours, theirs):
        return []
    return [f"loaded by its own code it answers otherwise: by up to {(ours - theirs).abs().max():.2g}"]


@torch.no_grad()
def _answer(model: AMDPreTrainedModel) -> torch.Tensor:
    """What a model of any kind makes of a fixed clip of noise."""
    config = model.config
    shape = (1, config.num_frames, config.num_channels, *config.image_height_width)
    clip = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {}
    if hasattr(model, "decoder"):
        inputs["bool_masked_pos"] = (torch.arange(config.num_patches) % 2 == 1)[None]
    elif "boxes" in inspect.signature(model.forward).parameters:
        height, width = config.image_height_width
        inputs["boxes"] = [torch.tensor([[0.0, 0.0, width / 2, height / 2]])]
    output = model.eval()(clip, **inputs)
    return output.logits if "logits" in output else output.last_hidden_state


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
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If it refuses.
    """
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
