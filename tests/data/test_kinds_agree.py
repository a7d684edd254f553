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


def _read_all(path: Path, reader: str) -> np.ndarray:
    if reader == "processor":
        return AMDVideoProcessor().fetch_videos(str(path))[0]
    with open_video(path, require_decoder(reader)) as video:
        return video.frames(range(len(video)))


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("name", KINDS)
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
