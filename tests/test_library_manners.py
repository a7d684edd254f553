"""What the library expects of every model, config and processor: the short form of `make test-library`.

Each kind of model is one that earlier code saved, with biases of std 1, and its outputs are that code's.
"""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoVideoProcessor
from transformers.initialization import no_init_weights

from amd_hf import AMDConfig, AMDVideoProcessor
from tests.helpers.saved import KINDS, SavedModel, saved_model


@pytest.fixture(params=KINDS)
def saved(request: pytest.FixtureRequest) -> SavedModel:
    return saved_model(request.param)


@pytest.fixture
def model(saved: SavedModel) -> nn.Module:
    return saved.model_class.from_pretrained(saved.folder)


def _weights(saved: SavedModel) -> dict[str, torch.Tensor]:
    return load_file(saved.folder / "model.safetensors")


def _config(saved: SavedModel) -> AMDConfig:
    return AMDConfig.from_pretrained(saved.folder)


# ---------------------------------------------------------------------------------------------------------------------
# Save, load
# ---------------------------------------------------------------------------------------------------------------------


def test_saved_folder_gives_what_it_gave_then(saved: SavedModel, model: nn.Module, tmp_path: Path) -> None:
    assert max(parameter.std() for name, parameter in model.named_parameters() if name.endswith("bias")) > 0.5
    saved.check(model)
    model.save_pretrained(tmp_path)
    saved.check(saved.model_class.from_pretrained(tmp_path))
    assert load_file(tmp_path / "model.safetensors").keys() == _weights(saved).keys()


def test_encoder_of_every_folder_is_the_same(saved: SavedModel, model: nn.Module) -> None:
    encoder = AutoModel.from_pretrained(saved.folder, use_final_norm=model.config.use_final_norm)
    own = getattr(model, "amd", model)
    with torch.no_grad():
        found, expected = (part(saved.inputs["pixel_values"]).last_hidden_state for part in (encoder, own))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_copies_are_equal_and_share_nothing(saved: SavedModel, model: nn.Module) -> None:
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for twin in twins:
        saved.check(twin)


# ---------------------------------------------------------------------------------------------------------------------
# Models that are made without their numbers
# ---------------------------------------------------------------------------------------------------------------------


def test_model_without_initial_weights_is_right_once_it_has_its_own(saved: SavedModel) -> None:
    with no_init_weights():
        model = saved.model_class(_config(saved))
    model.load_state_dict(_weights(saved))
    saved.check(model)


@pytest.mark.parametrize("spoil", [torch.nan, 1e9])
def test_model_made_on_meta_is_right_once_it_has_its_weights(saved: SavedModel, spoil: float) -> None:
    with torch.device("meta"):
        model = saved.model_class(_config(saved))
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):  # what `to_empty` leaves may be right by chance
            tensor.fill_(spoil)
    model.load_state_dict(_weights(saved))
    saved.check(model)


def test_model_made_on_meta_takes_the_tensors_of_a_file_as_its_own(saved: SavedModel) -> None:
    with torch.device("meta"):
        model = saved.model_class(_config(saved))
    model.load_state_dict(_weights(saved), assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    saved.check(model)


def test_initialising_again_mends_what_no_file_holds(saved: SavedModel, model: nn.Module) -> None:
    """Transformers empties buffers that are not in a file, and asks `_init_weights` to fill them."""
    parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.fill_(torch.nan)
        for module in model.modules():
            model._init_weights(module)
        for name, parameter in model.named_parameters():  # not `load_state_dict`, which fills the buffers too
            parameter.copy_(parameters[name])
    saved.check(model)


# ---------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------


def test_ways_of_attention_agree(saved: SavedModel, model: nn.Module) -> None:
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        saved.check(model)


def test_tuple_holds_what_the_output_by_name_holds(saved: SavedModel, model: nn.Module) -> None:
    with torch.no_grad():
        named, plain = model(**saved.inputs), model(**saved.inputs, return_dict=False)
    assert isinstance(plain, tuple)
    for one, other in zip(named.to_tuple(), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_hidden_states_and_attentions_come_where_asked(saved: SavedModel, model: nn.Module) -> None:
    model.set_attn_implementation("eager")
    config = model.config
    with torch.no_grad():
        silent = model(**saved.inputs)
        outputs = model(**saved.inputs, output_hidden_states=True, output_attentions=True)
    assert silent.hidden_states is silent.attentions is None
    assert len(outputs.hidden_states) == config.num_hidden_layers + 1
    num_tokens = outputs.hidden_states[0].shape[1]
    assert {tensor.shape for tensor in outputs.hidden_states} == {(2, num_tokens, config.hidden_size)}
    for attention in outputs.attentions[: config.num_hidden_layers]:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, config.num_attention_heads, num_tokens))


