"""A hundred files of every kind: each decoder, the video processor and FFmpeg's own command line show the same frames.

The command line is the judge, because it shares no code with this package. Its frames are compared as they are, 8 bits
of red, green and blue: differences come from the conversion alone, and what FFmpeg's scale filter does is the rule.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amd_hf import AMDVideoProcessor
from amd_hf.data.video.decoding import open_video
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.encoding import ffmpeg_frames
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


@pytest.mark.parametrize("reader", DECODER_NAMES)
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.family == "lost pictures"])
def test_frame_does_not_depend_on_what_was_read_before(kind_files: KindFiles, name: str, reader: str) -> None:
    expected = kind_files.frames(name)
    with open_video(kind_files.path(name), require_decoder(reader)) as video:
        assert len(video) == len(expected)
        for index in (0, *np.random.default_rng(0).permutation(len(expected))):
            assert np.abs(video.frames([index])[0].astype(int) - expected[index]).max() <= _TOLERANCE, index


_CASES = Path(__file__).parents[3] / "../shared/cases"
_CASE_FILES = {  # which of its video streams is the film
    "paff_field_packets/camera.mts": 0,
    "mpeg4_not_coded_frames/clip.avi": 0,
    "mirrored_display_matrix/hflip.mp4": 0,
    "mirrored_display_matrix/vflip.mp4": 0,
    "mirrored_display_matrix/transpose_flip.mp4": 0,
    "pipeline_edit_list/cut.mp4": 0,
    "pipeline_edit_list/short_cut.mp4": 0,
    "pipeline_first_stream/thumbnail_first.mp4": 1,
    "pipeline_fragmented_count/partly_fragmented.mp4": 0,
    "window_times_second_stream/two_rates.mkv": 1,
    "check_avi_dropped_frames/sample.avi": 0,
}


@pytest.mark.parametrize("file", _CASE_FILES)
def test_readers_show_what_ffmpeg_shows_of_files_that_were_met(file: str) -> None:
    if not (_CASES / file).exists():
        pytest.skip(f"there is no {_CASES / file}")
    expected = ffmpeg_frames(_CASES / file, _CASE_FILES[file])
    for reader in _READERS:
        frames = _read_all(_CASES / file, reader)
        if file == "mpeg4_not_coded_frames/clip.avi":
            # It ends with a picture that is not coded: newer versions of FFmpeg show the last one again, 5.1 does not.
            assert len(frames) - len(expected) in (0, 1)
            np.testing.assert_array_equal(frames[len(expected) :], frames[len(expected) - 1 : len(frames) - 1])
            frames = frames[: len(expected)]
        assert frames.shape == expected.shape, reader
        assert max(np.abs(frame.astype(int) - other).max() for frame, other in zip(frames, expected, strict=True)) <= 2


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
