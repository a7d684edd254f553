"""How a model looks at a video: what its processor's file holds, and what belongs to the data sets of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How a model looks at a video or an image. Beside them stand the number of frames and the crop of its config.

    Args:
        sampling_mode (`str`, *optional*): Frames of a clip: `dense`, `spread` or `segments`; see
            `video_sampling_amd`. None: nobody has said.
        sampling_rate (`int`, *optional*, defaults to 4): Step between the frames of a clip, in video frames.
        short_side (`int`, *optional*): Short side of resized frames in pixels; by default the crop's.
        interpolation (`str`, *optional*, defaults to `"bilinear"`): Of resizing, or `bicubic`.
        center_crop (`bool`, *optional*, defaults to `True`): Whether the centre is cut out; detectors take all.
        test_mode (`str`, *optional*): Clips of the model's test: `dense` or `uniform`; see `evaluation_views`. None
            where nobody has said, or there is no such test.
        test_num_segments, test_num_crops (`int`, *optional*): Clips along the video, crops along the long side.
    """

    sampling_mode: str | None = "dense"
    sampling_rate: int = 4
    short_side: int | None = None
    interpolation: str = "bilinear"
    center_crop: bool = True
    test_mode: str | None = None
    test_num_segments: int | None = None
    test_num_crops: int | None = None

    def with_assumptions(self) -> ViewSettings:
        """Return the same with what nobody has said filled in: dense clips, and the test that goes with the clips.

        The test of `segments` is that of Something-Something (uniform, 2 x 3), else that of Kinetics (dense, 5 x 3).
        """
        mode, segments, crops = self.sampling_mode or "dense", self.test_num_segments, self.test_num_crops
        test_mode = self.test_mode or ("uniform" if mode == "segments" else "dense")
        return replace(
            self,
            sampling_mode=mode,
            test_mode=test_mode,
            test_num_segments=(2 if test_mode == "uniform" else 5) if segments is None else segments,
            test_num_crops=3 if crops is None else crops,
        )

    def describe(self, num_frames: int) -> str:
        """Return one line for reports: "segments: 16 frames, one of each of 16 parts; test: uniform 2 x 3"."""
        clips = {
            None: "not known",
            "dense": f"dense: {num_frames} frames, {self.sampling_rate} apart",
            "spread": f"spread: {num_frames} frames over {num_frames * self.sampling_rate}",
            "segments": f"segments: one frame from each of {num_frames} parts of the video",
        }[self.sampling_mode]
        if self.test_mode is None:
            return clips
        return f"{clips}; test: {self.test_mode}, {self.test_num_segments} x {self.test_num_crops} views"


_KINETICS_TEST: dict[str, Any] = {"test_mode": "dense", "test_num_segments": 5, "test_num_crops": 3}
_KINETICS = {
    "pretraining": ViewSettings(sampling_mode="dense", sampling_rate=4),
    "classification": ViewSettings(sampling_mode="spread", sampling_rate=4, **_KINETICS_TEST),
}
_DETECTION = ViewSettings(sampling_mode="dense", sampling_rate=4, short_side=256, center_crop=False)
_IMAGES = ViewSettings(sampling_mode="dense", sampling_rate=1, interpolation="bicubic")

# What models of the paper's data sets were trained and tested with. The recipes in configs/ name the sources.
DATA_SETS: dict[str, dict[str, ViewSettings]] = {
    "k400": _KINETICS,
    "ssv2": {
        "pretraining": ViewSettings(sampling_mode="spread", sampling_rate=2),
        "classification": ViewSettings(
            sampling_mode="segments", test_mode="uniform", test_num_segments=2, test_num_crops=3
        ),
    },
    "ucf101": _KINETICS,
    "hmdb51": _KINETICS,
    "ava": {"detection": _DETECTION},
    "in1k": {
        "pretraining": _IMAGES,
        "classification": replace(_IMAGES, short_side=256, test_mode="dense", test_num_segments=1, test_num_crops=1),
    },
}


def data_set_settings(name: str, task: str) -> ViewSettings:
    """Return how models of a data set look at videos.

    Args:
        name (`str`): One of `DATA_SETS`.
        task (`str`): `pretraining`, `classification` or `detection`.

    Raises:
        ValueError: If there is no such data set, or no such task on it.
    """
    if name not in DATA_SETS:
        raise ValueError(f"`dataset` must be one of {', '.join(DATA_SETS)}, got {name!r}.")
    if task not in DATA_SETS[name]:
        raise ValueError(f"The data set {name} is one of {', '.join(DATA_SETS[name])}, the checkpoint one of {task}.")
    return DATA_SETS[name][task]


def settings_from_dict(values: Mapping[str, Any]) -> ViewSettings:
    """Read settings from a file of ours; fields that this release does not know are passed over."""
    return ViewSettings(
        **{option.name: values[option.name] for option in fields(ViewSettings) if option.name in values}
    )
