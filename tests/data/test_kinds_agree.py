"""A hundred files of every kind: each decoder, the video processor and FFmpeg's own command line show the same frames.

The command line is the judge, because it shares no code with this package. Its frames are compared as they are, 8 bits
of red, green and blue: differences come from the conversion alone, and what FFmpeg's scale filter does is the rule.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amd_hf import AMDVideoProcessor
from amd_hf.data.decoding import open_video
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.video_kinds import KINDS, KindFiles


_TOLERANCE = 2  # of 255

_READERS = (*DECODER_NAMES, "processor")

# ---------------------------------------------------------------------------------------------------------------------
# What is known to be wrong: to be emptied. `*` stands for all readers.
# ---------------------------------------------------------------------------------------------------------------------

_MATRIX = "the display matrix: only turns are understood, by the processor not even those"
_COUNT = "a packet is not a frame"
_PROCESSOR = "the processor reads by itself: header's count, first stream, hidden frames"
_CONVERSION = (
    "PyAV's reformat is no scale filter (bilinear, fields apart): av.filter.Graph with scale=flags=bicubic is"
)

NOT_YET: dict[tuple[str, str], str] = {
    ("rotated_90_mp4", "processor"): _MATRIX,
    ("rotated_180_mp4", "processor"): _MATRIX,
    ("rotated_270_mp4", "processor"): _MATRIX,
    ("rotated_90_mov", "processor"): _MATRIX,
    ("mirrored_left_right_mp4", "*"): _MATRIX,
    ("mirrored_up_down_mp4", "*"): _MATRIX,
    ("transposed_mp4", "*"): _MATRIX,
    ("transposed_other_way_mp4", "*"): _MATRIX,
    ("edit_list_mp4", "processor"): _PROCESSOR,
    ("edit_list_cut_mp4", "processor"): _PROCESSOR,
    ("edit_list_cut_mov", "processor"): _PROCESSOR,
    ("edit_list_both_ends_mp4", "processor"): _PROCESSOR,
    ("early_mov", "processor"): _PROCESSOR,
    ("fragments_behind_a_few_mp4", "processor"): _PROCESSOR,
    ("thumbnail_first_mp4", "processor"): _PROCESSOR,
    ("two_streams_mkv", "processor"): _PROCESSOR,
    ("two_streams_mp4", "processor"): _PROCESSOR,
    ("mpeg4_dropped_avi", "processor"): _PROCESSOR,
    ("mjpeg_dropped_avi", "processor"): _PROCESSOR,
    ("cut_open_mkv", "*"): _COUNT,
    ("mpeg4_not_coded_avi", "*"): _COUNT,
    ("vp8_alt_ref_webm", "torchcodec"): _COUNT,
    ("vp9_hidden_packets_mkv", "*"): _COUNT,
    ("vp9_hidden_packets_webm", "*"): _COUNT,
    ("vp9_hidden_packets_mp4", "*"): _COUNT,
    ("h264_fields_ts", "*"): _COUNT,
    ("h264_fields_mkv", "*"): _COUNT,
    ("h264_fields_mp4", "*"): _COUNT,
    ("h264_some_fields_mts", "*"): _COUNT,
    ("h264_10_bit_mkv", "*"): _CONVERSION,
    ("hevc_10_bit_mp4", "*"): _CONVERSION,
    ("mpeg2_interlaced_mpg", "*"): _CONVERSION,
    ("h264_mbaff_mp4", "*"): _CONVERSION,
    ("h264_mbaff_ts", "*"): _CONVERSION,
    ("dv_avi", "*"): _CONVERSION,
    ("odd_size_webm", "*"): _CONVERSION,
    ("odd_size_avi", "*"): _CONVERSION,
}


def _cases() -> list[object]:
    cases = []
    for name in KINDS:
        for reader in _READERS:
            reason = NOT_YET.get((name, reader), NOT_YET.get((name, "*")))
            marks = [pytest.mark.xfail(strict=False, reason=reason)] if reason else []
            cases.append(pytest.param(name, reader, marks=marks, id=f"{name}-{reader}"))
    return cases


def _read_all(path: Path, reader: str) -> np.ndarray:
    if reader == "processor":
        return AMDVideoProcessor().fetch_videos(str(path))[0]
    with open_video(path, require_decoder(reader)) as video:
        return video.frames(range(len(video)))


@pytest.mark.parametrize(("name", "reader"), _cases())
def test_reader_shows_what_ffmpeg_shows(kind_files: KindFiles, name: str, reader: str) -> None:
    expected = kind_files.frames(name)
    frames = _read_all(kind_files.path(name), reader)
    assert frames.shape == expected.shape
    difference = np.abs(frames.astype(int) - expected).max(axis=(1, 2, 3))
    assert difference.max() <= _TOLERANCE, difference.tolist()


@pytest.mark.parametrize("name", KINDS)
def test_ffmpeg_shows_the_frames_that_were_written(kind_files: KindFiles, name: str) -> None:
    frames = kind_files.frames(name)
    if KINDS[name].num_frames is not None:
        assert len(frames) == KINDS[name].num_frames
    # One frame taken for its neighbour would be seen.
    moved = np.abs(np.diff(frames.astype(int), axis=0)).max(axis=(1, 2, 3))
    assert (moved > 3 * _TOLERANCE).all()


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 60
    assert len({kind.family for kind in KINDS.values()}) >= 20


@pytest.mark.parametrize("name", ["h264_mp4", "mpeg4_packed_avi", "h264_fields_ts", "edit_list_cut_mp4", "cover_mkv"])
def test_files_have_the_same_bytes_each_time(kind_files: KindFiles, tmp_path: Path, name: str) -> None:
    assert KindFiles(tmp_path).path(name).read_bytes() == kind_files.path(name).read_bytes()
