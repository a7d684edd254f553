"""Recipes and the command line: which value wins, how it is read, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, TrainingArguments

from amd_hf import AMDConfig, AMDTrainingArguments
from amd_hf.errors import RunStopped
from amd_hf.options.declared import class_options
from amd_hf.options.parsing import OptionParser, check_model_source, parse_recipe
from amd_hf.options.programs import run_program


@dataclass
class Options:
    """Every kind of option a program has."""

    data: str | None = field(default=None, metadata={"help": "Text."})
    rate: float = field(default=0.1, metadata={"help": "Number."})
    base_rate: float | None = field(default=1.0, metadata={"help": "Number or nothing."})
    num_clips: int = field(default=4, metadata={"help": "Whole number."})
    mode: str = field(default="dense", metadata={"help": "One of two.", "choices": ["dense", "uniform"]})
    fast: bool = field(default=False, metadata={"help": "Flag."})
    videos: list[str] = field(default_factory=list, metadata={"help": "Many."})
    save_strategy: str = field(default="steps", metadata={"help": "A word that YAML does not take for one."})
    resume_from_checkpoint: str | None = field(default=None, metadata={"help": "Folder, or nothing for the last."})


def _parse(tmp_path: Path, recipe: str | None = None, *arguments: str) -> tuple[Options, dict[str, Any]]:
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
        arguments = ("--recipe", str(tmp_path / "recipe.yaml"), *arguments)
    return parse_recipe((Options,), arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Which value wins
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "arguments", "expected"),
    [
        (None, [], 4),
        ("num_clips: 5", [], 5),
        ("num_clips: 5", ["--num_clips", "6"], 6),
        ("num_clips: 5", ["--num_clips=6"], 6),
        ("num_clips: 5", ["--num-clips", "6"], 6),
        (None, ["--num_clips", "6"], 6),
    ],
    ids=["default", "recipe", "over the recipe", "with =", "with hyphens", "without a recipe"],
)
def test_command_line_wins_over_recipe_and_recipe_over_default(
    tmp_path: Path, recipe: str | None, arguments: list[str], expected: int
) -> None:
    assert _parse(tmp_path, recipe, *arguments)[0].num_clips == expected


@pytest.mark.parametrize("arguments", [["--recipe=FILE"], ["--fast", "--recipe", "FILE", "--num_clips", "4"]])
def test_recipe_may_be_named_anywhere_on_the_command_line(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "r.yaml").write_text("rate: 0.5")
    arguments = [argument.replace("FILE", str(tmp_path / "r.yaml")) for argument in arguments]
    assert parse_recipe((Options,), arguments)[0].rate == 0.5


def test_model_section_is_overridden_option_by_option(tmp_path: Path) -> None:
    recipe = "model:\n  hidden_size: 32\n  layer_norm_eps: 1e-6\n  student_direct_layers: [1, 2]\n"
    _, model = _parse(tmp_path, recipe, "--model.hidden_size", "64", "--model.teacher_hidden_size=null")
    assert model == {
        "hidden_size": 64, "layer_norm_eps": 1e-6, "student_direct_layers": [1, 2], "teacher_hidden_size": None
    }  # fmt: skip
    assert AMDConfig(**{**model, "num_attention_heads": 4, "student_generation_layers": [1, 2]}).hidden_size == 64


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2", 2),
        ("0.5", 0.5),
        ("[1, 2]", [1, 2]),
        ("true", True),
        ("eager", "eager"),
        ("[1e-2]", [1e-2]),
    ],
)
def test_model_option_is_read_as_yaml_and_numbers_as_meant(tmp_path: Path, text: str, value: Any) -> None:
    for arguments in (["--model.x", text], [f"--model.x={text}"]):
        assert _parse(tmp_path, None, *arguments)[1] == {"x": value}
    assert _parse(tmp_path, f"model: {{x: {text}}}")[1] == {"x": value}


# ---------------------------------------------------------------------------------------------------------------------
# How values are read
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "name", "expected"),
    [
        ("rate: 1e-3", "rate", 1e-3),
        ("rate: 1.2e-3", "rate", 1.2e-3),
        ("rate: 2", "rate", 2.0),
        ("rate: -1", "rate", -1.0),
        ("num_clips: -1", "num_clips", -1),
        ("base_rate: null", "base_rate", None),
        ("data: null", "data", None),
        ("data: 1e5", "data", "1e5"),
        ("data: a folder with blanks", "data", "a folder with blanks"),
        ("fast: true", "fast", True),
        ("fast: yes", "fast", True),
        ("videos: [a.mp4, b c.mp4]", "videos", ["a.mp4", "b c.mp4"]),
        ("videos: a.mp4", "videos", ["a.mp4"]),
        ("save_strategy: no", "save_strategy", "no"),
        ("mode: uniform", "mode", "uniform"),
    ],
)
def test_recipe_value_has_the_type_of_its_option(tmp_path: Path, recipe: str, name: str, expected: Any) -> None:
    value = getattr(_parse(tmp_path, recipe)[0], name)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize("text", ["none", "None", "null"])
def test_number_that_may_be_absent_is_unset_by_a_word(tmp_path: Path, text: str) -> None:
    assert _parse(tmp_path, "base_rate: 3", "--base_rate", text)[0].base_rate is None


def test_word_none_stays_a_word_where_words_are_meant(tmp_path: Path) -> None:
    assert _parse(tmp_path, None, "--data", "none")[0].data == "none"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume_from_checkpoint"], "last"),
        (["--resume_from_checkpoint", "--fast"], "last"),
        (["--resume-from-checkpoint", "--fast"], "last"),
        (["--resume_from_checkpoint", "out/checkpoint-3"], "out/checkpoint-3"),
        ([], None),
    ],
)
def test_resume_flag_may_stand_alone(tmp_path: Path, arguments: list[str], expected: str | None) -> None:
    assert _parse(tmp_path, None, *arguments)[0].resume_from_checkpoint == expected


def test_training_arguments_take_dictionaries_lists_and_numbers_from_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether TensorBoard is installed where the tests run is another matter.
    monkeypatch.setattr("amd_hf.training.arguments.get_available_reporting_integrations", lambda: ["tensorboard"])
    (tmp_path / "r.yaml").write_text(
        "learning_rate: 1e-3\nbase_learning_rate: null\nreport_to: [tensorboard]\nuse_cpu: true\n"
        "accelerator_config: {split_batches: false}\nmin_base_learning_rate: 1e-6\nadam_beta2: 0.9\n"
    )
    args, _ = parse_recipe(
        (AMDTrainingArguments,), ["--recipe", str(tmp_path / "r.yaml"), "--output_dir", str(tmp_path)]
    )
    assert (args.learning_rate, args.base_learning_rate, args.adam_beta2) == (1e-3, None, 0.9)
    assert args.report_to == ["tensorboard"]
    assert args.accelerator_config.split_batches is False


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "underflow_overflow", "tpu_metrics_debug"],
        ["--include_num_input_tokens_seen"],
        ["--include_num_input_tokens_seen", "false"],
        ["--optim_target_modules", "all"],
        ["--label_names", "a", "b"],
        ["--bf16"],
        ["--bf16=no"],
        ["--no_save_only_model"],
        ["--no-dataloader-pin-memory"],
        ["--tf32", "true"],
        ["--logging_steps", "0.5"],
        ["--max_grad_norm", "1e-3"],
        ["--fsdp-config", '{"version": 2}'],
        ["--report_to", "none"],
    ],
    ids=lambda words: " ".join(words),
)
def test_options_of_the_trainer_are_read_as_its_own_parser_reads_them(words: list[str]) -> None:
    theirs = type("Theirs", (TrainingArguments,), {})
    # Fields of its own: their parser changes the types of those that it has seen.
    theirs.__dataclass_fields__ = {name: copy(field) for name, field in TrainingArguments.__dataclass_fields__.items()}
    ours = OptionParser(class_options(TrainingArguments).values())
    try:
        expected = vars(HfArgumentParser(theirs).parse_args(words))
    except SystemExit:
        with pytest.raises(ValueError, match="Unknown on the command line"):
            ours.read_words(words)
        return
    for name, value in ours.read_words(words).items():
        assert expected[name] == value
        assert words[0].lstrip("-").replace("-", "_").partition("=")[0].removeprefix("no_") == name


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("num_clip: 3\nzzz: 1", r"unknown option\(s\): `num_clip` \(did you mean `num_clips`\?\), `zzz`\."),
        ("recipe: other.yaml", r"unknown option\(s\): `recipe`"),
        ("3: 4", r"unknown option\(s\): `3`"),
        ("num_clips: two", "num_clips.*invalid int value: 'two'"),
        ("num_clips: 1.5", "num_clips.*invalid int value: '1.5'"),
        ("num_clips: null", "num_clips.*invalid int value: 'null'"),
        ("mode: sparse", "mode.*invalid choice: 'sparse'"),
        ("data: [a, b]", r"data.*invalid str value: \['a', 'b'\]"),
        ("num_clips: {a: 3}", "num_clips.*invalid int value: {'a': 3}"),
        ("num_clips: true", "num_clips.*invalid int value: 'True'"),
        ("- a\n- b", "must be a mapping of options, it is a list"),
        ("", "must be a mapping of options, it is a NoneType"),
        ("a: [1", r"recipe .*recipe\.yaml is not valid YAML"),
        ("model: 3", "section `model` of the recipe .* must be a mapping of options, it is 3"),
    ],
)  # fmt: skip
def test_bad_recipe_raises_and_says_what_is_wrong(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _parse(tmp_path, recipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_clip", "3"], r"Unknown on the command line: `--num_clip` \(did you mean `--num_clips`\?\), `3`"),
        (["--rec", "r.yaml"], r"`--rec` \(did you mean `--recipe`\?\)"),
        (["stray"], "Unknown on the command line: `stray`"),
        (["--num_clips"], "num_clips.*expected one argument"),
        (["--num_clips", "two"], "invalid int value: 'two'"),
        (["--mode", "sparse"], r"invalid choice: 'sparse' \(choose from '?dense'?, '?uniform'?\)"),
        (["--model.hidden_size"], "`--model.hidden_size` needs a value"),
        (["--model.hidden_size", "--fast"], "`--model.hidden_size` needs a value"),
        (["--model.x", "[1"], "The value of `--model.x` is not valid YAML"),
    ],
)
def test_bad_command_line_raises_and_names_the_option(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _parse(tmp_path, None, *arguments)


def test_missing_recipe_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no recipe .*nowhere\.yaml"):
        parse_recipe((Options,), ["--recipe", str(tmp_path / "nowhere.yaml")])


def test_program_that_builds_no_model_takes_no_model_options() -> None:
    with pytest.raises(ValueError, match=r"takes no model options, got \{'hidden_size': 3\}"):
        parse_recipe((Options,), ["--model.hidden_size", "3"], has_model_options=False)


@pytest.mark.parametrize("source", ["/nowhere/model", "./model", "../model", "~/model", "a/b/c", "out/model"])
def test_model_folder_that_does_not_exist_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match=f"There is no folder '{source}', given as `--teacher`"):
        check_model_source(source, "teacher")


@pytest.mark.parametrize("source", [None, "out", "videomae", "MCG-NJU/videomae-large"])
def test_folder_that_exists_and_hub_ids_are_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    check_model_source(source, "teacher")


# ---------------------------------------------------------------------------------------------------------------------
# How a program ends
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, FileNotFoundError, ImportError, RunStopped, StrictDataclassError]
)
def test_error_that_a_user_can_mend_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.delenv("AMD_HF_TRACEBACK", raising=False)

    def main() -> None:
        raise error("No such\n  folder.")

    with pytest.raises(SystemExit) as outcome:
        run_program(main)
    assert outcome.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == ["error: No such folder.", "(set AMD_HF_TRACEBACK=1 to see where it was raised)"]


def test_error_without_words_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise ValueError

    with pytest.raises(SystemExit):
        run_program(main)
    assert "error: ValueError\n" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ZeroDivisionError])
def test_mistake_of_ours_keeps_its_traceback(error: type[Exception]) -> None:
    def main() -> None:
        raise error("a bug")

    with pytest.raises(error, match="a bug"):
        run_program(main)


def test_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMD_HF_TRACEBACK", "1")

    def main(argv: Sequence[str] = ()) -> None:
        raise ValueError("with its traceback")

    with pytest.raises(ValueError, match="with its traceback"):
        run_program(main)
