"""Playback clips: the classes are what their names say, and no video serves two splits."""

from __future__ import annotations

import numpy as np
import pytest

from amd_hf.data.video.decoding import open_video
from examples.motion_shapes import encode_video
from studies.playback import PLAYBACK_CLASSES, write_playback_clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten films of 80 frames that brighten by three levels a frame; film i has its number in the red channel."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(10):
        film = np.zeros((80, 32, 48, 3), np.uint8)
        film += (3 * np.arange(80, dtype=np.uint8))[:, None, None, None]
        film[..., 0] = 20 * number
        (folder / f"{number}.mp4").write_bytes(encode_video(film))
    return folder


def _frames(path):
    with open_video(str(path)) as reader:
        return reader.frames(range(len(reader))).astype(float)


def test_classes_are_ways_of_playing_a_film(videos, tmp_path):
    written = write_playback_clips(videos, tmp_path, "train", 8, seed=0, num_frames=8, size=16)
    slopes = {"faster": 12, "forward": 6, "slower": 3, "reversed": -6}  # levels a frame
    assert [path.parent.name for path in written] == 2 * list(PLAYBACK_CLASSES)
    for path in written:
        frames = _frames(path)
        assert frames.shape == (8, 16, 16, 3)
        slope = np.polyfit(range(8), frames[..., 2].mean((1, 2)), 1)[0]
        assert slope == pytest.approx(slopes[path.parent.name], abs=0.5)


def test_no_film_serves_two_splits(videos, tmp_path):
    films = {}
    for split in ("unlabelled", "held_out", "train", "tuning", "validation"):
        written = write_playback_clips(
            videos, tmp_path, split, 16, seed=0, labelled=split != "unlabelled", num_frames=8, size=16
        )
        films[split] = {round(_frames(path)[..., 0].mean() / 20) for path in written}
    assert films["unlabelled"] <= set(range(5))
    assert films["held_out"] == {5}
    assert films["train"] <= {6, 7}
    assert films["tuning"] == {8}
    assert films["validation"] == {9}


def test_films_that_are_few_or_short_are_refused(videos, tmp_path):
    with pytest.raises(ValueError, match="holds 1 videos.*at least 10"):
        write_playback_clips(videos / "0.mp4", tmp_path / "out", "train", 1, seed=0)
    with pytest.raises(ValueError, match="No video of 'train'.* has 128 frames"):
        write_playback_clips(videos, tmp_path / "out", "train", 1, seed=0, num_frames=32)
