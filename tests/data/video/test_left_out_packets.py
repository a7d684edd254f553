"""Packets that nobody needs are not decoded, and the frames that are wanted have the same bits all the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from amd_hf.video_reading_amd import MediaFile, PyAVDecoder, VideoPackets, VideoReadError
from tests.helpers.encoding import require_ffmpeg
from tests.helpers.slow_cases import slow_but
from tests.helpers.video_kinds import KINDS, KindFiles


_CASES = Path(__file__).parents[3] / "../shared/cases"
_SUFFIXES = (".mp4", ".avi", ".mts", ".mkv")
_NUM_FRAMES = 60
_X264 = {
    "default": "",
    "no_pyramid": "b-pyramid=none:bframes=5",
    "deep": "bframes=16:b-adapt=0:ref=16",
    "open_groups": "open-gop=1:keyint=20:bframes=3",
    "intra_refresh": "intra-refresh=1:keyint=15:bframes=2",
    "weighted": "weightp=2:weightb=1:bframes=4:direct=temporal",
    "slices": "slices=4:bframes=3",
    "interlaced": "interlaced=1:bframes=3",
    "no_bits_to_spare": "nal-hrd=cbr:filler=1:vbv-maxrate=300:vbv-bufsize=300:bitrate=300:aud=1",
}
_X265 = {
    "hevc_default": "",
    "hevc_no_b": "bframes=0:ref=3",
    "hevc_one_b": "bframes=1:ref=1",
    "hevc_no_pyramid": "b-pyramid=0:bframes=4",
    "hevc_deep": "bframes=8:b-adapt=0:ref=6",
    "hevc_open_groups": "open-gop=1:keyint=20:min-keyint=5",
    "hevc_closed_groups": "open-gop=0:keyint=20:bframes=5",
    "hevc_leading": "open-gop=0:keyint=20:radl=2:bframes=4",
    "hevc_layers": "temporal-layers=3:bframes=8:b-adapt=0",
    "hevc_weighted": "weightb=1:weightp=1:bframes=4",
    "hevc_timed": "hrd=1:vbv-maxrate=400:vbv-bufsize=400:bitrate=400:aud=1:hash=1",
    "hevc_repeated": "repeat-headers=1:keyint=15:bframes=3",
    "hevc_refresh": "intra-refresh=1:bframes=2",
    "hevc_fields": "field=1:bframes=2",
    "hevc_lists": "scaling-list=default:slices=2:log2-max-poc-lsb=4:bframes=3",
    "hevc_many_sets": "opt-qp-pps=1:opt-ref-list-length-pps=1:bframes=5",
    "hevc_ended": "eos=1:eob=1:keyint=15:idr-recovery-sei=1",
}
_OTHERS = {
    "mpeg2.ts": ("-c:v", "mpeg2video", "-bf", "2", "-b:v", "1M"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-bf", "2", "-b:v", "1M"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", "3", "-flags", "+qpel+mv4", "-b:v", "1M"),
}
_FILMS = ["default.mp4", "interlaced.mp4", "mpeg4.avi", "hevc_open_groups.mp4"]
_MORE_FILMS = {f"{name}.mp4" for name in _X264 | _X265} | {"default.mkv", "default.ts", "default.flv", *_OTHERS}
_MORE_FILMS |= {"hevc_open_groups.mkv", "hevc_layers.ts"}
_FAST_KINDS = {
    "h264_mp4", "h264_ts", "h264_open_mp4", "h264_lost_mkv", "h264_mbaff_mp4", "h264_some_fields_mts", "hevc_mp4",
    "mpeg2_mpg", "mpeg4_b_mp4", "vp9_webm",
}  # fmt: skip


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("films")

    def path_of(name: str) -> Path:
        path = folder / name
        if not path.exists():
            codec = _OTHERS.get(name) or _codec(path.stem)
            picture = f"testsrc2=size=96x64:rate=25,noise=alls=20:allf=t,trim=end_frame={_NUM_FRAMES}"
            subprocess.run(
                [require_ffmpeg(), "-nostdin", "-v", "error", "-f", "lavfi", "-i", picture, "-threads", "1",
                 "-pix_fmt", "yuv420p", *codec, path],
                check=True,
            )  # fmt: skip
        return path

    return path_of


def _codec(name: str) -> tuple[str, ...]:
    if name in _X265:
        quiet = f"log-level=error:pools=1:frame-threads=1:{_X265[name]}".rstrip(":")
        return "-c:v", "libx265", "-preset", "fast", "-x265-params", quiet
    return "-c:v", "libx264", "-crf", "20", "-x264-params", _X264.get(name) or "keyint=250"


def _open(path: Path, **options: int) -> PyAVDecoder:
    return PyAVDecoder(MediaFile(path=str(path)), None, **options)


def _read_all(path: Path) -> np.ndarray:
    """Every frame is wanted, so that every packet is decoded."""
    with _open(path) as video:
        return video.frames(range(len(video)))


def _selections(num_frames: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    yield np.arange(num_frames // 3, num_frames, 4)
    for size in (1, 2, 5):
        yield np.sort(rng.choice(num_frames, min(size, num_frames), replace=False))


def _check_equal(path: Path, expected: np.ndarray, **options: int) -> None:
    with _open(path, **options) as kept:
        for wanted in _selections(len(expected)):
            np.testing.assert_array_equal(kept.frames(wanted), expected[wanted])
            with _open(path, **options) as fresh:
                np.testing.assert_array_equal(fresh.frames(wanted), expected[wanted])


@pytest.fixture
def num_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each frame that comes out of a decoder."""
    decoded: list[int] = []
    original = VideoPackets.decode_from

    def decode_from(self: VideoPackets, *arguments: object) -> Iterator[object]:
        for frame in original(self, *arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoPackets, "decode_from", decode_from)
    return decoded


