"""Videos for benchmarks: moving textures with the spectrum of natural pictures, a moving object, grain."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def make_videos(
    folder: Path, count: int, *, seconds: int = 10, fps: int = 30, height: int = 256, width: int = 340
) -> list[Path]:
    """Encode `count` H.264 videos with x264's default settings (key frames up to 250 apart, B-frames).

    At the default size a video has about 0.5 MB, as Kinetics videos of this size have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        _write(path, np.random.default_rng(number), seconds * fps, fps, height, width)
    return paths


def _write(path: Path, generator: np.random.Generator, num_frames: int, fps: int, height: int, width: int) -> None:
    background = _texture(generator, 2 * height, 2 * width, power=1.2)
    side = height * 5 // 8
    thing = _texture(generator, side, side, power=1.1)
    y, x = np.mgrid[:side, :side] - side / 2
    is_thing = (y**2 + x**2 < (side / 2.2) ** 2)[..., None]
    grain = 3 * generator.standard_normal((8, height + 64, width + 64, 1))
    phases = generator.uniform(0, 2 * np.pi, 4)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            waves = 0.5 + 0.49 * np.sin(number / np.array([60, 85, 17, 23]) + phases)
            top, left = int(waves[0] * height), int(waves[1] * width)
            frame = background[top : top + height, left : left + width].copy()
            top, left = int(waves[2] * (height - side)), int(waves[3] * (width - side))
            place = frame[top : top + side, left : left + side]
            place[:] = np.where(is_thing, thing, place)
            top, left = generator.integers(64, size=2)
            frame += grain[number % 8, top : top + height, left : left + width]
            picture = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _texture(generator: np.random.Generator, height: int, width: int, power: float) -> np.ndarray:
    """Noise whose amplitude falls with the frequency, float (height, width, 3), mean 118."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(generator.standard_normal((height, width))) / frequency**power
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append(plane / plane.std())
    colours = np.stack(planes, axis=-1)
    return 118 + 48 * (0.6 * colours[..., :1] + 0.4 * colours)
