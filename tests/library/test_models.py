"""The library's tests of models and configs over ours, and over VideoMAE, whose row says what is usual."""

from __future__ import annotations

import copy
import unittest
from typing import Any

import torch
from library_tests.test_configuration_common import ConfigTester
from library_tests.test_modeling_common import ModelTesterMixin
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)

from amd_hf import (
    AMDConfig,
    AMDForActionDetection,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
)
from tests.helpers.models import nested_masks
from tests.library.pipelines import save_tiny_models


class _Tester:
    """What the mixin asks of a model: a tiny config and inputs."""

    batch_size = 3
    image_size = 10
    patch_size = 2
    num_frames = 2
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True
    num_masks = 20  # of the 25 tokens of a clip
    tubelet_size = 2

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.num_tokens = (self.image_size // self.patch_size) ** 2 * (self.num_frames // self.tubelet_size)
        self.seq_length = self.num_tokens

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        pixel_values = torch.rand(self.batch_size, self.num_frames, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": pixel_values}

    def get_config(self) -> Any:
        raise NotImplementedError


class _MaskedTester(_Tester):
    """Of models that see a part of the tokens."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        # The library makes masks of `mask_length`, and expects hidden states of what they leave.
        self.mask_length, self.seq_length = self.num_tokens, self.num_tokens - self.num_masks


class _VideoMAETester(_Tester):
    def get_config(self) -> VideoMAEConfig:
        return VideoMAEConfig(
            image_size=self.image_size, patch_size=self.patch_size, num_frames=self.num_frames, tubelet_size=2,
            hidden_size=self.hidden_size, num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads, intermediate_size=37, decoder_hidden_size=self.hidden_size,
            decoder_intermediate_size=37, decoder_num_attention_heads=self.num_attention_heads,
            decoder_num_hidden_layers=self.num_hidden_layers, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip


class _AMDTester(_Tester):
    def get_config(self) -> AMDConfig:
        return AMDConfig(
            image_size=self.image_size, patch_size=self.patch_size, num_frames=self.num_frames,
            tubelet_size=self.tubelet_size, hidden_size=self.hidden_size, num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads, intermediate_size=37, decoder_hidden_size=self.hidden_size,
            decoder_num_attention_heads=self.num_attention_heads, decoder_num_hidden_layers=self.num_hidden_layers,
            teacher_hidden_size=None, drop_path_rate=0.0,
        )  # fmt: skip


class _ImageTester(_AMDTester):
    num_frames, tubelet_size = 1, 1


class _MaskedVideoMAETester(_MaskedTester, _VideoMAETester): ...


class _MaskedAMDTester(_MaskedTester, _AMDTester): ...


class _StudentTester(_MaskedAMDTester):
    """A student with alignment modules: the mixin feeds it both masks."""

    def get_config(self) -> AMDConfig:
        config = super().get_config()
        lists = {f"{who}_{kind}_layers": [1, 2] for who in ("student", "teacher") for kind in ("direct", "generation")}
        return AMDConfig(
            **{**config.to_diff_dict(), **lists, "teacher_hidden_size": 64, "generator_num_hidden_layers": 1}
        )


save_tiny_models(
    [
        VideoMAEForVideoClassification(_VideoMAETester(None).get_config()),
        AMDForVideoClassification(_AMDTester(None).get_config()),
        AMDForImageClassification(_ImageTester(None).get_config()),
    ]
)
# It reads where the tiny models are when it is imported.
from library_tests import test_pipeline_mixin  # noqa: E402


for task in ("video", "image"):
    kind = f"{task.capitalize()}ClassificationPipelineTests"
    test_pipeline_mixin.pipeline_test_mapping[f"{task}-classification"] = {"test": f"tests.library.pipelines.{kind}"}


class _ModelTests(ModelTesterMixin):
    """Shared by all: no embeddings of words to resize, and the tests of configs."""

    inputs_class: type[_Tester]
    config_class: type
    test_resize_embeddings = False

    def setUp(self) -> None:
        self.model_tester = self.inputs_class(self)
        self.config_tester = ConfigTester(
            self, config_class=self.config_class, has_text_modality=False, hidden_size=32, num_attention_heads=4
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = copy.deepcopy(inputs_dict)
        tester, batch_size = self.model_tester, len(inputs["pixel_values"])  # the library changes it in some tests
        name = model_class.__name__
        if "ForPreTraining" in name:
            student, teacher = nested_masks(tester.num_tokens, tester.num_masks, 8, batch_size=batch_size)
            inputs["bool_masked_pos"] = student
            if isinstance(tester, _StudentTester):
                inputs["teacher_bool_masked_pos"] = teacher
        if "Detection" in name:
            size = float(tester.image_size)
            inputs["boxes"] = torch.tensor([0.0, 0.0, size, size]).repeat(batch_size, 1, 1)  # one box a clip
        if return_labels and "Classification" in name:
            inputs["labels"] = torch.zeros(batch_size, dtype=torch.long)
        if return_labels and "Detection" in name:
            inputs["labels"] = torch.zeros(batch_size, 1, tester.get_config().num_labels)
        return inputs

    @unittest.skip("pixels are no words")
    def test_inputs_embeds(self) -> None: ...

    def test_model_get_set_embeddings(self) -> None:
        # As the library's own tests of video models have it: what takes the pixels in is any module.
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            assert isinstance(model.get_input_embeddings(), torch.nn.Module)
            assert model.get_output_embeddings() is None


class _AMDTests(_ModelTests):
    inputs_class, config_class = _AMDTester, AMDConfig


class VideoMAEModelTest(_ModelTests, unittest.TestCase):
    inputs_class, config_class, all_model_classes = _VideoMAETester, VideoMAEConfig, (VideoMAEModel,)


class VideoMAEForPreTrainingTest(_ModelTests, unittest.TestCase):
    inputs_class, config_class, all_model_classes = _MaskedVideoMAETester, VideoMAEConfig, (VideoMAEForPreTraining,)


class VideoMAEForVideoClassificationTest(_ModelTests, test_pipeline_mixin.PipelineTesterMixin, unittest.TestCase):
    inputs_class, config_class = _VideoMAETester, VideoMAEConfig
    all_model_classes = (VideoMAEForVideoClassification,)
    pipeline_model_mapping = {"video-classification": VideoMAEForVideoClassification}


class _EncoderTester(_AMDTester):
    is_training = False  # it has no loss; the library tells its own encoders by their names


class AMDModelTest(_AMDTests, unittest.TestCase):
    inputs_class, all_model_classes = _EncoderTester, (AMDModel,)


class AMDForPreTrainingTest(_AMDTests, unittest.TestCase):
    inputs_class = _MaskedAMDTester
    all_model_classes = (AMDForPreTraining,)


class AMDForPreTrainingWithTeacherTest(_AMDTests, unittest.TestCase):
    inputs_class = _StudentTester
    all_model_classes = (AMDForPreTraining,)


class AMDForVideoClassificationTest(_AMDTests, test_pipeline_mixin.PipelineTesterMixin, unittest.TestCase):
    all_model_classes = (AMDForVideoClassification,)
    pipeline_model_mapping = {"video-classification": AMDForVideoClassification}


class AMDForImageClassificationTest(_AMDTests, test_pipeline_mixin.PipelineTesterMixin, unittest.TestCase):
    inputs_class = _ImageTester
    all_model_classes = (AMDForImageClassification,)
    pipeline_model_mapping = {"image-classification": AMDForImageClassification}


class AMDForActionDetectionTest(_AMDTests, unittest.TestCase):
    all_model_classes = (AMDForActionDetection,)