@pytest.mark.parametrize("name", slow_but(_FILMS, sorted({*_FILMS} | _MORE_FILMS)))
def test_frames_have_the_bits_of_decoding_everything(
    film: Callable[[str], Path], num_decoded: list[int], name: str
) -> None:
    expected = _read_all(film(name))
    with av.open(str(film(name))) as container:  # by a plain loop
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(expected) == len(plain) == _NUM_FRAMES
    if name != "interlaced.mp4":  # of which PyAV makes other colours
        np.testing.assert_array_equal(expected, plain)
    _check_equal(film(name), expected)
    num_decoded.clear()
    with _open(film(name)) as video:
        video.frames(range(2, 51, 16))
        assert len(num_decoded) < 42 or name == "hevc_no_b.mp4"
        assert video.order.packets is not None  # never had to fall back


@pytest.mark.parametrize("name", slow_but(["deep.mp4", "mpeg2.ts"], ["deep.mp4", "mpeg2.ts", "hevc_open_groups.mp4"]))
def test_several_decoder_threads_give_the_same_bits(film: Callable[[str], Path], name: str) -> None:
    _check_equal(film(name), _read_all(film(name)), num_threads=3)


@pytest.mark.parametrize("name", slow_but(_FAST_KINDS, KINDS))
def test_files_of_every_kind_have_the_bits_of_decoding_everything(kind_files: KindFiles, name: str) -> None:
    with _open(kind_files.path(name)) as video:
        if video.order is None or video.order.packets is None:
            return  # as before: no packet is left out
    _check_equal(kind_files.path(name), _read_all(kind_files.path(name)))


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(path for path in _CASES.glob("*/*") if path.suffix in _SUFFIXES), ids=str)
def test_files_that_were_met_have_the_bits_of_decoding_everything(file: Path) -> None:
    _check_as_decoded_whole(file)


def test_reading_on_decodes_no_frame_twice(film: Callable[[str], Path], num_decoded: list[int]) -> None:
    expected = _read_all(film("default.mp4"))
    num_decoded.clear()
    with _open(film("default.mp4")) as video:
        for start in range(0, _NUM_FRAMES, 6):
            wanted = [start, start + 3, start + 5]
            np.testing.assert_array_equal(video.frames(wanted), expected[wanted])
    again = len(num_decoded) - len(set(num_decoded))
    assert again < 8  # the second call began anew, since the first one might have been the last
    assert len(num_decoded) < _NUM_FRAMES


# ---------------------------------------------------------------------------------------------------------------------
# Streams that lie
# ---------------------------------------------------------------------------------------------------------------------


