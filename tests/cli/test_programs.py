"""The way of a user: pretrain, distil, fine-tune, evaluate, predict; what is printed, what is refused in a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDVideoProcessor, export_checkpoint
from amd_hf.cli.pretrain import build_student
from amd_hf.options.programs import run_program
from tests.cli.conftest import Work
from tests.helpers.encoders import tiny_encoder
from tests.helpers.training import one_error_line, run_script
from tests.helpers.videos import text_file, truncate, write_list, write_video
from tests.helpers.warm import start_warm


Program = Callable[[str], Any]


# ---------------------------------------------------------------------------------------------------------------------
# The whole way
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("teacher", [r"training videos: 16\n", r"evaluation videos: 9\n", r"AMDForPreTraining, 0\.0\dM parameters",
                     r"4 x 16 x 16 frames, 32 tokens", r"teacher: none: plain masked autoencoding\n",
                     r"batch: 4 videos x 2 repetitions = 8 clips per step", r"steps: 3 \(0\.75 epochs of 4\), 0 of ",
                     r"'loss_reconstruction'", r"evaluation: eval_loss [\d.]+", r"model is in .*/teacher\n"]),
        ("student", [r"teacher: .*of width 16.*layers 1, 2 used", r"'loss_direct'", r"'loss_generation'",
                     r"eval_loss_direct [\d.]+", r"pre-trained model is in .*/student\n"]),
        ("classifier", [r"training videos: 16\n", r"start: .*/student\n", r"classes: 8\n", r"evaluation: eval_loss",
                        r"test: accuracy [\d.]+, .*videos_expected 9, videos_read 9", r"model is in .*/classifier\n"]),
        ("results", [r"model: .*/classifier: AMDForVideoClassification", r"test: 9 videos x 2 views of 4 frames",
                     r"accuracy: 0\.\d{4}\n", r"videos_read: 9\n", r"results are in .*test_results\.json;"]),
        ("prediction", [r"/validation/\w+/\d+\.mp4\n", r"(  +\d+\.\d%  \w+\n){5}"]),
    ],
)  # fmt: skip
def test_program_says_what_it_does_and_where_the_result_is(work: Work, name: str, patterns: list[str]) -> None:
    for pattern in patterns:
        assert re.search(pattern, work.said[name]), f"{pattern} not in\n{work.said[name]}"


def test_distilled_student_holds_no_weight_of_the_teacher(work: Work) -> None:
    student = load_file(work.root / "student" / "model.safetensors")
    teacher = load_file(work.root / "teacher" / "model.safetensors")
    assert not [name for name in student if "teacher" in name]
    shared = [name for name in teacher if student[name].shape == teacher[name].shape]
    assert any(not torch.equal(student[name], teacher[name]) for name in shared)


def test_test_of_finetune_and_evaluate_agree(work: Work) -> None:
    at_the_end = json.loads((work.root / "classifier" / "test_results.json").read_text())
    apart = json.loads((work.root / "results" / "test_results.json").read_text())
    assert apart.pop("unreadable") == []
    of_test, of_run = apart.pop("tested"), at_the_end.pop("tested")
    assert apart == pytest.approx(at_the_end)
    for name in ("model", "data", "split", "num_views", "amd_hf_version"):
        assert of_run[name] == of_test[name], name
    assert of_run["num_videos"] == at_the_end["videos_expected"]


def test_cards_of_the_runs_hold_their_own_figures(work: Work) -> None:
    card = (work.root / "classifier" / "README.md").read_text()
    results = json.loads((work.root / "classifier" / "test_results.json").read_text())
    assert f"| validation clip accuracy (final test) | {results['clip_accuracy']:.6g} |" in card
    assert "eval_split" in card  # of the options of the program, not of the Trainer
    student = (work.root / "student" / "README.md").read_text()
    losses = json.loads((work.root / "student" / "eval_results.json").read_text())
    assert f"| evaluation loss direct | {losses['eval_loss_direct']:.6g} |" in student
    assert (work.root / "student" / "losses.png").is_file()


def test_saved_classifier_loads_in_a_new_process_and_gives_the_same_logits(work: Work, tmp_path: Path) -> None:
    folder, video = work.root / "classifier", work.video()
    script = f"""
import json, torch, amd_hf
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline
model = AutoModelForVideoClassification.from_pretrained({str(folder)!r}).eval()
clip = AutoVideoProcessor.from_pretrained({str(folder)!r})({video!r}, return_tensors="pt")
with torch.no_grad():
    torch.save(model(**clip).logits, {str(tmp_path / "logits.pt")!r})
