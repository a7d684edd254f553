"""A small world in which every command of the README, the guide, programs' headers and recipes runs as it stands.

Where a command names data, a model or a file, there lies a small one of the right layout: `videos/`, `k400/`, official
files, a `videomae` folder in the place of a Hub id. What a command cannot be given by its text (a CPU, two steps, a
model of two layers) is added behind it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from amd_hf import AMDConfig, AMDForActionDetection, AMDForPreTraining, AMDForVideoClassification, export_checkpoint
from amd_hf.models import build_processor
from amd_hf.options.recipe_files import find_recipe
from examples.motion_people import write_motion_people
from tests.helpers import images, miniatures
from tests.helpers.encoders import tiny_encoder
from tests.helpers.hub import CARD
from tests.helpers.models import randomize
from tests.helpers.training import ROOT, load_script
from tests.helpers.videos import write_video


# Commands that no test runs, and why.
EXEMPT = {
    r"make ": "ten minutes and a virtual environment of its own; its program's parts are run by the other commands",
    r"python examples/demo\w*\.py": "minutes each: tests marked slow run them",
    r"python tools/library_tests\.py": "fetches the library's tests and runs them for minutes: `make test-library`",
    r"hf auth login": "needs an account",
    r"sbatch ": "needs Slurm; the program it starts is run by the page's other commands",
    r"pip install|.*pip install": "changes the environment",
    r"git clone|source |export ": "is no program of ours",
    r"(.*scripts/push_to_hub\.py|amd-hf push) (?!.*--dry_run)": "uploads: tests/cli/test_push.py does so",
    r".*(finetune\.py|finetune) (\.\.\.|…)$": "stands for any command of the page",
}

for _word, _packages in {  # the first that fits counts: folders of OpenVINO are called exported, too
    "openvino": ("openvino", "nncf"),
    "onnx|exported": ("onnx", "onnxscript", "onnxruntime"),
}.items():
    if not all(map(find_spec, _packages)):
        EXEMPT[rf"amd-hf .*({_word})"] = f"needs {', '.join(_packages)}: `make test-export` installs them"

# Where programs are described, and how their files are named in commands.
PROGRAM_FOLDERS = ("amd_hf/cli", "examples", "studies", "tools")
_STARTS = ("scripts/", "examples/", "studies/", "tools/", "benchmarks/")
# How the commands of programs' headers and of recipes' comments begin.
_LAUNCHERS = ("amd-hf ", "python ", "accelerate launch ", "torchrun ", "sbatch ")

SIZES: dict[str, Any] = {
    "image_size": 32, "patch_size": 16, "num_frames": 4, "tubelet_size": 2, "hidden_size": 16,
    "num_hidden_layers": 7, "num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "teacher_hidden_size": 64, "student_direct_layers": [1, 2],
    "student_generation_layers": [1, 2], "teacher_direct_layers": [1, 3], "teacher_generation_layers": [1, 3],
    "student_mask_ratio": 0.75, "teacher_mask_ratio": 0.5,
}  # fmt: skip
_IMAGE_SIZES = {**SIZES, "num_frames": 1, "tubelet_size": 1, "image_size": 64}
_OFFICIAL = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 2, "image_size": 32, "num_frames": 4}
_TRAINING = [
    "--use_cpu", "true", "--bf16", "false", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "2",
    "--gradient_accumulation_steps", "1", "--max_steps", "2", "--warmup_steps", "1", "--num_repetitions", "1",
    "--logging_steps", "1", "--decode_time_limit", "null",
]  # fmt: skip
_REPLACED = {
    "MCG-NJU/videomae-base": "hub/videomae-large",
    "MCG-NJU/videomae-base-finetuned-kinetics": "hub/videomae-classifier",
    "MCG-NJU/videomae-large": "hub/videomae-large",
    "facebook/dinov2-base": "hub/dinov2",
    "facebook/vit-mae-large": "hub/vit-mae-large",
    "facebook/vjepa2-vitl-fpc64-256": "hub/vjepa2",
    "/data/ssv2": "ssv2",
    "/data/k400": "k400",
    "configs/ablations/main.yaml": "grids/main.yaml",
    "configs/ablations/playback.yaml": "grids/playback.yaml",
}


@dataclass(frozen=True)
class Command:
    """A command as a page shows it: the page, and its text in one line."""

    page: str
    text: str

    @property
    def exempt(self) -> str | None:
        """Why it is not run; None where it is."""
        reasons = [reason for pattern, reason in EXEMPT.items() if re.match(pattern, self.text)]
        return reasons[0] if reasons else None

    @property
    def program(self) -> str | None:
        """Which program of ours it starts: a sub-command of `amd-hf`, or the name of a file elsewhere."""
        found = split_command(shlex.split(self.text))
        return found[0] if found else None


def split_command(words: list[str]) -> tuple[str, list[str]] | None:
    """The program of ours that a shell command starts and its arguments; None where it starts none.

    `amd-hf finetune`, `python -m amd_hf finetune`, `python scripts/finetune.py` and `accelerate launch -m
    amd_hf.cli.finetune` are all the program `finetune`.
    """
    for number, word in enumerate(words):
        arguments = words[number + 1 :]
        if word == "amd-hf" or (word == "amd_hf" and words[number - 1] == "-m"):
            return (arguments[0], arguments[1:]) if arguments else ("--help", [])
        if word.startswith("amd_hf.cli.") and words[number - 1] == "-m":
            return word.removeprefix("amd_hf.cli."), arguments
        if word.startswith("scripts/") and word.endswith(".py"):
            return load_script(Path(word).stem).__name__.rpartition(".")[2], arguments
        if word.startswith(_STARTS) and word.endswith(".py"):
            return Path(word).stem, arguments
    return None


def named_recipe(program: str, arguments: list[str]) -> dict[str, Any]:
    """The recipe that a command names, by path or by name; an empty one where it names none."""
    if "--recipe" not in arguments:
        return {}
    return yaml.safe_load(find_recipe(arguments[arguments.index("--recipe") + 1], program).read_text())


def all_commands() -> Iterator[Command]:
    """Every command of the README, the guide, the headers of programs and the comments of recipes, in their order."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
            yield from _lines(page.name, block)
        # Tables show commands as code within the line; those with dots, a NAME or no option stand for others.
        for code in re.findall(
            r"`((?:scripts|studies|tools)/\w+\.py [^`\n]+|python \w+/\w+\.py [^`\n]+|amd-hf [^`\n]+)`",
            page.read_text(),
        ):
            stands_for_any = re.search(r"\.\.\.$|…|(^amd-hf .*|>.*)\b[A-Z][A-Z_]*\b", code) or re.fullmatch(
                r"amd-hf \w+( \w+)?", code
            )
            if not stands_for_any and "benchmarks/" not in code:
                yield from _lines(page.name, code if code.startswith(("python", "amd-hf")) else f"python {code}")
    for program in [path for folder in PROGRAM_FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]:
        header = program.read_text().split('"""')[1]
        yield from (command for command in _lines(program.name, header) if command.text.startswith(_LAUNCHERS))
    for recipe in sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file()):
        comments = "\n".join(
            line.lstrip("#").strip() for line in recipe.read_text().splitlines() if line.startswith("#")
        )
        name = str(recipe.relative_to(ROOT))
        yield from (command for command in _lines(name, comments) if command.text.startswith(_LAUNCHERS))


