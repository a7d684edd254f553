"""`check_videos.py`: finds exactly the bad videos of a folder, and writes a list that the loader reads back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_hf.data.checking import CheckOptions, VideoCheck, check_videos
from amd_hf.data.loading import load_video_dataset
from tests.helpers.damage import sound_videos
from tests.helpers.training import load_script
from tests.helpers.videos import numbered_frames, write_list, write_video


def _numbered(data: bytes, number: int) -> bytes:
    """The same MP4 video with a box at its end that nobody reads."""
    return data + struct.pack(">I4sI", 12, b"free", number)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    sound = {name: path.read_bytes() for name, path in sound_videos(folder).items()}
    return sound | {"short": write_video(folder / "short.mp4", 7).read_bytes()}


def _write_data_set(folder: Path, sound: dict[str, bytes]) -> tuple[Path, dict[str, str]]:
    """500 entries of a list file with labels, 20 of them bad; returns the file and what is wrong with those."""
    video = sound["mp4_moov_last"]
    first = sound["mp4_moov_first"]
    middle = len(first) - 2500
    bad: dict[str, tuple[str, bytes | None]] = {
        "cut_1": ("unreadable", video[: len(video) // 2]),
        "cut_2": ("unreadable", video[:-600]),
        "cut_3": ("unreadable", first[: len(first) * 9 // 10]),
        "cut_4": ("unreadable", video[:10]),
        "text_1": ("unreadable", b"This is not a video.\n" * 50),
        "text_2": ("unreadable", b"<html>404</html>"),
        "empty_1": ("unreadable", b""),
        "empty_2": ("unreadable", b""),
        "zeros": ("unreadable", bytes(5000)),
        "hole": ("unreadable", first[:middle] + bytes(1500) + first[middle + 1500 :]),
        "short_1": ("too_short", sound["short"]),
        "short_2": ("too_short", _numbered(sound["short"], 1)),
        "gone_1": ("missing", None),
        "gone_2": ("missing", None),
        "gone_3": ("missing", None),
        "cut.avi": ("damaged", sound["avi"][: len(sound["avi"]) * 2 // 3]),
        "cut.webm": ("damaged", sound["webm"][: len(sound["webm"]) * 2 // 3]),
        "flip.avi": ("damaged", _zeroed(sound["avi"], 9000, 60)),
        "same_1": ("duplicate", _numbered(video, 100)),
        "same_2": ("duplicate", _numbered(video, 100)),
    }
    contents = {f"good_{number:03d}.mp4": _numbered(video, number) for number in range(477)}
    contents |= {"good_a.avi": sound["avi"], "good_a.webm": sound["webm"], "good_a.mkv.mp4": sound["mp4_moov_first"]}
    faults = {}
    for number, (name, (status, content)) in enumerate(bad.items()):
        name = f"{name}" if "." in name else f"{name}.mp4"
        faults[name] = status
        if content is not None:
            contents[name] = _numbered(content, 1000 + number) if name.startswith("text") else content
    names = sorted(contents.keys() | faults.keys(), key=lambda name: hash_order(name))
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    lines = [f"{name} {index % 3}" for index, name in enumerate(names)]
    # The original of the duplicates comes before them.
    lines.sort(key=lambda line: not line.startswith("good_100"))
    return write_list(folder / "list.txt", lines), faults


def hash_order(name: str) -> int:
    """An order that mixes good and bad, the same each time."""
    return sum(ord(character) * 7919**place for place, character in enumerate(name)) % 10007


def _zeroed(data: bytes, start: int, length: int) -> bytes:
    return data[:start] + bytes(length) + data[start + length :]


def test_the_twenty_bad_of_five_hundred_are_found_and_the_others_listed(
    tmp_path: Path, sound: dict[str, bytes], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "videos").mkdir()
    list_file, faults = _write_data_set(tmp_path / "videos", sound)
    assert len(faults) == 20
    script = load_script("check_videos")
    report = script.main(["--data", str(list_file), "--output_dir", str(tmp_path / "out"), "--num_threads", "2"])
    assert {entry["video_id"]: entry["status"] for entry in report["bad"]} == faults
    assert (report["num_videos"], report["num_clean"]) == (500, 480)
    assert report["counts"] == {
        "ok": 480, "missing": 3, "unreadable": 10, "too_short": 2, "damaged": 3, "duplicate": 2,
    }  # fmt: skip
    assert all(entry["reason"] for entry in report["bad"])
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    before, after = (
        load_video_dataset(list_file),
        load_video_dataset(tmp_path / "out/clean.csv", root=tmp_path / "videos"),
    )
    kept = [row for row in before if row["video_id"] not in faults]
    assert [row["video_id"] for row in after] == [row["video_id"] for row in kept]
    assert [row["label"] for row in after] == [row["label"] for row in kept]
    assert [row["video"]["path"] for row in after] == [row["video"]["path"] for row in kept]
    assert "480 ok, 3 missing, 10 unreadable" in capsys.readouterr().out


def test_class_folders_keep_the_names_of_their_labels(tmp_path: Path, sound: dict[str, bytes]) -> None:
    for number, name in enumerate(("b c", "a", "d")):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for index in range(2):
            content = _numbered(sound["mp4_moov_last"], 10 * number + index)
            (tmp_path / "videos" / name / f"{index}.mp4").write_bytes(content)
    (tmp_path / "videos/d/0.mp4").write_bytes(b"broken")
    out = tmp_path / "out"
    load_script("check_videos").main(["--data", str(tmp_path / "videos"), "--output_dir", str(out)])
    after = load_video_dataset(out / "clean.csv", root=tmp_path / "videos", label_names=out / "label_names.txt")
    assert after.features["label"].names == ["a", "b c", "d"]
    assert [(row["video_id"], row["label"]) for row in after] == [
        ("a/0.mp4", 0), ("a/1.mp4", 0), ("b c/0.mp4", 1), ("b c/1.mp4", 1), ("d/1.mp4", 2),
    ]  # fmt: skip


def test_folders_of_frames_are_checked_and_listed(tmp_path: Path) -> None:
    lines = []
    for number in range(4):
        folder = tmp_path / "frames" / str(number)
        folder.mkdir(parents=True)
        for index, pixels in enumerate(np.roll(numbered_frames(16, 16, 24), number, axis=0), start=1):
            Image.fromarray(pixels).save(folder / f"img_{index:05d}.jpg")
        lines.append(f"frames/{number} 16 {number % 2}")
    (tmp_path / "frames/1/img_00009.jpg").write_bytes(b"broken")
    lines.append("frames/gone 16 0")
    list_file = write_list(tmp_path / "list.txt", lines)
    out = tmp_path / "out"
    report = load_script("check_videos").main(["--data", str(list_file), "--output_dir", str(out)])
    assert [(entry["status"], Path(entry["path"]).name) for entry in report["bad"]] == [
        ("unreadable", "1"), ("missing", "gone"),
    ]  # fmt: skip
    after = load_video_dataset(out / "clean.txt", root=tmp_path)
    assert [(Path(row["video"]["frame_folder"]).name, row["label"]) for row in after] == [("0", 0), ("2", 0), ("3", 1)]


def test_without_decoding_all_damage_in_the_middle_passes(tmp_path: Path, sound: dict[str, bytes]) -> None:
    (tmp_path / "a.avi").write_bytes(_zeroed(sound["avi"], 9000, 60))
    rows = [{"video": {"path": str(tmp_path / "a.avi"), "bytes": None}, "label": None, "video_id": "a"}]
    (deep,) = check_videos(rows, CheckOptions(), num_threads=1)
    (quick,) = check_videos(rows, CheckOptions(decode_all=False), num_threads=1)
    assert (deep.status, quick.status) == ("damaged", "ok")
    assert "frames are damaged" in deep.reason


def test_duplicate_with_another_label_says_so(tmp_path: Path, sound: dict[str, bytes]) -> None:
    rows = [
        {"video": {"path": None, "bytes": sound["avi"]}, "label": label, "video_id": f"v{label}"} for label in (3, 5)
    ]
    checks: list[VideoCheck] = list(check_videos(rows, CheckOptions(), num_threads=1))
    assert [check.status for check in checks] == ["ok", "duplicate"]
    assert checks[1].reason == "the same content as 'v3', which has the label 3 and not 5"


def test_misuse_raises(tmp_path: Path) -> None:
    script = load_script("check_videos")
    with pytest.raises(ValueError, match="--data FOLDER_OR_FILE"):
        script.main([])
    with pytest.raises(FileNotFoundError, match="no_such"):
        script.main(["--data", str(tmp_path / "no_such")])
    with pytest.raises(ValueError, match="`min_frames` must be at least 1, not 0"):
        CheckOptions(min_frames=0)
