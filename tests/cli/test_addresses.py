"""Addresses on the command line: read, checked and allowed by options, and refused where they hold credentials."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from amd_hf.cli import check, validate
from amd_hf.options.commands import check_command_line
from tests.helpers.videos import write_video


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMD_HF_REMOTE_ACCESS", "{}")


@pytest.mark.parametrize("option", ["data", "eval_data", "data_root", "allowed_addresses"])
def test_address_with_credentials_is_refused_before_anything_starts(option: str) -> None:
    words = ["--data", "s3://bucket/train.txt", f"--{option}", "https://me:pass1234@host/train.txt"]
    with pytest.raises(ValueError, match=f"`--{option}`: .*by the environment") as caught:
        check_command_line("pretrain", words[2:] if option == "data" else words)
    assert "pass1234" not in str(caught.value)
    assert check_command_line("pretrain", words[:2])["data"] == "s3://bucket/train.txt"


def test_list_at_an_address_is_validated_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", num_frames=16)
    body = (tmp_path / "a.mp4").read_bytes()
    memory = fsspec.filesystem("memory")
    files = {"a.mp4": body, "b.mp4": body[:200], "train.txt": b"a.mp4 0\nb.mp4 1\n", "bad.txt": b"a.mp4 0\nc.mp4 1\n"}
    for name, content in files.items():
        memory.pipe(f"/cli/{name}", content)
    try:
        problems = validate.main(["--data", "memory://cli/bad.txt"])
        assert [str(problem) for problem in problems.found] == [
            "memory://cli/bad.txt:2: names a missing file: memory://cli/c.mp4"
        ]
        output = str(tmp_path / "checked")
        report = check.main(
            ["--data", "memory://cli/train.txt", "--cache_dir", str(tmp_path / "cache"), "--output_dir", output]
        )
        assert report["counts"]["ok"] == report["counts"]["unreadable"] == 1
        assert len(list((tmp_path / "cache").glob("*/*.mp4"))) == 2
        assert f"--data {output}/clean.csv --data_root memory://cli" in capsys.readouterr().out
        again = check.main(["--data", f"{output}/clean.csv", "--data_root", "memory://cli"])
        assert again["counts"]["ok"] == again["num_videos"] == 1
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]
