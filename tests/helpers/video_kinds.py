"""Small video files of every kind that people have, the same bytes each time, and what FFmpeg's program shows of them.

    files = KindFiles(folder)
    files.path("vp9_alt_ref_webm")    ->  a file
    files.frames("vp9_alt_ref_webm")  ->  uint8 (n, H, W, 3), the frames that FFmpeg's command line shows

Frames are plain colours that tell their number (`tests.helpers.videos.frame_numbers`) under a pattern that moves, so
that no two of them are alike.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.bitstreams import write_dropped, write_fields, write_not_coded, write_packed
from tests.helpers.encoding import (
    B_FRAMES,
    HIDDEN_FRAMES,
    NUM_FRAMES,
    SPLIT,
    copied,
    encode,
    encode_by_ffmpeg,
    ffmpeg_frames,
    film,
    set_display_matrix,
    two_streams,
    write_alt_ref,
)  # fmt: skip


@dataclass(frozen=True)
class VideoKind:
    """A kind of file.

    Args:
        suffix (`str`): Of its name.
        family (`str`): What is special about it; several files may be of one family.
        write (callable): Makes the file at a path.
        num_frames (`int` or `None`): Frames that it shows, where that was known before any decoder was asked.
        stream (`int`): Which of its video streams is the film.
        bits (`int`): Of a colour in the file.
    """

    suffix: str
    family: str
    write: Callable[[Path], object]
    num_frames: int | None = NUM_FRAMES
    stream: int = 0
    bits: int = 8


class KindFiles:
    """Writes each kind of file when it is first asked for, and keeps what FFmpeg's command line shows of it.

    Processes can share the folder: a file is there only when it is whole.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._frames: dict[str, np.ndarray] = {}

    def path(self, name: str) -> Path:
        path = self._folder / f"{name}{KINDS[name].suffix}"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self._folder) as unfinished:
                KINDS[name].write(Path(unfinished, path.name))
                Path(unfinished, path.name).replace(path)
        return path

    def frames(self, name: str) -> np.ndarray:
        """uint8 (n, H, W, 3)"""
        if name not in self._frames:
            shown = self._folder / f"{name}.npy"
            if not shown.exists():
                with tempfile.TemporaryDirectory(dir=self._folder) as unfinished:
                    np.save(Path(unfinished, shown.name), ffmpeg_frames(self.path(name), KINDS[name].stream))
                    Path(unfinished, shown.name).replace(shown)
            self._frames[name] = np.load(shown)
        return self._frames[name]


# ---------------------------------------------------------------------------------------------------------------------
# The kinds
# ---------------------------------------------------------------------------------------------------------------------

_OPEN = f"open-gop=1:{B_FRAMES}"
_REFRESH = "intra-refresh=1:keyint=10:bframes=0:scenecut=0"
_PHONE_TIMES = np.cumsum([0] + [33] * 9 + [120] * 8 + [17] * 6 + [200] * 6).tolist()
_EARLY_TIMES = [40 * (number - 5) for number in range(NUM_FRAMES)]  # an edit list hides five frames
_LATE_TIMES = [40 * number + 3000 for number in range(NUM_FRAMES)]
_UNEVEN_TIMES = np.cumsum(np.random.default_rng(0).integers(10, 90, NUM_FRAMES)).tolist()
_VISIBLE_NEGATIVE = {"avoid_negative_ts": "disabled"}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def _turned(a: int, b: int, c: int, d: int, **options: Any) -> Callable[[Path], object]:
    return lambda path: set_display_matrix(encode(path, **options), a, b, c, d)


def _with(codec: str = "libx264", **options: Any) -> Callable[[Path], object]:
    return functools.partial(_encode_as, codec, options)


def _encode_as(codec: str, options: Mapping[str, Any], path: Path) -> object:
    return encode(path, codec, **options)


def _cli(*arguments: str, frames: np.ndarray | None = None) -> Callable[[Path], object]:
    return lambda path: encode_by_ffmpeg(path, *arguments, frames=frames)


def _cut(suffix: str, *arguments: str, inputs: Sequence[str] = (), **options: Any) -> Callable[[Path], object]:
    return lambda path: copied(path, _with(**options), suffix, *arguments, inputs=inputs)


def _lost(which: str, parameters: str = "keyint=5:bframes=2:scenecut=0") -> Callable[[Path], object]:
    """Packets that are gone: `which` is FFmpeg's expression of their number n in the order of decoding."""
    escaped = which.replace(",", "\\,")
    return _cut(".mp4", "-bsf:v", f"noise=drop='{escaped}'", options={"x264-params": parameters})