answer = pipeline("video-classification", {str(folder)!r}, device="cpu")({video!r}, top_k=8)
print("ANSWER" + json.dumps(answer))
"""
    run = start_warm(script).wait(timeout=100)
    assert run.returncode == 0, run.stderr[-3000:]
    model = AMDForVideoClassification.from_pretrained(folder).eval()
    clip = AMDVideoProcessor.from_pretrained(folder)(video, return_tensors="pt")
    with torch.no_grad():
        logits = model(**clip).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits)
    answer = json.loads(run.stdout.partition("ANSWER")[2])
    scores = {entry["label"]: entry["score"] for entry in answer}
    expected = dict(zip(model.config.id2label.values(), logits.softmax(dim=-1)[0].tolist(), strict=True))
    assert scores == pytest.approx(expected, abs=1e-5)
    assert set(scores) == {"left", "right", "up", "down", "clockwise", "anticlockwise", "nearer", "farther"}


def test_same_seed_gives_the_same_weights_and_another_seed_others(
    work: Work, program: Program, tmp_path: Path
) -> None:
    pretrain = program("pretrain")
    weights = []
    for number, seed in enumerate(["7", "7", "8"]):
        torch.rand(number)  # what was drawn before must not matter
        output = ["--output_dir", str(tmp_path / str(number)), "--max_steps", "1"]
        trainer = pretrain.main(work.pretraining(*output, "--seed", seed))
        weights.append(trainer.model.state_dict()["decoder.head.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2], atol=1e-2)


def test_pretraining_goes_on_from_another_model(work: Work, program: Program, tmp_path: Path) -> None:
    start = [
        "--init_from",
        str(work.root / "teacher"),
        "--base_learning_rate",
        "1e-9",
        "--min_base_learning_rate",
        "0",
    ]
    trainer = program("pretrain").main(work.pretraining(*start, "--output_dir", str(tmp_path / "out")))
    before = load_file(work.root / "teacher" / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)


def test_predict_gives_json_for_good_and_bad_files_alike(
    work: Work, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [work.video(), str(text_file(tmp_path / "text.mp4")), str(tmp_path / "nowhere.mp4")]
    arguments = [
        "--model_name_or_path",
        str(work.root / "classifier"),
        "--format",
        "json",
        "--top_k",
        "2",
        "--use_cpu",
    ]
    results = program("predict").main([*arguments, "--videos", *files])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == results
    assert [line["video"] for line in lines] == files
    assert len(lines[0]["predictions"]) == 2
    assert "there is no file" in lines[2]["error"]
    assert "error" in lines[1]


def test_evaluate_lists_what_it_could_not_read(work: Work, program: Program, tmp_path: Path) -> None:
    good = Path(work.video())
    lines = [f"{good} 0", f"{text_file(tmp_path / 'text.mp4')} 1"]
    arguments = ["--model_name_or_path", str(work.root / "classifier"), "--use_cpu", "--num_segments", "1"]
    data = ["--data", str(write_list(tmp_path / "list.txt", lines)), "--output_dir", str(tmp_path / "out")]
    program("evaluate").main([*arguments, *data])
    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert (results["videos_expected"], results["videos_read"]) == (2, 1)
    assert [entry["video_id"] for entry in results["unreadable"]] == ["text.mp4"]


# ---------------------------------------------------------------------------------------------------------------------
# Bad videos in training: skipped and counted
# ---------------------------------------------------------------------------------------------------------------------


def test_bad_videos_are_named_and_counted_and_the_run_ends_well(work: Work, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for number in range(6):
        write_video(folder / f"{number}.mp4", 10, 32, 32)
    write_video(folder / "one_frame.mp4", 1, 32, 32)
    text_file(folder / "text.mp4")
    truncate(write_video(folder / "half.mp4", 10, 32, 32))
    recipe = (work.root / "pretrain.yaml").read_text().replace("train_split: train\neval_split: validation\n", "")
    (tmp_path / "r.yaml").write_text(recipe)
    arguments = ["--recipe", str(tmp_path / "r.yaml"), "--data", str(folder), "--output_dir", str(tmp_path / "out")]
    run = run_script("pretrain", *arguments, "--per_device_train_batch_size", "3", "--max_steps", "6")
    assert run.stderr.count("Skipping unreadable video text.mp4: ") == 1
    assert run.stderr.count("Skipping unreadable video half.mp4: ") == 1
    assert "one_frame" not in run.stderr
    assert re.search(r"'unreadable_videos': '?4\b", run.stdout), run.stdout
    assert "The pre-trained model is in" in run.stdout


def test_plain_pretraining_runs_by_a_recipe_that_names_a_teacher(work: Work, program: Program, tmp_path: Path) -> None:
    """As README says: no `--teacher`, and `--model.teacher_hidden_size null`."""
    recipe = (work.root / "pretrain.yaml").read_text().replace("model:\n", "model:\n  teacher_hidden_size: 1024\n")
    (tmp_path / "recipe.yaml").write_text(recipe + "teacher: MCG-NJU/videomae-large\n")
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--data", str(work.data), "--max_steps", "1"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--model.teacher_hidden_size", "null"]
    trainer = program("pretrain").main(arguments)
    assert trainer.teacher is None
    assert trainer.model.alignment is None
    assert AMDForPreTraining.from_pretrained(tmp_path / "out").config.teacher_hidden_size is None


def test_teacher_is_told_what_its_file_does_not_tell(
    work: Work, program: Program, refusals: Refusals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = AMDForPreTraining.from_pretrained(work.root / "teacher")
    torch.save({"model": export_checkpoint(teacher)}, tmp_path / "teacher.pth")  # as an author's file: no config
    options = ["--teacher", str(tmp_path / "teacher.pth"), "--model.teacher_hidden_size", "16", "--max_steps", "1"]
    options += ["--teacher_config.num_attention_heads", "2", "--teacher_config.image_size=16"]
    options += ["--teacher_config.num_frames", "4", "--output_dir", str(tmp_path / "out")]
    line = refusals.line("pretrain", work.pretraining(*options[:4], "--output_dir", str(tmp_path / "o")))
    assert "width 16 is none of" in line
    assert "give `--teacher_config.num_attention_heads VALUE`" in line
    assert "--model." not in line
    trainer = program("pretrain").main(work.pretraining(*options))
    assert trainer.teacher.model.config.num_attention_heads == 2
    name = "layers.1.mlp.fc1.weight"
    assert torch.equal(trainer.teacher.model.state_dict()[name], teacher.amd.state_dict()[name])


def test_teacher_alone_is_enough_and_what_was_fitted_to_it_is_printed(
    work: Work, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe for another teacher, of which only the student's side stays."""
    tiny_encoder("vjepa2").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    recipe = (
        (work.root / "pretrain.yaml")
        .read_text()
        .replace("teacher_direct_layers: [1, 2]", "teacher_direct_layers: [12, 24]")
    )
    (tmp_path / "recipe.yaml").write_text(
        recipe.replace("model:", "teacher: MCG-NJU/videomae-large\nmodel:\n  teacher_hidden_size: 1024")
    )
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--data", str(work.data), "--max_steps", "1"]
    trainer = program("pretrain").main(
        [*arguments, "--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "out")]
    )
    config = trainer.model.config
    assert (config.teacher_hidden_size, config.teacher_direct_layers, config.image_size) == (48, [2, 4], 16)
    said = capsys.readouterr().out
    assert "sees 4 frames of 32 x 32 as 2 x 4 x 4 tokens, the student's grid" in said
    assert "its licence: cc-by-nc-4.0: no commercial use" in said
    line = next(line for line in said.splitlines() if line.strip().startswith("fitted to it"))
    assert "`model.teacher_hidden_size` 48, `model.teacher_direct_layers` [2, 4]" in line
    # A student that was pre-trained without a teacher, and then gets one.
    student, fitted = build_student(str(work.root / "teacher"), {}, trainer.teacher.facts)
    assert fitted["teacher_hidden_size"] == student.config.teacher_hidden_size == 48
    assert student.config.student_direct_layers == [1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# Bad input: one line, exit code 2
# ---------------------------------------------------------------------------------------------------------------------


class Refusals:
    """Programs that refuse to go on; `{tmp}` and `{work}` in options and messages stand for the folders."""

    def __init__(self, program: Program, capsys: pytest.CaptureFixture[str], **folders: Path) -> None:
        self._program, self._capsys, self._folders = program, capsys, folders

    def fill(self, *texts: str) -> list[str]:
        return [text.format(**self._folders) for text in texts]

    def line(self, name: str, arguments: list[str]) -> str:
        """The one line with which a program refuses."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as outcome:
            run_program(lambda: self._program(name).main(arguments))
        assert outcome.value.code == 2
        return one_error_line(self._capsys.readouterr().err)

    def check(self, name: str, arguments: list[str], message: str) -> None:
        assert self.fill(message)[0] in self.line(name, arguments)


@pytest.fixture
def refusals(work: Work, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusals:
    return Refusals(program, capsys, tmp=tmp_path, work=work.root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--data", "{tmp}/nowhere"], "There is no file or folder '{tmp}/nowhere'"),
        (["--data", "{tmp}/empty.txt"], "empty.txt is empty. Write one `path label` per line"),
        (["--data", "{tmp}/some_labels.txt"], "1 of 2 lines of {tmp}/some_labels.txt have no label: line 2"),
        (["--data", "{tmp}/wrong_paths.txt"], "None of the first 1 videos of {tmp}/wrong_paths.txt exists"),
        (["--data", "{tmp}/nothing"], "Found no video in {tmp}/nothing"),
        (["--train_split", "nowhere"], "There is no split 'nowhere'"),
        (["--model.student_mask_ratio", "0.25"], "got teacher 0.5 and student 0.25"),
        (["--model.student_mask_ratio", "0"], "got teacher 0.5 and student 0"),
        (
            ["--model.hidden_size", "18", "--model.num_attention_heads", "4"],
            "`--model.hidden_size` 18 must be a multiple of",
        ),
        (["--model.hiden_size", "16"], "`hiden_size` (did you mean `--model.hidden_size`?)"),
        (["--model.hidden_size", "wide"], "'hidden_size' expected int, got str"),
        (["--teacher", "{tmp}/nowhere"], "There is no folder '{tmp}/nowhere', given as `--teacher`"),
        (["--teacher", "{work}/teacher", "--model.teacher_hidden_size", "20"], "teacher 16, student 20"),
        (["--teacher", "{work}/teacher", "--model.teacher_hidden_size", "null"], "contradict each other"),
        (["--teacher", "{work}/data", "--model.teacher_hidden_size", "16"], "{work}/data has no config.json"),
        (["--init_from", "{tmp}/nowhere"], "There is no folder '{tmp}/nowhere', given as `--init_from`"),
        (["--per_device_train_batch_size", "32"], "16 videos, fewer than the 32 of one optimizer step"),
        (["--decoder", "vlc"], "`--decoder` must be one of"),
        (["--alignment_loss", "l3"], "invalid choice: 'l3'"),
        (["--num_repetitons", "3"], "`--num_repetitons` (did you mean `--num_repetitions`?)"),
        (["--recipe", "{tmp}/misspelt.yaml"], "unknown option(s): `max_step` (did you mean `max_steps`?)"),
        (["--recipe", "{tmp}/nowhere.yaml"], "There is no recipe {tmp}/nowhere.yaml"),
        (["--learning_rate", "1e-3"], "Got both `--learning_rate` 0.001 and `--base_learning_rate` 0.0012"),
    ],
)
def test_pretrain_refuses_bad_input(
    work: Work, refusals: Refusals, tmp_path: Path, changes: list[str], message: str
) -> None:
    good = work.video()
    write_list(tmp_path / "empty.txt", [])
    write_list(tmp_path / "some_labels.txt", [f"{good} 0", f"{good}"])
    write_list(tmp_path / "wrong_paths.txt", ["nowhere.mp4 0"])
    write_list(tmp_path / "misspelt.yaml", ["max_step: 3"])
    (tmp_path / "nothing").mkdir()
    changes = refusals.fill(*changes)
    arguments = work.pretraining("--output_dir", str(tmp_path / "out"), *changes)
    if changes[0] == "--recipe":
        arguments = [*changes, *arguments[2:4]]
    if changes[0] == "--data" and changes[1].endswith(
        (".txt", "nothing")
    ):  # list files and flat folders have no splits
        recipe = (work.root / "pretrain.yaml").read_text().replace("train_split: train\neval_split: validation\n", "")
        (tmp_path / "no_splits.yaml").write_text(recipe)
        arguments = ["--recipe", str(tmp_path / "no_splits.yaml"), *arguments[2:]]
    refusals.check("pretrain", arguments, message)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--data", "{tmp}/unlabelled"], "The videos have no labels"),
        (["--data", "{tmp}/one_class"], "needs at least two classes, the data has ['a']"),
        (["--test_split", "nowhere"], "There is no split 'nowhere'"),
        (["--data", "{tmp}/other", "--test_split", "mine"], "class 0 is 'b' in the data and 'a' in the model"),
        (
            ["--model_name_or_path", "{tmp}/nowhere"],
            "There is no folder '{tmp}/nowhere', given as `--model_name_or_path`",
        ),
        (["--model.hidden_size", "32"], "does not fill the encoder: "),
        (["--model.num_hidden_layers", "3"], "does not fill the encoder: "),
        (["--clip_augmentation", "nowhere:f"], "No module named 'nowhere'"),
        (["--clip_augmentation", "json:nowhere"], "Module json has no function 'nowhere'"),
        (["--clip_augmentation", "json"], "Name a function as `module:function`"),
        (["--test_mode", "sparse"], "invalid choice: 'sparse'"),
        (["--layer_decay", "0"], "`--layer_decay` must be above 0"),
    ],
)
def test_finetune_refuses_bad_input(
    work: Work, refusals: Refusals, tmp_path: Path, changes: list[str], message: str
) -> None:
    for name in ("unlabelled/train/1.mp4", "unlabelled/validation/1.mp4", "one_class/train/a/1.mp4",
                 "one_class/validation/a/1.mp4", "other/train/a/1.mp4", "other/train/b/1.mp4",
                 "other/validation/a/1.mp4", "other/mine/b/1.mp4", "other/mine/c/1.mp4"):  # fmt: skip
        write_video(tmp_path / name, 2, 32, 32)
    source = ["--model_name_or_path", str(work.root / "student"), "--output_dir", str(tmp_path / "out")]
    arguments = work.finetuning(*source, *refusals.fill(*changes))
    refusals.check("finetune", arguments, message)
    assert not (tmp_path / "out").exists()  # found before the first step, not after the last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model_name_or_path", "{work}/student"], "student is no trained classifier"),
        (["--model_name_or_path", "{tmp}/nowhere"], "There is no folder '{tmp}/nowhere'"),
        (["--data", "{tmp}/nowhere"], "There is no file or folder '{tmp}/nowhere'"),
        (["--data", "{tmp}/list.txt"], "The data has 100 classes, the model only 8"),
        (
            ["--data", "{tmp}/classes"],
            "1 of the 2 classes of the data are unknown to the model (it has 'right'): 'rihgt'",
        ),
        (["--num_segments", "0"], "`--num_segments` must be at least 1"),
    ],
)
def test_evaluate_refuses_bad_input(
    work: Work, refusals: Refusals, tmp_path: Path, changes: list[str], message: str
) -> None:
    for name in ("classes/left/1.mp4", "classes/rihgt/1.mp4"):
        write_video(tmp_path / name, 2, 32, 32)
    write_list(tmp_path / "list.txt", [f"{work.video()} 99"])
    arguments = ["--model_name_or_path", f"{work.root}/classifier", "--data", f"{work.data}/validation", "--use_cpu",
                 "--output_dir", str(tmp_path / "out")]  # fmt: skip
    refusals.check("evaluate", [*arguments, *refusals.fill(*changes)], message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--videos", "{tmp}/text.mp4"], "None of the videos could be read"),
        (["--model_name_or_path", "{work}/student"], "is no trained classifier"),
        (["--top_k", "0"], "`--top_k` must be at least 1"),
        (["--videos"], "expected at least one argument"),
    ],
)
def test_predict_refuses_bad_input(
    work: Work, refusals: Refusals, tmp_path: Path, changes: list[str], message: str
) -> None:
    text_file(tmp_path / "text.mp4")
    arguments = ["--model_name_or_path", f"{work.root}/classifier", "--videos", work.video(), "--use_cpu"]
    refusals.check("predict", [*arguments, *refusals.fill(*changes)], message)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_output_folder_of_an_earlier_run_is_refused_without_the_flag_to_resume(
    work: Work, refusals: Refusals, tmp_path: Path, name: str
) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    arguments = work.pretraining() if name == "pretrain" else work.finetuning()
    line = refusals.line(name, [*arguments, "--output_dir", str(tmp_path)])
    assert "already holds checkpoints of a run (checkpoint-5)" in line
    assert "`--resume_from_checkpoint`" in line


@pytest.mark.parametrize("name", ["pretrain", "finetune", "evaluate", "predict"])
def test_program_without_arguments_says_what_it_needs(refusals: Refusals, name: str) -> None:
    refusals.check(name, [], "Say what to ")


def test_text_file_given_to_predict_as_a_process_ends_with_one_line(work: Work, tmp_path: Path) -> None:
    text_file(tmp_path / "text.mp4")
    arguments = [
        "--model_name_or_path",
        f"{work.root}/classifier",
        "--videos",
        str(tmp_path / "text.mp4"),
        "--use_cpu",
    ]
    run = run_script("predict", *arguments, check=False)
    assert run.returncode == 2
    assert one_error_line(run.stderr) == "error: None of the videos could be read."
    assert "text.mp4: cannot be read: " in run.stdout