def _with_packets(path: Path, source: Path, change: Callable[[int, bytearray], None]) -> Path:
    """Copy a film, each packet changed by its number."""
    with av.open(str(source)) as before, av.open(str(path), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        number = 0
        for packet in before.demux(video=0):
            if packet.size:
                content = bytearray(bytes(packet))
                change(number, content)
                copy = av.Packet(bytes(content))
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
                after.mux(copy)
                number += 1
    return path


def _units(content: bytearray) -> Iterator[int]:
    """Where the units of a packet of an MP4 file begin."""
    start = 0
    while start + 4 < len(content):
        yield start + 4
        start += 4 + int.from_bytes(content[start : start + 4], "big")


def _say_of_references(chosen: Callable[[int], bool], of_references: bool) -> Callable[[int, bytearray], None]:
    """Call pictures that others refer to disposable, or the other way round."""

    def change(number: int, content: bytearray) -> None:
        for start in _units(content):
            if content[start] & 0x1F == 1 and chosen(number) and bool(content[start] & 0x60) == of_references:
                content[start] = content[start] & 0x9F | (0 if of_references else 0x20)

    return change


@pytest.mark.parametrize("name", ["default.mp4", "slices.mp4"])
@pytest.mark.parametrize("of_references", [True, False], ids=["references denied", "references made up"])
@pytest.mark.parametrize("chosen", [lambda number: True, lambda number: number % 7 == 3, lambda number: number > 45])
def test_stream_that_lies_about_its_references_is_decoded_whole(
    film: Callable[[str], Path], tmp_path: Path, name: str, of_references: bool, chosen: Callable[[int], bool]
) -> None:
    change = _say_of_references(chosen, of_references)
    path = _with_packets(tmp_path / "lie.mp4", film(name), change)
    assert path.read_bytes() != film(name).read_bytes()
    if of_references:
        _check_as_decoded_whole(path)
    else:  # what FFmpeg makes of such slices depends on what lay in its memory
        with _open(path) as video:
            assert video.order is None or video.order.packets is None


_TRAIL_N, _RASL_R, _TSA_N = 0, 9, 2  # kinds of HEVC's slices: odd ones are referred to by others
_HEVC_LIES: dict[str, Callable[[int, int], int]] = {
    "all references denied": lambda number, kind: kind & ~1 if kind <= _RASL_R else kind,
    "some references denied": lambda number, kind: kind & ~1 if kind <= _RASL_R and number % 7 == 3 else kind,
    "all made up": lambda number, kind: kind | 1 if kind <= _RASL_R else kind,
    "some made up": lambda number, kind: kind | 1 if kind <= _RASL_R and number % 5 == 2 else kind,
    "another layer": lambda number, kind: _TSA_N if kind == _TRAIL_N else kind,
    "leading": lambda number, kind: kind + 8 if kind <= 1 and number % 6 == 4 else kind,
}
_FAST_LIES = ["all references denied", "some made up"]


@pytest.mark.parametrize("name", slow_but(["hevc_open_groups.mp4"], ["hevc_open_groups.mp4", "hevc_layers.mp4"]))
@pytest.mark.parametrize("lie", slow_but(_FAST_LIES, _HEVC_LIES))
def test_hevc_picture_that_others_list_is_decoded_whatever_its_kind(
    film: Callable[[str], Path], tmp_path: Path, name: str, lie: str
) -> None:
    def change(number: int, content: bytearray) -> None:
        for start in _units(content):
            kind = content[start] >> 1 & 0x3F
            content[start] = content[start] & 0x81 | _HEVC_LIES[lie](number, kind) << 1

    path = _with_packets(tmp_path / "lie.mp4", film(name), change)
    assert path.read_bytes() != film(name).read_bytes()
    _check_as_decoded_whole(path)
    if lie != "leading":
        with _open(path) as video:
            for index in range(2, _NUM_FRAMES, 7):
                video.frames([index])
            assert video.order.packets is not None  # nothing that was left out was missed


def test_hevc_film_that_is_long_is_decoded_whole(film: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amd_hf.video_codecs_amd._MAX_READ_SLICES", _NUM_FRAMES - 1)
    with _open(film("hevc_open_groups.mp4")) as video:
        assert video.order is not None
        assert video.order.packets is None
    _check_equal(film("hevc_open_groups.mp4"), _read_all(film("hevc_open_groups.mp4")))


@pytest.mark.parametrize("which", slow_but([2], [2, 3, 5, 9]))
def test_hevc_film_that_lacks_a_picture_has_the_bits_of_decoding_everything(
    film: Callable[[str], Path], tmp_path: Path, which: int
) -> None:
    path = tmp_path / "lost.mkv"
    with av.open(str(film("hevc_default.mp4"))) as before, av.open(str(path), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for number, packet in enumerate(packet for packet in before.demux(video=0) if packet.size):
            if number != which:
                packet.stream = stream
                after.mux(packet)
    _check_as_decoded_whole(path)


def _check_as_decoded_whole(path: Path) -> None:
    try:
        expected = _read_all(path)
    except VideoReadError:
        return  # nobody can read it
    _check_equal(path, expected)


@pytest.mark.parametrize("name", slow_but(["default.mp4"], ["default.mp4", "hevc_default.mp4"]))
@pytest.mark.parametrize("which", [5, 6, 21])
def test_damaged_picture_makes_all_be_decoded(
    film: Callable[[str], Path], tmp_path: Path, which: int, name: str
) -> None:
    def change(number: int, content: bytearray) -> None:
        if number == which:
            start = max(_units(content))
            middle = (start + len(content)) // 2
            content[middle : middle + 8] = bytes(byte ^ 0x5A for byte in content[middle : middle + 8])

    _check_as_decoded_whole(_with_packets(tmp_path / "damaged.mp4", film(name), change))


@pytest.mark.parametrize("name", ["no_pyramid.mp4", "mpeg4.avi"])
def test_timestamps_of_another_order_are_not_believed(film: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """Their stamps say that frames are shown as they are decoded, as those of poor muxers do."""
    path = tmp_path / "wrong.mkv"
    with av.open(str(film(name))) as before, av.open(str(path), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for number, packet in enumerate(packet for packet in before.demux(video=0) if packet.size):
            packet.pts = packet.dts = round(number / 25 / packet.time_base)
            packet.stream = stream
            after.mux(packet)
    expected = _read_all(path)
    for index in range(2, 40, 5):  # pictures that others refer to come out in the order of wrong stamps, too
        with _open(path) as video:
            np.testing.assert_array_equal(video.frames([index]), expected[[index]])