def _cropped(edges: str) -> Callable[[Path], object]:
    return _cut(".mp4", "-bsf:v", f"h264_metadata={edges}")


def _headless(num_bytes: int, codec: str = "libx264", **options: Any) -> Callable[[Path], object]:
    """A recording that begins anywhere: the first packets refer to what is not there."""

    def write(path: Path) -> None:
        encode(path, codec, **options)
        path.write_bytes(path.read_bytes()[num_bytes:])

    return write


def _x264(parameters: str, **options: Any) -> Callable[[Path], object]:
    return _with(options={"x264-params": parameters}, **options)


KINDS: dict[str, VideoKind] = {
    # H.264 in every box
    "h264_mp4": VideoKind(".mp4", "h264 mp4", _with()),
    "h264_faststart_mp4": VideoKind(".mp4", "h264 mp4", _with(muxing={"movflags": "faststart"})),
    "h264_m4v": VideoKind(".m4v", "h264 mp4", _with()),
    "h264_mkv": VideoKind(".mkv", "h264 matroska", _with()),
    "h264_mov": VideoKind(".mov", "h264 mov", _with()),
    "h264_ts": VideoKind(".ts", "h264 transport stream", _with()),
    "h264_mts": VideoKind(".mts", "h264 transport stream", _with(muxing={"mpegts_m2ts_mode": "1"})),
    "h264_avi": VideoKind(".avi", "h264 avi", _with()),
    "h264_no_b_avi": VideoKind(".avi", "h264 avi", _x264("keyint=8:bframes=0")),
    "h264_flv": VideoKind(".flv", "h264 flv", _with()),
    "h264_3gp": VideoKind(".3gp", "h264 3gp", _with()),
    "h264_raw": VideoKind(".h264", "no time stamps", _with()),
    "h264_open_mp4": VideoKind(".mp4", "open groups", _x264(_OPEN)),
    "h264_open_mkv": VideoKind(".mkv", "open groups", _x264(_OPEN)),
    "h264_open_ts": VideoKind(".ts", "open groups", _x264(_OPEN)),
    "h264_refresh_mp4": VideoKind(".mp4", "intra refresh", _x264(_REFRESH)),
    "h264_refresh_ts": VideoKind(".ts", "intra refresh", _x264(_REFRESH)),
    "h264_one_key_mp4": VideoKind(".mp4", "one key frame", _x264("keyint=infinite:bframes=3:b-pyramid=normal")),
    # Pictures that are absent: of all kinds, of those that others refer to, the ones that begin a group
    "h264_lost_mkv": VideoKind(".mkv", "lost pictures", _lost("not(mod(n+2,6))"), None),
    "h264_lost_mp4": VideoKind(".mp4", "lost pictures", _lost("not(mod(n+2,6))"), None),
    "h264_lost_ts": VideoKind(".ts", "lost pictures", _lost("not(mod(n+2,6))"), None),
    "h264_lost_second_mkv": VideoKind(".mkv", "lost pictures", _lost("eq(n,1)"), None),
    "h264_lost_keys_mkv": VideoKind(".mkv", "lost pictures", _lost("key*not(eq(n,0))"), None),
    "h264_lost_from_all_references_mkv": VideoKind(
        ".mkv", "lost pictures", _lost("not(mod(n+2,6))", "keyint=10:bframes=0:ref=2"), None
    ),
    # Edges that the header cuts off: FFmpeg's rounds the left one
    "cropped_left_mp4": VideoKind(".mp4", "cropped", _cropped("crop_left=8:crop_right=4:crop_top=6:crop_bottom=2")),
    "cropped_left_mkv": VideoKind(".mkv", "cropped", _cropped("crop_left=4")),
    "cropped_top_mp4": VideoKind(".mp4", "cropped", _cropped("crop_top=6:crop_bottom=2")),
    # Turned and mirrored
    "rotated_90_mp4": VideoKind(".mp4", "rotated", _turned(0, 1, -1, 0)),
    "rotated_180_mp4": VideoKind(".mp4", "rotated", _turned(-1, 0, 0, -1)),
    "rotated_270_mp4": VideoKind(".mp4", "rotated", _turned(0, -1, 1, 0)),
    "rotated_90_10_bit_mp4": VideoKind(".mp4", "rotated", _turned(0, 1, -1, 0, pix_fmt="yuv420p10le"), bits=10),
    "transposed_odd_size_mp4": VideoKind(
        ".mp4", "mirrored", _turned(0, 1, 1, 0, codec="mpeg4", frames=film(NUM_FRAMES, 49, 65))
    ),
    "rotated_90_mov": VideoKind(".mov", "rotated", _turned(0, 1, -1, 0)),
    "mirrored_left_right_mp4": VideoKind(".mp4", "mirrored", _turned(-1, 0, 0, 1)),
    "mirrored_up_down_mp4": VideoKind(".mp4", "mirrored", _turned(1, 0, 0, -1)),
    "transposed_mp4": VideoKind(".mp4", "mirrored", _turned(0, 1, 1, 0)),
    "transposed_other_way_mp4": VideoKind(".mp4", "mirrored", _turned(0, -1, -1, 0)),
    # Cut without encoding anew
    "edit_list_mp4": VideoKind(".mp4", "edit list", _with(times=_EARLY_TIMES, muxing=_VISIBLE_NEGATIVE), 25),
    "edit_list_cut_mp4": VideoKind(".mp4", "edit list", _cut(".mp4", inputs=("-ss", "0.5")), None),
    "edit_list_cut_mov": VideoKind(".mov", "edit list", _cut(".mp4", inputs=("-ss", "0.72")), None),
    "edit_list_both_ends_mp4": VideoKind(".mp4", "edit list", _cut(".mp4", "-t", "0.4", inputs=("-ss", "0.44")), None),
    "cut_open_mkv": VideoKind(
        ".mkv", "cut", _cut(".mp4", inputs=("-ss", "0.5"), options={"x264-params": _OPEN}), None
    ),
    "headless_h264_ts": VideoKind(".ts", "headless", _headless(9000), None),
    "headless_mpeg2_ts": VideoKind(".ts", "headless", _headless(9000, "mpeg2video", b_frames=2), None),
    # In fragments
    "fragments_mp4": VideoKind(".mp4", "fragmented", _with(muxing=_FRAGMENTS)),
    "fragments_behind_a_few_mp4": VideoKind(".mp4", "fragmented", _with(muxing={"movflags": "frag_keyframe"})),
    "fragments_cmaf_mp4": VideoKind(".mp4", "fragmented", _with(muxing={"movflags": "cmaf+frag_keyframe"})),
    # Several video streams
    "thumbnail_first_mp4": VideoKind(
        ".mp4", "thumbnail first",
        lambda path: two_streams(path, _with("png", frames=film(1, 32, 32), pix_fmt="rgb24"), _with()), stream=1,
    ),
    "cover_mp4": VideoKind(
        ".mp4", "attached picture",
        lambda path: two_streams(path, _with("png", frames=film(1, 96, 96), pix_fmt="rgb24"), _with(),
                                  "-disposition:v:0", "attached_pic"),
    ),
    "cover_mkv": VideoKind(
        ".mkv", "attached picture",
        lambda path: two_streams(path, _with(), _with("mjpeg", frames=film(1, 96, 96), pix_fmt="yuvj420p"),
                                  "-disposition:v:1", "attached_pic"),
    ),
    "two_streams_mkv": VideoKind(
        ".mkv", "two streams",
        lambda path: two_streams(path, _with(frames=film(12, 32, 32), rate=10), _with(), "-disposition:v:0", "0"),
        stream=1,
    ),
    "two_streams_mp4": VideoKind(
        ".mp4", "two streams",
        lambda path: two_streams(path, _with(frames=film(12, 32, 32), rate=10), _with(), "-disposition:v:0", "0"),
        stream=1,
    ),
    # Times
    "phone_mp4": VideoKind(".mp4", "changing rate", _with(times=_PHONE_TIMES)),
    "phone_mkv": VideoKind(".mkv", "changing rate", _with(times=_PHONE_TIMES)),
    "uneven_webm": VideoKind(".webm", "changing rate", _with("libvpx-vp9", times=_UNEVEN_TIMES)),
    "uneven_ts": VideoKind(".ts", "changing rate", _with(times=_UNEVEN_TIMES)),
    "one_a_second_mkv": VideoKind(".mkv", "one frame a second", _with(rate=1)),
    "one_a_second_webm": VideoKind(".webm", "one frame a second", _with("libvpx-vp9", rate=1)),
    "late_mp4": VideoKind(".mp4", "late start", _with(times=_LATE_TIMES)),
    "late_mkv": VideoKind(".mkv", "late start", _with(times=_LATE_TIMES)),
    "late_ts": VideoKind(".ts", "late start", _with(times=_LATE_TIMES)),
    "late_sound_mp4": VideoKind(".mp4", "late start", _with(times=_LATE_TIMES, audio="aac")),
    "early_mkv": VideoKind(".mkv", "negative times", _with(times=_EARLY_TIMES, muxing=_VISIBLE_NEGATIVE), None),
    "early_mov": VideoKind(".mov", "negative times", _with("mpeg4", times=_EARLY_TIMES, muxing=_VISIBLE_NEGATIVE), 25),
    # More than eight bits, other chroma
    "h264_10_bit_mkv": VideoKind(".mkv", "10 bit", _with(pix_fmt="yuv420p10le"), bits=10),
    "hevc_10_bit_mp4": VideoKind(".mp4", "10 bit", _with("libx265", pix_fmt="yuv420p10le"), bits=10),
    "prores_mov": VideoKind(".mov", "10 bit", _with("prores_ks", pix_fmt="yuv422p10le"), bits=10),
    "h264_422_mp4": VideoKind(".mp4", "other chroma", _with(pix_fmt="yuv422p")),
    "h264_444_mp4": VideoKind(".mp4", "other chroma", _with(pix_fmt="yuv444p")),
    "h264_grey_mp4": VideoKind(".mp4", "other chroma", _with(pix_fmt="gray")),
    # Other codecs
    "hevc_mp4": VideoKind(".mp4", "hevc", _with("libx265", options={"x265-params": "keyint=8:open-gop=1"})),
    "hevc_mkv": VideoKind(".mkv", "hevc", _with("libx265")),
    "hevc_ts": VideoKind(".ts", "hevc", _with("libx265", options={"x265-params": "keyint=8:open-gop=1"})),
    "vp8_webm": VideoKind(".webm", "vp8", _with("libvpx", options={"b": "500k"})),
    "vp8_alt_ref_webm": VideoKind(
        ".webm", "vp8 alt-ref", lambda path: write_alt_ref(path, "libvpx"), HIDDEN_FRAMES
    ),
    "vp9_webm": VideoKind(".webm", "vp9", _with("libvpx-vp9", options={"crf": "10"})),
    "vp9_alt_ref_webm": VideoKind(
        ".webm", "vp9 alt-ref", lambda path: write_alt_ref(path, "libvpx-vp9"), HIDDEN_FRAMES
    ),
    "vp9_hidden_packets_mkv": VideoKind(
        ".mkv", "vp9 hidden packets", lambda path: write_alt_ref(path, "libvpx-vp9", *SPLIT), HIDDEN_FRAMES
    ),
    "vp9_hidden_packets_webm": VideoKind(
        ".webm", "vp9 hidden packets", lambda path: write_alt_ref(path, "libvpx-vp9", *SPLIT), HIDDEN_FRAMES
    ),
    "vp9_hidden_packets_mp4": VideoKind(
        ".mp4", "vp9 hidden packets", lambda path: write_alt_ref(path, "libvpx-vp9", *SPLIT), HIDDEN_FRAMES
    ),
    "av1_mp4": VideoKind(
        ".mp4", "av1",
        _cli("-c:v", "libsvtav1", "-preset", "10", "-g", "16", frames=film(NUM_FRAMES, 96, 128)),
    ),
    "av1_mkv": VideoKind(
        ".mkv", "av1", _cli("-c:v", "libaom-av1", "-cpu-used", "8", "-lag-in-frames", "20", "-g", "16")
    ),
    "mpeg1_mpg": VideoKind(".mpg", "mpeg1", _with("mpeg1video", b_frames=2)),
    "mpeg2_mpg": VideoKind(".mpg", "mpeg2 program stream", _with("mpeg2video", b_frames=2)),
    "mpeg2_vob": VideoKind(".vob", "vob", _cli("-c:v", "mpeg2video", "-bf", "2", "-b:v", "4M", "-f", "vob")),
    "mpeg2_ts": VideoKind(".ts", "mpeg2 transport stream", _with("mpeg2video", b_frames=2)),
    "mpeg2_mxf": VideoKind(".mxf", "mxf", _with("mpeg2video", b_frames=2)),
    "mpeg2_interlaced_mpg": VideoKind(
        ".mpg", "interlaced",
        _cli("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-bf", "2", "-b:v", "4M", "-top", "1"),
    ),
    "h264_fields_ts": VideoKind(".ts", "a field per packet", write_fields, 24),
    "h264_fields_mkv": VideoKind(".mkv", "a field per packet", write_fields, 24),
    "h264_fields_mp4": VideoKind(".mp4", "a field per packet", write_fields, 24),
    "h264_some_fields_mts": VideoKind(
        ".mts", "a field per packet", lambda path: write_fields(path, lambda number: number % 3 > 0), 24
    ),
    "h264_mbaff_mp4": VideoKind(".mp4", "interlaced", _x264(f"interlaced=1:{B_FRAMES}")),
    "h264_mbaff_ts": VideoKind(".ts", "interlaced", _x264(f"interlaced=1:{B_FRAMES}")),
    "mpeg4_avi": VideoKind(".avi", "mpeg4", _with("mpeg4")),
    "mpeg4_b_avi": VideoKind(".avi", "mpeg4", _with("mpeg4", b_frames=2)),
    "mpeg4_b_mp4": VideoKind(".mp4", "mpeg4", _with("mpeg4", b_frames=2)),
    "mpeg4_not_coded_avi": VideoKind(".avi", "not coded", write_not_coded),
    "mpeg4_packed_avi": VideoKind(".avi", "packed B-frames", write_packed),
    "mpeg4_dropped_avi": VideoKind(".avi", "dropped frames", write_dropped),
    "mjpeg_dropped_avi": VideoKind(".avi", "dropped frames", lambda path: write_dropped(path, "mjpeg")),
    "mjpeg_avi": VideoKind(".avi", "mjpeg", _with("mjpeg", pix_fmt="yuvj420p")),
    "mjpeg_mov": VideoKind(".mov", "mjpeg", _with("mjpeg", pix_fmt="yuvj420p")),
    "gif": VideoKind(".gif", "gif", _with("gif", pix_fmt="rgb8")),
    "theora_ogv": VideoKind(".ogv", "theora", _cli("-c:v", "libtheora", "-q:v", "9")),
    "wmv2_wmv": VideoKind(".wmv", "wmv", _with("wmv2")),
    "msmpeg4_asf": VideoKind(".asf", "asf", _with("msmpeg4")),
    "h263_3gp": VideoKind(".3gp", "h263", _with("h263", frames=film(NUM_FRAMES, 96, 128))),
    "flv1_flv": VideoKind(".flv", "flv1", _with("flv")),
    "raw_avi": VideoKind(".avi", "not compressed", _with("rawvideo", pix_fmt="yuv420p")),
    "ffv1_mkv": VideoKind(".mkv", "not lossy", _with("ffv1")),
    "dv_avi": VideoKind(".avi", "dv", _cli("-c:v", "dvvideo", "-pix_fmt", "yuv420p", frames=film(6, 576, 720)), 6),
    # Sizes, colours, lengths, sound
    "odd_size_webm": VideoKind(".webm", "odd size", _with("libvpx-vp9", frames=film(NUM_FRAMES, 49, 65))),
    "odd_size_avi": VideoKind(".avi", "odd size", _with("mpeg4", frames=film(NUM_FRAMES, 49, 65))),
    "width_70_mp4": VideoKind(".mp4", "odd size", _with(frames=film(NUM_FRAMES, 50, 70))),
    "wide_pixels_mp4": VideoKind(".mp4", "pixels not square", _with(aspect=Fraction(16, 11))),
    "wide_pixels_mpg": VideoKind(".mpg", "pixels not square", _with("mpeg2video", aspect=Fraction(16, 9))),
    "full_range_mp4": VideoKind(".mp4", "full range", _with(pix_fmt="yuvj420p")),
    "one_frame_mp4": VideoKind(".mp4", "one frame", _with(frames=film(1)), 1),
    "one_frame_webm": VideoKind(".webm", "one frame", _with("libvpx-vp9", frames=film(1)), 1),
    "one_frame_gif": VideoKind(".gif", "one frame", _with("gif", frames=film(1), pix_fmt="rgb8"), 1),
    "one_frame_avi": VideoKind(".avi", "one frame", _with("mpeg4", frames=film(1)), 1),
    "sound_first_mp4": VideoKind(".mp4", "sound first", _with(audio="aac", audio_first=True)),
    "sound_first_mkv": VideoKind(".mkv", "sound first", _with(audio="aac", audio_first=True)),
    "sound_ts": VideoKind(".ts", "sound first", _with(audio="mp2", audio_first=True)),
}  # fmt: skip
