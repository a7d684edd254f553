"""The library's tests of video processors over ours, and over VideoMAE's."""

from __future__ import annotations

import unittest
from typing import Any

from library_tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs
from transformers import VideoMAEVideoProcessor

from amd_hf import AMDVideoProcessor


class _Tester:
    """What the mixin asks of a processor: settings, inputs and the shape that is to come out."""

    batch_size, num_channels, num_frames = 5, 3, 8
    min_resolution, max_resolution = 80, 400

    def expected_output_video_shape(self, videos: list[Any]) -> list[int]:
        return [self.num_frames, self.num_channels, 18, 18]

    def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil") -> list[Any]:
        return prepare_video_inputs(
            batch_size=self.batch_size, num_frames=self.num_frames, num_channels=self.num_channels,
            min_resolution=self.min_resolution, max_resolution=self.max_resolution,
            equal_resolution=equal_resolution, return_tensors=return_tensors,
        )  # fmt: skip


class _ProcessorTests(VideoProcessingTestMixin):
    input_name = "pixel_values"

    def setUp(self) -> None:
        super().setUp()
        self.video_processor_tester = _Tester()

    @property
    def video_processor_dict(self) -> dict[str, Any]:
        return {
            "do_resize": True, "size": {"shortest_edge": 20}, "do_center_crop": True,
            "crop_size": {"height": 18, "width": 18}, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "do_convert_rgb": True,
        }  # fmt: skip


class VideoMAEVideoProcessorTest(_ProcessorTests, unittest.TestCase):
    fast_video_processing_class = VideoMAEVideoProcessor


class AMDVideoProcessorTest(_ProcessorTests, unittest.TestCase):
    fast_video_processing_class = AMDVideoProcessor

    @property
    def video_processor_dict(self) -> dict[str, Any]:
        # Ours makes clips of one length; VideoMAE's takes all that it gets.
        return {**super().video_processor_dict, "num_frames": self.video_processor_tester.num_frames}