def test_clips_do_not_see_each_other(saved: SavedModel, model: nn.Module) -> None:
    whole = saved.outputs(model)
    for number in range(2):
        one = {name: tensor[number : number + 1] for name, tensor in saved.inputs.items()}
        with torch.no_grad():
            alone = model(**one)
        for name in {"last_hidden_state", "logits"} & whole.keys():
            expected = whole[name].chunk(2)[number]  # of a detector the boxes of a clip
            torch.testing.assert_close(alone[name], expected, rtol=1e-5, atol=1e-5)


def test_checkpointing_of_gradients_changes_none(saved: SavedModel, model: nn.Module) -> None:
    gradients = []
    for turn_on in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        turn_on()
        model.train().zero_grad()
        saved.objective(model).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == len(list(model.parameters()))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Config
# ---------------------------------------------------------------------------------------------------------------------


def test_config_survives_every_way_of_writing_it(saved: SavedModel, tmp_path: Path) -> None:
    config = _config(saved)
    config.save_pretrained(tmp_path)
    config.to_json_file(tmp_path / "whole.json", use_diff=False)
    again = [
        AMDConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        AMDConfig.from_json_file(tmp_path / "whole.json"),
        AMDConfig.from_dict(config.to_dict()),
        AMDConfig(**config.to_diff_dict()),
        copy.deepcopy(config),
    ]
    expected = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    for other in again:
        assert {name: value for name, value in other.to_dict().items() if not name.startswith("_")} == expected


def test_labels_of_a_config_follow_each_other() -> None:
    config = AMDConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config = AMDConfig(id2label={0: "early", 1: "late"}, label2id={"early": 0, "late": 1})
    assert config.num_labels == 2


# ---------------------------------------------------------------------------------------------------------------------
# Processor
# ---------------------------------------------------------------------------------------------------------------------


def test_processor_survives_every_way_of_writing_it(tmp_path: Path) -> None:
    processor = AMDVideoProcessor(size=20, crop_size=18, num_frames=3, image_mean=[0.5] * 3, do_rescale=None)
    assert (processor.size, processor.crop_size) == ({"shortest_edge": 20}, {"height": 18, "width": 18})
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert {name: written[name] for name in ("num_frames", "do_rescale", "do_convert_rgb")} == {
        "num_frames": 3, "do_rescale": None, "do_convert_rgb": True,
    }  # fmt: skip
    for other in (AutoVideoProcessor.from_pretrained(tmp_path), AMDVideoProcessor(**written)):
        assert other.to_dict() == processor.to_dict()
    assert AutoVideoProcessor.from_pretrained(tmp_path, size=42).size == {"shortest_edge": 42}


def test_processors_share_no_settings() -> None:
    one, other = AMDVideoProcessor(), AMDVideoProcessor()
    one.size["shortest_edge"] = one.crop_size["height"] = -1
    for processor in (other, AMDVideoProcessor()):
        assert (processor.size, processor.crop_size["height"]) == ({"shortest_edge": 224}, 224)


@pytest.mark.parametrize("form", ["arrays", "lists", "tensors"])
def test_processor_makes_one_batch_of_videos_of_any_size(form: str) -> None:
    processor = AMDVideoProcessor(size=20, crop_size=18, num_frames=3)
    sizes = [(30, 40), (40, 30), (18, 90)]
    videos: list[Any] = [np.full((3, *size, 3), 50 * (i + 1), dtype=np.uint8) for i, size in enumerate(sizes)]
    if form == "lists":
        videos = [list(video) for video in videos]
    if form == "tensors":
        videos = [torch.from_numpy(video).permute(0, 3, 1, 2) for video in videos]
    pixels = processor(videos, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (3, 3, 3, 18, 18)
    torch.testing.assert_close(pixels.flatten(1).mean(1), torch.tensor([50, 100, 150]) / 255, rtol=1e-5, atol=0)
    assert processor(videos[0], return_tensors="pt")["pixel_values"].shape == (1, 3, 3, 18, 18)
    assert len(processor(videos)["pixel_values"]) == 3