def _lines(page: str, text: str) -> Iterator[Command]:
    for line in re.sub(r"\\{1,2}\n\s*", " ", text).splitlines():
        command = re.sub(r"\s+", " ", re.sub(r"(^|\s)#.*", "", line)).strip()
        if command:
            yield Command(page, command)


# ---------------------------------------------------------------------------------------------------------------------
# The world
# ---------------------------------------------------------------------------------------------------------------------


def build_world(root: Path) -> Path:
    """Everything that any command names, small."""
    torch.manual_seed(0)
    _videos(root)
    _models(root)
    miniatures.kinetics(root / "k400")
    miniatures.something_something(root / "ssv2")
    ucf101 = miniatures.ucf101(root / "ucf101")
    miniatures.tables(root / "own")
    (root / "train.csv").write_text("path,label\nleft/0.mp4,left\nright/1.mp4,right\n")
    images.class_folders(root / "imagenet")
    shutil.copytree(root / "imagenet" / "validation", root / "photos")
    for fold in (1, 2, 3):
        _classifier(root / "runs" / f"ucf101_fold{fold}", ucf101.label_names)
    for name in ("main", "playback"):
        _grid(root / "grids" / f"{name}.yaml", ROOT / "configs" / "ablations" / f"{name}.yaml")
    for name in ("amd_hf", "configs", "scripts", "studies", "tools"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "model_cards", root / "model_cards")
    shutil.copytree(ROOT / "docs", root / "docs")
    return root


