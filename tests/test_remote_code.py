"""Saved folders as Hub remote code: they load where the package is not installed, with the package's answers.

The slow test makes an environment without the package. By default it shares the libraries installed here, which takes
no download: a folder of links to all of them but `amd_hf`. With AMD_FRESH_INSTALL=1 it installs transformers, torch,
torchvision and av from the package index (gigabytes), as a user would:

AMD_FRESH_INSTALL=1 python -m pytest -m slow tests/test_remote_code.py
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForVideoClassification, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import amd_hf
from amd_hf import AMDForActionDetection, AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDVideoProcessor
from tests.helpers.hub import CODE
from tests.helpers.models import nested_masks, random_clips, randomize, tiny_config
from tests.helpers.videos import write_video
from tests.helpers.without_package import python_without_package


_AUTO_MAP = {
    "AutoConfig": "configuration_amd.AMDConfig",
    "AutoModel": "modeling_amd.AMDModel",
    "AutoModelForPreTraining": "modeling_amd.AMDForPreTraining",
    "AutoModelForVideoClassification": "modeling_amd.AMDForVideoClassification",
    "AutoModelForImageClassification": "modeling_amd.AMDForImageClassification",
}

# Runs without the package: loads every folder by the Auto classes and writes down what it finds.
_PROGRAM = """
import importlib.util, json, sys
assert importlib.util.find_spec("amd_hf") is None, "the package is installed here"
import torch
from transformers import (
    AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification, AutoVideoProcessor, pipeline,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

inputs = torch.load("inputs.pt")
trust = {"trust_remote_code": True}
outcome = {}
config = AutoConfig.from_pretrained("classifier", **trust)
names = [type(config).__name__]
with torch.no_grad():
    encoder = AutoModel.from_pretrained("encoder", **trust).eval()
    outcome["encoder"] = encoder(inputs["clips"]).last_hidden_state
    pretrained = AutoModelForPreTraining.from_pretrained("pretraining", **trust).eval()
    outputs = pretrained(inputs["clips"], inputs["student"], inputs["teacher"])
    outcome["pretraining"] = outputs.logits
    outcome["generated"] = outputs.generated_features[0]
    outcome["encoder_of_pretraining"] = (
        AutoModel.from_pretrained("pretraining", **trust).eval()(inputs["clips"]).last_hidden_state
    )
    classifier = AutoModelForVideoClassification.from_pretrained("classifier", **trust).eval()
    outcome["classifier"] = classifier(inputs["clips"]).logits
    detector_class = get_class_from_dynamic_module("modeling_amd_detection.AMDForActionDetection", "detector")
    detector = detector_class.from_pretrained("detector").eval()
    outcome["detector"] = detector(inputs["clips"], inputs["boxes"]).logits
    processor = AutoVideoProcessor.from_pretrained("classifier", **trust)
    outcome["pixels"] = processor("video.mp4", return_tensors="pt")["pixel_values"]
names += [type(part).__name__ for part in (encoder, pretrained, classifier, detector, processor)]
classify = pipeline("video-classification", model="classifier", trust_remote_code=True)
answers = classify("video.mp4", top_k=2)
classifier.save_pretrained("saved_again")
torch.save(outcome, "outcome.pt")
modules = sorted(name for name in sys.modules if name.split(".")[0] == "amd_hf")
print("OUTCOME" + json.dumps({"names": names, "answers": answers, "modules": modules}))
"""


def _save(model: torch.nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)
    AMDVideoProcessor.for_model(model.config, sampling_rate=2).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_environment_without_the_package_loads_every_folder(tmp_path: Path) -> None:
    python = python_without_package(tmp_path / "venv")
    work = tmp_path / "work"
    work.mkdir()
    config = tiny_config(image_size=16, num_labels=3)
    models = {
        "encoder": AMDModel(config),
        "pretraining": AMDForPreTraining(config),
        "classifier": AMDForVideoClassification(config),
        "detector": AMDForActionDetection(config),
    }
    for name, model in models.items():
        _save(randomize(model).eval(), work / name)
    clips = random_clips(config)
    counts = [config.num_masked_patches(ratio) for ratio in (config.student_mask_ratio, config.teacher_mask_ratio)]
    student, teacher = nested_masks(config.num_patches, *counts)
    boxes = [torch.tensor([[1.0, 2.0, 9.0, 12.0], [0.0, 0.0, 15.0, 15.0]]), torch.zeros(0, 4)]
    torch.save({"clips": clips, "student": student, "teacher": teacher, "boxes": boxes}, work / "inputs.pt")
    video = write_video(work / "video.mp4", num_frames=20, height=32, width=48)
    (work / "program.py").write_text(_PROGRAM)

    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "program.py"], cwd=work, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.split("OUTCOME")[1])
    assert found["modules"] == []
    assert found["names"] == [
        "AMDConfig",
        "AMDModel",
        "AMDForPreTraining",
        "AMDForVideoClassification",
        "AMDForActionDetection",
        "AMDVideoProcessor",
    ]
    outcome = torch.load(work / "outcome.pt")
    processor = AMDVideoProcessor.from_pretrained(work / "classifier")
    with torch.no_grad():
        pretrained = models["pretraining"](clips, student, teacher)
        expected = {
            "encoder": models["encoder"](clips).last_hidden_state,
            "pretraining": pretrained.logits,
            "generated": pretrained.generated_features[0],
            "encoder_of_pretraining": models["pretraining"].amd(clips).last_hidden_state,
            "classifier": models["classifier"](clips).logits,
            "detector": models["detector"](clips, boxes).logits,
            "pixels": processor(str(video), return_tensors="pt")["pixel_values"],
        }
    assert outcome.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(outcome[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    ours = pipeline("video-classification", model=str(work / "classifier"))(str(video), top_k=2)
    assert [answer["label"] for answer in found["answers"]] == [answer["label"] for answer in ours]
    assert [answer["score"] for answer in found["answers"]] == pytest.approx([a["score"] for a in ours], rel=1e-4)
    # A folder saved from there is whole again.
    again = AutoModelForVideoClassification.from_pretrained(work / "saved_again").eval()
    assert torch.equal(again(clips).logits, models["classifier"](clips).logits)
    assert (work / "saved_again" / "modeling_amd.py").is_file()


@pytest.mark.parametrize("kind", [AMDModel, AMDForPreTraining, AMDForVideoClassification])
def test_saved_folder_brings_its_code_and_says_where(kind: type, tmp_path: Path) -> None:
    _save(kind(tiny_config(image_size=16)), tmp_path)
    package = Path(__file__).parents[1] / "amd_hf"
    for name in CODE:
        assert (tmp_path / name).read_text() == (package / name).read_text()
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == _AUTO_MAP
    processor = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert processor["auto_map"] == {"AutoVideoProcessor": "video_processing_amd.AMDVideoProcessor"}


def test_saved_detector_brings_its_code_and_is_loaded_by_the_name_of_its_class(tmp_path: Path) -> None:
    model = randomize(AMDForActionDetection(tiny_config(image_size=16))).eval()
    _save(model, tmp_path)
    package = Path(__file__).parents[1] / "amd_hf"
    for name in [*CODE, "modeling_amd_detection.py"]:
        assert (tmp_path / name).read_text() == (package / name).read_text()
    reference = "modeling_amd_detection.AMDForActionDetection"
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {**_AUTO_MAP, "AMDForActionDetection": reference}
    loaded = get_class_from_dynamic_module(reference, str(tmp_path)).from_pretrained(tmp_path).eval()
    assert type(loaded) is not AMDForActionDetection
    clips, boxes = random_clips(model.config), [torch.tensor([[1.0, 2.0, 9.0, 12.0]])] * 2
    with torch.no_grad():
        assert torch.equal(loaded(clips, boxes).logits, model(clips, boxes).logits)


def test_config_of_an_earlier_version_gets_its_map(tmp_path: Path) -> None:
    tiny_config().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["auto_map"] = {"AutoModel": "my_model.MyModel"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert AutoConfig.from_pretrained(tmp_path).auto_map == _AUTO_MAP  # only our code: see tests/security


def test_local_classes_are_used_where_the_package_is_installed(tmp_path: Path) -> None:
    _save(AMDForVideoClassification(tiny_config()), tmp_path)
    for trust in (None, False, True):
        loaded = AutoModelForVideoClassification.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(loaded) is AMDForVideoClassification


def test_subclass_elsewhere_is_saved_without_code(tmp_path: Path) -> None:
    """Its module may import what does not travel; it names its own way to be found, or none."""

    class Subclass(AMDForVideoClassification):
        pass

    Subclass(tiny_config()).save_pretrained(tmp_path)
    assert not (tmp_path / Path(__file__).name).exists()
    assert AMDForVideoClassification.from_pretrained(tmp_path)


def test_code_that_travels_imports_no_library_that_may_be_missing() -> None:
    """Transformers looks for imports outside of `try` and refuses to load the folder where one is missing."""
    from transformers.dynamic_module_utils import get_imports

    package = Path(__file__).parents[1] / "amd_hf"
    imported = {name for file in [*CODE, "modeling_amd_detection.py"] for name in get_imports(package / file)}
    third_party = imported - set(sys.stdlib_module_names)
    assert third_party <= {"torch", "torchvision", "transformers", "huggingface_hub", "numpy"}


def test_code_that_travels_says_its_licence_and_release(tmp_path: Path) -> None:
    package = Path(__file__).parents[1] / "amd_hf"
    for file in [*CODE, "modeling_amd_detection.py"]:
        head = (package / file).read_text()[:500]
        assert "Apache License, Version 2.0" in head, file
        assert f"This file is of amd_hf {amd_hf.__version__}." in head, file
    tiny_config().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["amd_hf_version"] == amd_hf.__version__
    # What wrote a file is to be read; what is written again is of the code that writes.
    (tmp_path / "config.json").write_text(json.dumps({**written, "amd_hf_version": "0.0.1"}))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.amd_hf_version == "0.0.1"
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["amd_hf_version"] == amd_hf.__version__


def test_code_that_travels_takes_no_private_name_of_another_package() -> None:
    """Such names may be gone in the next release of PyTorch or Transformers, and saved folders live longer."""
    package = Path(__file__).parents[1] / "amd_hf"
    for file in [*CODE, "modeling_amd_detection.py"]:
        tree = ast.parse((package / file).read_text())
        modules = {
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        foreign = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
        modules |= {alias.asname or alias.name for node in foreign for alias in node.names}
        imported = [part for node in foreign for part in [*node.module.split("."), *(a.name for a in node.names)]]
        used = [
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node).partition(".")[0] in modules
        ]
        private = [name for name in [*imported, *used] if name.startswith("_") and name != "__future__"]
        assert not private, f"{file}: {private}"
