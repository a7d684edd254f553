"""A video with boxes of persons and their actions drawn on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.video.decoding import VideoDecoder, open_video


_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
_LONGEST_STAY = 1.0  # seconds for which boxes are shown around their timestamp, half before and half after
_FRAMES_AT_ONCE = 16
_CLOCK = 90_000  # ticks per second of the file written


def draw_detections(
    video: str | os.PathLike[str],
    detections: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    min_side: int = 320,
    decoder: str | None = None,
    time_limit: float | None = None,
) -> Path:
    """Write an H.264 mp4 of a video with boxes and labels drawn on it, each frame at its own time, without sound.

    Each frame shows the boxes of the nearest timestamp, at most half a second away: between timestamps nothing is
    known about the persons.

    Args:
        video (path): The video file.
        detections (`Sequence[Mapping]`): By increasing time, each with `timestamp` in seconds and `persons`, each of
            these with `box` (x1 y1 x2 y2 as fractions of the frame) and `actions` of `label` and `score`. Entries
            without persons draw nothing.
        path (path): The mp4 file.
        min_side (`int`, defaults to 320): Enlarge videos with a shorter short side to this, so that text is readable.
        decoder (`str`, *optional*): Video decoder by name.
        time_limit (`float`, *optional*): Seconds that reading 16 frames may take; see
            [`~amd_hf.data.video.decoding.open_video`].

    Raises:
        VideoReadError: If the video cannot be read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    shown = [found for found in detections if found.get("persons")]
    timestamps = np.array([found["timestamp"] for found in shown])
    with (
        open_video(str(video), decoder=decoder, time_limit=time_limit, is_limit_per_read=True) as reader,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        times = reader.frame_times
        rate = len(reader) / max(float(times[-1]), 1 / _CLOCK)
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
        for index, frame in enumerate(_frames(reader)):
            picture = Image.fromarray(frame)
            # H.264 needs an even width and height; text needs a short side of at least `min_side`.
            scale = max(1.0, min_side / min(picture.size))
            width, height = (max(2, 2 * round(side * scale / 2)) for side in picture.size)
            if (width, height) != picture.size:
                picture = picture.resize((width, height), Image.Resampling.BICUBIC)
            if index == 0:
                stream.width, stream.height = picture.size
            nearest = _nearest(timestamps, times[index])
            if nearest is not None:
                draw_persons(picture, shown[nearest]["persons"])
            drawn = av.VideoFrame.from_image(picture)
            drawn.pts, drawn.time_base = round(times[index] * _CLOCK), Fraction(1, _CLOCK)
            container.mux(stream.encode(drawn))
        container.mux(stream.encode())
    unfinished.replace(path)
    return path


def draw_persons(picture: Image.Image, persons: Sequence[Mapping[str, Any]]) -> None:
    """Draw the boxes of persons and their actions on a picture, each person in another colour."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    line = max(1, round(min(width, height) / 180))
    font = ImageFont.load_default(size=max(10, round(min(width, height) / 28)))
    for index, person in enumerate(persons):
        colour = _COLOURS[index % len(_COLOURS)]
        # Sides alternate between x and y, fractions of the width and of the height.
        x1, y1, x2, y2 = (side * (width, height)[axis % 2] for axis, side in enumerate(person["box"]))
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour, width=line)
        text = "\n".join(f"{action['label']} {action['score']:.2f}" for action in person["actions"])
        if text:
            _label(draw, text, (x1, y1), picture.size, font, colour)


def _label(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], size: tuple[int, int], font: Any, colour: str
) -> None:
    """Write a text on the box's colour, above the corner where there is room, else below, within the picture."""
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, spacing=1)
    width, height = right + 4, bottom + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else min(corner[1], max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.multiline_text((x + 2, y + 1), text, fill="white", font=font, spacing=1)


def _frames(reader: VideoDecoder) -> Iterator[np.ndarray]:
    for start in range(0, len(reader), _FRAMES_AT_ONCE):
        yield from reader.frames(np.arange(start, min(start + _FRAMES_AT_ONCE, len(reader))))


def _nearest(times: np.ndarray, seconds: float) -> int | None:
    """Find the index of the nearest timestamp, of an increasing array; None if none is near enough."""
    after = int(np.searchsorted(times, seconds))
    near = [index for index in (after - 1, after) if 0 <= index < len(times)]
    nearest = min(near, key=lambda index: abs(times[index] - seconds), default=None)
    return nearest if nearest is not None and abs(times[nearest] - seconds) <= _LONGEST_STAY / 2 else None