def _videos(root: Path) -> None:
    for number, label in enumerate(("left", "right")):
        for video in range(3):
            length = 20 + 3 * number + video
            write_video(root / "videos_plain" / label / f"{video}.mp4", length, 48, 48)
            write_video(root / "videos" / f"{label}{video}.mp4", length, 48, 48)
    for number in range(12):
        write_video(root / "videos_long" / f"{number}.mp4", 90 + number, 48, 48)
    for split in ("train", "validation", "test"):
        shutil.copytree(root / "videos_plain", root / "videos_splits" / split)
    (root / "videos").rename(root / "folder")
    shutil.copytree(root / "folder", root / "more")
    write_video(root / "more" / "clip.webm", 20, 48, 48, codec="libvpx-vp9")
    data = root / "demo_output" / "data" / "validation"
    for name in (
        "anticlockwise/000000",
        "anticlockwise/000001",
        "left/000004",
        "left/000001",
        "up/000031",
        "up/000231",
    ):
        write_video(data / f"{name}.mp4", 16, 48, 48)
    films = {
        split: write_motion_people(root / "films", split, 2, 3, seed=0, size=32) for split in ("train", "validation")
    }
    shutil.copytree(root / "films", root / "demo_detection_output" / "data")
    train, val = films["train"], films["validation"]
    shutil.copytree(train.videos, root / "videos_films")
    for file, names in {
        train.annotations: ("ava_train_v2.2.csv", "annotated.csv"),
        val.annotations: ("ava_val_v2.2.csv", "val.csv"),
        train.excluded: ("ava_train_excluded_timestamps_v2.2.csv",),
        val.excluded: ("ava_val_excluded_timestamps_v2.2.csv",),
        val.person_boxes: ("ava_val_predicted_boxes.csv", "persons.csv"),
        train.action_list: ("ava_action_list_v2.2.pbtxt", "ava_action_list_v2.2_for_activitynet_2019.pbtxt",
                            "actions.pbtxt"),
    }.items():  # fmt: skip
        for name in names:
            shutil.copy(file, root / name)
    film = sorted(val.videos.glob("*.mp4"))[0]
    for name in ("video.mp4", "clip.mp4"):
        shutil.copy(film, root / name)
    (root / "persons.json").write_text('[{"timestamp": 1, "box": [0.1, 0.1, 0.6, 0.7], "score": 0.979}]')


def _models(root: Path) -> None:
    for name in ("MODEL", "pretrained", "student", "my_student", "demo_output/distilled"):
        _save(randomize(AMDForPreTraining(AMDConfig(**SIZES))), root / name)
    image_student = {**_IMAGE_SIZES, "use_class_token": True, "position_embedding": "sincos_2d"}
    _save(randomize(AMDForPreTraining(AMDConfig(**image_student))), root / "pretrained_images")
    for name in ("finetuned", "my_model"):
        _classifier(root / name, ["left", "right"])
    _classifier(root / "demo_output" / "distilled_classifier", ["anticlockwise", "left", "up"])
    detector = AMDConfig(**SIZES, **_labels(["left", "right", "up", "down", "nearer", "farther"]))
    for name in ("detector", "demo_detection_output/detector"):
        model = randomize(AMDForActionDetection(detector))
        model.save_pretrained(root / name)
        build_processor(model.config).save_pretrained(root / name)
    teacher = VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=64, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=256, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, use_mean_pooling=False,
    )  # fmt: skip
    randomize(VideoMAEForPreTraining(teacher)).save_pretrained(root / "hub" / "videomae-large")
    classes = VideoMAEConfig.from_dict({**teacher.to_dict(), "use_mean_pooling": True, **_labels(["left", "right"])})
    randomize(VideoMAEForVideoClassification(classes)).save_pretrained(root / "hub" / "videomae-classifier")
    image_teacher = ViTMAEConfig(
        image_size=64, patch_size=16, hidden_size=64, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=256, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )  # fmt: skip
    randomize(ViTMAEForPreTraining(image_teacher)).save_pretrained(root / "hub" / "vit-mae-large")
    for name in ("dinov2", "vjepa2"):
        tiny_encoder(name, hidden_size=64, num_hidden_layers=3).save_pretrained(root / "hub" / name)
    decoder = {"decoder_hidden_size": 192, "decoder_num_attention_heads": 3, "teacher_hidden_size": None}
    official = AMDForPreTraining(AMDConfig(**{**SIZES, **_OFFICIAL, **decoder}))
    for name in ("checkpoint.pth", "FILE.pth", "file.pth", "vit_b_ssv2_pt_800e.pth"):
        torch.save({"model": export_checkpoint(official)}, root / name)


def _labels(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _classifier(folder: Path, names: list[str]) -> None:
    _save(
        randomize(AMDForVideoClassification(AMDConfig(**{**SIZES, "use_final_norm": False}, **_labels(names)))),
        folder,
    )


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    build_processor(model.config).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)


def _grid(file: Path, original: Path) -> None:
    """A grid of the package with one seed, one rate and few clips."""
    grid = yaml.safe_load(original.read_text())
    numbers = dict.fromkeys(("unlabelled", "train", "tuning", "validation"), 8)
    for name in {"seeds", "learning_rates"} & grid.keys():
        grid[name] = grid[name][:1]
    grid["data"] = {**grid["data"], **{name: 8 for name in numbers if name in grid["data"]}}
    file.parent.mkdir(exist_ok=True)
    for path in grid["recipes"].values():
        recipe = yaml.safe_load((original.parent / path).read_text()) | {"per_device_train_batch_size": 4}
        (file.parent / path).parent.mkdir(exist_ok=True)
        (file.parent / path).write_text(yaml.safe_dump(recipe))
    file.write_text(yaml.safe_dump(grid))


