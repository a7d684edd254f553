"""Pages of the paper's model zoo: figures, metadata, code samples, and that they are up to date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import amd_hf
from amd_hf import AMDForPreTraining, AMDForVideoClassification
from amd_hf.flops import count_flops
from amd_hf.hub.cards import card_problems, hub_id_or_none, is_weights_licence_unknown
from amd_hf.hub.privacy import absolute_paths, hide_paths, private_parts
from amd_hf.models import build_processor
from tests.helpers.images import image_config
from tests.helpers.models import tiny_config
from tests.helpers.training import load_script
from tests.helpers.videos import write_video
from tools.zoo import ZooModel, load_zoo, measure, model_table, render_page


_ROOT = Path(__file__).parents[2]
_ZOO = load_zoo()
_NAMES = list(_ZOO.models)

# Data, model, epochs, clips x crops, figures that the authors report. AVA: without and with the labels of K400.
_REPORTED = {
    "amd-vit-small-ssv2-finetuned": ("Something-Something V2", "ViT-S", 40, (2, 3), [70.2, 92.5]),
    "amd-vit-base-ssv2-finetuned": ("Something-Something V2", "ViT-B", 30, (2, 3), [73.3, 94.0]),
    "amd-vit-small-k400-finetuned": ("Kinetics-400", "ViT-S", 150, (5, 3), [80.1, 94.5]),
    "amd-vit-base-k400-finetuned": ("Kinetics-400", "ViT-B", 90, (5, 3), [82.2, 95.3]),
    "amd-vit-base-ucf101": ("UCF101", "ViT-B", 100, (5, 3), [97.1]),
    "amd-vit-base-hmdb51": ("HMDB51", "ViT-B", 50, (5, 3), [79.6]),
    "amd-vit-base-ava": ("AVA 2.2", "ViT-B", 30, (1, 1), [29.9]),
    "amd-vit-base-ava-k400-labels": ("AVA 2.2", "ViT-B", 30, (1, 1), [33.5]),
    "amd-vit-small-in1k-finetuned": ("ImageNet-1K", "ViT-S", 100, (1, 1), [82.1]),
    "amd-vit-base-in1k-finetuned": ("ImageNet-1K", "ViT-B", 100, (1, 1), [84.6]),
}


def _page(name: str) -> str:
    return (_ROOT / "model_cards" / f"{name}.md").read_text()


def _model(name: str) -> ZooModel:
    return _ZOO.models[name]


# ---- Facts ----


def test_figures_are_those_of_the_design() -> None:
    assert {name for name in _NAMES if not name.endswith("-pretrained")} == _REPORTED.keys()
    for name, (data, size, epochs, views, figures) in _REPORTED.items():
        model = _model(name)
        assert (model.data.title, model.size["title"], model.epochs) == (data, size, epochs)
        assert (model.test["num_segments"], model.test["num_crops"]) == views
        assert list(model.results.values()) == figures


def test_every_data_set_has_its_pretrained_models() -> None:
    pretrained = {
        f"amd-vit-{size}-{data}-pretrained" for size in ("small", "base") for data in ("ssv2", "k400", "in1k")
    }
    assert {name for name in _NAMES if name.endswith("-pretrained")} == pretrained
    assert all(_model(name).epochs == 800 and not _model(name).results for name in pretrained)


def test_teachers_are_those_of_the_design() -> None:
    teachers = {_model(name).data.title: _model(name).teacher for name in _NAMES if name.endswith("-pretrained")}
    assert teachers["Kinetics-400"].hub_id == "MCG-NJU/videomae-large"
    assert "CC-BY-NC 4.0" in teachers["Kinetics-400"].licence
    assert teachers["Something-Something V2"].hub_id is None  # of which no page of the Hub is known
    assert "2400 epochs" in teachers["Something-Something V2"].title
    assert teachers["ImageNet-1K"].hub_id == "facebook/vit-mae-large"


@pytest.mark.parametrize("name", [name for name in _NAMES if _model(name).task == "pretraining"])
def test_recipe_of_pretraining_has_the_facts_of_the_page(name: str) -> None:
    model = _model(name)
    if not (_ROOT / model.recipe).is_file():
        pytest.skip(f"{model.recipe} is not part of the package yet")
    recipe = yaml.safe_load((_ROOT / model.recipe).read_text())
    assert recipe["num_train_epochs"] * recipe["num_repetitions"] == model.epochs
    assert recipe["sampling_rate"] == (model.sampling_rate or 1)  # images have none
    assert recipe.get("teacher") == model.teacher.hub_id
    sizes = {name: value for name, value in model.size.items() if name != "title"}
    assert {name: recipe["model"][name] for name in sizes} == sizes


@pytest.mark.parametrize("name", [name for name in _NAMES if _model(name).task == "classification"])
def test_recipe_has_the_epochs_and_views_of_the_page(name: str) -> None:
    model = _model(name)
    if not (_ROOT / model.recipe).is_file():
        pytest.skip(f"{model.recipe} is not part of the package yet")
    recipe = yaml.safe_load((_ROOT / model.recipe).read_text())
    assert recipe["num_train_epochs"] == model.epochs
    views = {name.removeprefix("test_"): recipe[name] for name in recipe if name.startswith("test_num_")}
    assert views == {"num_segments": model.test["num_segments"], "num_crops": model.test["num_crops"]}
    assert recipe["model"]["hidden_size"] == model.size["hidden_size"]


def test_sizes_are_those_of_models_with_weights() -> None:
    model = _model("amd-vit-small-k400-pretrained")
    whole = AMDForPreTraining(model.config())
    sizes = measure(model)
    assert sizes.parameters == sum(p.numel() for p in whole.parameters())
    assert sizes.encoder_parameters == sum(p.numel() for p in whole.amd.parameters())
    # The paper's 57 and 180 billion count a multiply and an add as one (its table of Kinetics-400).
    assert round(sizes.flops / 2e9) == 57
    assert round(measure(_model("amd-vit-base-k400-finetuned")).flops / 2e9) == 180


def test_operations_on_the_meta_device_are_those_on_the_cpu() -> None:
    with torch.device("meta"):
        without_weights = AMDForVideoClassification(tiny_config(attn_implementation="eager"))
    assert count_flops(without_weights) == count_flops(AMDForVideoClassification(tiny_config()))


# ---- Pages ----


def test_pages_and_table_are_up_to_date() -> None:
    load_script("make_model_cards").main(["--check"])


def test_check_names_a_page_that_was_changed(tmp_path: Path) -> None:
    program = load_script("make_model_cards")
    marks = "\n".join(program.TABLE_MARKS)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "models.md").write_text(f"before\n{marks}\nafter\n")
    assert len(program.main(["--root", str(tmp_path)])) == len(_NAMES) + 1
    assert not program.main(["--root", str(tmp_path), "--check"])
    page = tmp_path / "model_cards" / "amd-vit-base-ucf101.md"
    page.write_text(page.read_text().replace("97.1", "98.1"))
    with pytest.raises(ValueError, match=r"Not up to date: model_cards/amd-vit-base-ucf101.md\."):
        program.main(["--root", str(tmp_path), "--check"])
    (tmp_path / "docs" / "models.md").write_text("no marks")
    with pytest.raises(ValueError, match="once each"):
        program.main(["--root", str(tmp_path)])


@pytest.mark.parametrize("name", _NAMES)
def test_page_states_its_figures_as_the_authors(name: str) -> None:
    model, page = _model(name), _page(name)
    figures = _REPORTED[model.finetuned or name][4]
    table = re.findall(r"^\| .+ \| (?:top-\d accuracy|mAP) \| ([\d.]+)% \|", page, flags=re.MULTILINE)
    assert [float(figure) for figure in table] == figures
    results = ModelCard(page).data.eval_results
    assert [result.metric_value for result in results] == figures
    assert all(result.source_name == "Reported by the authors" and not result.verified for result in results)
    assert "Reported by the authors of the paper, not measured by amd_hf." in page
    # Every percentage of the page is one of them.
    assert {float(figure) for figure in re.findall(r"([\d.]+)%", page)} == set(figures)


@pytest.mark.parametrize("name", _NAMES)
def test_metadata_is_valid_and_tells_code_from_weights(name: str) -> None:
    model, page = _model(name), _page(name)
    assert card_problems(page) == []
    data = ModelCard(page).data
    assert data.library_name == "transformers"
    assert data.base_model == model.teacher.hub_id
    assert model.data.hub_id in data.datasets
    assert (data.license, data.code_license, data.weights_license) == ("other", "apache-2.0", "not stated")
    assert is_weights_licence_unknown(data)
    assert "gives no licence for its code" in page
    assert model.teacher.licence in page


@pytest.mark.parametrize("name", _NAMES)
def test_page_names_only_recipes_and_programs_that_exist(name: str) -> None:
    model, page = _model(name), _page(name)
    is_there = (_ROOT / model.recipe).is_file()
    assert ("is not part of amd_hf yet" in page.split("## Train it")[1]) != is_there
    for command in re.findall(r"```bash\n(.+?)```", page, flags=re.DOTALL):
        for path in re.findall(r"(?:scripts|configs)/\S+", command):
            assert (_ROOT / path).is_file(), path
    assert ("Download it, then" in page) == (model.checkpoint is not None)
    assert ("any other tensor is refused by name" in page) == model.is_image  # files whose names nobody here has seen


def test_page_of_a_recipe_that_does_not_exist_says_so(tmp_path: Path) -> None:
    model = _model("amd-vit-base-k400-finetuned")
    assert "is not part of amd_hf yet" in render_page(model, _ZOO, tmp_path, amd_hf.__all__)
    assert "not yet" in model_table(_ZOO, tmp_path)


def test_page_of_a_class_that_does_not_exist_says_so() -> None:
    page = render_page(_model("amd-vit-base-ava"), _ZOO, _ROOT, ["AMDModel"])
    assert "amd_hf has no `AMDForActionDetection` yet" in page


@pytest.mark.parametrize("name", _NAMES)
def test_code_sample_runs_on_a_stand_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model(name)
    kind = getattr(amd_hf, model.class_name, None)
    if kind is not None:
        stand_in = kind(image_config() if model.is_image else tiny_config(image_size=16))
        stand_in.save_pretrained(tmp_path / name)
        build_processor(stand_in.config).save_pretrained(tmp_path / name)
    Image.new("RGB", (48, 32)).save(tmp_path / "image.png")
    write_video(tmp_path / "video.mp4", num_frames=20, height=32, width=48)
    (sample,) = re.findall(r"```python\n(.+?)```", _page(name), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(sample, name, "exec"), {})
    said = capsys.readouterr().out
    assert "score" in said if "pipeline" in sample else "torch.Size([1," in said


# ---- Checks of a card ----

_VALID = {"library_name": "transformers", "pipeline_tag": "video-classification", "tags": ["amd"]}


def _card(**changes: Any) -> str:
    data = {name: value for name, value in {**_VALID, **changes}.items() if value is not None}
    return f"---\n{yaml.safe_dump(data)}---\n# A model\n"


_RESULT = {"task": {"type": "video-classification"}, "dataset": {"type": "k", "name": "K"}}
_TEXT = {"type": "accuracy", "value": "x"}


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("# A model\n", "does not start with a metadata block"),
        ("---\n- a\n- b\n---\n", "metadata block should be a dict"),
        ("---\na: [\n---\n", "metadata cannot be read"),
        (_card(library_name=None), "`library_name` must be transformers"),
        (_card(pipeline_tag="video-clasification"), "'video-clasification' is no pipeline"),
        (_card(license="other"), "needs `license_name`"),
        (_card(datasets="k400"), "`datasets` must be a list"),
        (_card(datasets=[""]), "`datasets` must be a list of names"),
        (_card(base_model="/home/me/teacher"), "is no id of the Hub"),
        (_card(**{"model-index": [{"name": "m", "results": [{"task": {}}]}]}), "metadata cannot be read"),
        (
            _card(**{"model-index": [{"name": "m", "results": [{**_RESULT, "metrics": [_TEXT]}]}]}),
            "is no number: 'x'",
        ),
    ],
)  # fmt: skip
def test_problem_of_a_card_is_named(card: str, problem: str) -> None:
    (found,) = card_problems(card)
    assert problem in found


def test_valid_card_has_no_problem(tmp_path: Path) -> None:
    assert card_problems(_card(base_model=["MCG-NJU/videomae-large"], license="mit")) == []
    (tmp_path / "README.md").write_text(_card())
    assert card_problems(tmp_path / "README.md") == []


def test_hub_ids_are_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "teacher").mkdir(parents=True)
    assert hub_id_or_none("MCG-NJU/videomae-large") == "MCG-NJU/videomae-large"
    assert [hub_id_or_none(source) for source in ("out/teacher", "teacher", "/a/b", "given as a module", None)] == (
        [None] * 5
    )


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('{"_name_or_path": "/home/me/model"}', ["/home/me/model"]),
        ("--data=/mnt/videos/k400 --x", ["/mnt/videos/k400"]),
        ("see ~/videos and file:///a/b", ["~/videos", "file:///a/b"]),
        (r"C:\Users\me\model", [r"C:\Users\me\model"]),
        ("https://arxiv.org/abs/2311.03149 configs/a/b.yaml top-1 / top-5 </b></i> 16/224/3", []),
    ],
)
def test_absolute_paths_are_found_and_hidden(text: str, paths: list[str]) -> None:
    assert absolute_paths(text) == paths
    assert absolute_paths(hide_paths(text)) == []
    assert hide_paths("from /home/me/videos on") == "from PATH/videos on"


def test_user_name_is_found_outside_of_the_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "marypoppins"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "root")
    assert private_parts("made by marypoppins") == ["the user name marypoppins"]
    assert private_parts("model marypoppins/amd", allowed="marypoppins/amd") == []
    assert private_parts("the root of a tree") == []