def enter_world(base: Path, folder: Path) -> Path:
    """A folder of a page's own, in which everything of the world is found and nothing of it is changed."""
    folder.mkdir(parents=True)
    for entry in base.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, folder / entry.name, symlinks=True)
        else:
            (folder / entry.name).symlink_to(entry.resolve())
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# A command in the world
# ---------------------------------------------------------------------------------------------------------------------


def prepare(command: Command, world: Path) -> tuple[str, list[str]]:
    """The program of a command and its arguments in the world, where everything that it names is put in its place."""
    found = split_command(shlex.split(command.text))
    assert found is not None, f"{command.page}: `{command.text}` starts no program of ours"
    program, arguments = found[0], [_REPLACED.get(word, word) for word in found[1]]
    if "--num_processes" in arguments and program != "ablate":  # tests/cli/test_processes.py starts several
        del arguments[(at := arguments.index("--num_processes")) : at + 2]
    is_detection = "detection" in arguments or named_recipe(program, arguments).get("task") == "detection"
    _place_videos(world, arguments, is_detection)
    arguments = _expand(arguments)
    for option in ("--output_dir", "--to_official"):
        if option in arguments:
            _make_room(world / arguments[arguments.index(option) + 1])
    return program, [*arguments, *_small_options(program, arguments, is_detection)]


def _place_videos(world: Path, arguments: list[str], is_detection: bool) -> None:
    """`videos/` as the command needs it: films, class folders in splits, or class folders."""
    has_splits = any(option in arguments for option in ("--split", "--train_split"))
    videos = world / "videos"
    videos.unlink(missing_ok=True)
    kind = "films" if is_detection else "long" if "--source" in arguments else "splits" if has_splits else "plain"
    videos.symlink_to(f"videos_{kind}")
    if is_detection:  # elsewhere train.csv is a table of videos
        arguments[:] = ["annotated.csv" if word == "train.csv" else word for word in arguments]
    if any("in1k" in word for word in arguments):
        arguments[:] = ["pretrained_images" if word == "pretrained/" else word for word in arguments]
    if "--teacher" in arguments and arguments[arguments.index("--teacher") + 1] == "folder":
        arguments[arguments.index("--teacher") + 1] = "hub/videomae-large"
    if "--to_official" in arguments and arguments[arguments.index("--source") + 1] == "folder":
        arguments[arguments.index("--source") + 1] = "pretrained"


def _expand(arguments: list[str]) -> list[str]:
    """Patterns as the shell expands them."""
    found: list[str] = []
    for word in arguments:
        is_pattern = "*" in word and not word.endswith(("*31.mp4", "*.webm"))  # those are quoted
        found += sorted(map(str, Path().glob(word))) if is_pattern else [word]
    return found


def _make_room(path: Path) -> None:
    """Outputs of the world's own stand-ins give way; those of the page's earlier commands do so too."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


_SMALL = {
    "ablate": ["--max_steps", "2", "--num_processes", "1"],
    "benchmark": ["--seconds", "1", "--workers", "1", "--decoders", "pyav"],
    "make_api_reference": ["--root", "."],
    "make_model_cards": ["--root", "."],
}


def _small_options(program: str, arguments: list[str], is_detection: bool) -> list[str]:
    if program == "pretrain":
        is_image = any("in1k" in word for word in arguments)
        sizes = _IMAGE_SIZES if is_image else SIZES
        teacher = ["--teacher", "hub/vit-mae-large" if is_image else "hub/videomae-large"]
        options = [] if "--teacher" in arguments else teacher
        return [*_TRAINING, *options, *(f"--model.{name}={value}" for name, value in sizes.items())]
    if program == "finetune":
        recipe = named_recipe(program, arguments)
        sizes = _OFFICIAL if any(word.endswith(".pth") for word in arguments) else SIZES
        if any("in1k" in word for word in arguments):
            sizes = _IMAGE_SIZES
        named = [name for name in sizes if name in (recipe.get("model") or {}) or sizes is _OFFICIAL]
        options = ["--short_side", "32"] if is_detection else []
        if not is_detection:
            options += ["--test_num_segments", "1", "--test_num_crops", "1"]
        return [*_TRAINING, *options, *(f"--model.{name}={sizes[name]}" for name in named)]
    if program in _SMALL:
        return _SMALL[program]
    if program == "convert" and "--output_dir" in arguments:
        return [f"--model.{name}={_OFFICIAL[name]}" for name in ("image_size", "num_frames")]
    if program == "export":
        return ["--measure_speed", "false"]
    if program in ("evaluate", "predict", "features", "visualize"):
        return ["--use_cpu"]
    return []
