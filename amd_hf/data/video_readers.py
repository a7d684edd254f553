"""The decoders of `decoding.open_video`, each behind the protocol `decoding.VideoReader`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .video_source import VideoReadError, VideoSource


class BaseVideoReader:
    """Checks and bookkeeping that all readers share; a decoder adds `__len__`, `_read` and perhaps `close`."""

    def __init__(self, source: VideoSource, video_id: str | None, max_decoded_bytes: int) -> None:
        self.source = source
        self.video_id = video_id
        self.max_decoded_bytes = max_decoded_bytes
        self._frame_shape: tuple[int, int] | None = None  # (H, W), known once a frame was decoded

    def __len__(self) -> int:
        raise NotImplementedError

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """Decode strictly increasing int64 `indices` to uint8 (n, H, W, 3)."""
        raise NotImplementedError

    @property
    def height(self) -> int:
        return self._known_frame_shape()[0]

    @property
    def width(self) -> int:
        return self._known_frame_shape()[1]

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size == 0:
            raise ValueError("`indices` is empty: ask for at least one frame.")
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"Frames {wanted.min()}..{wanted.max()} asked of {self.source}, which has {len(self)}.")
        unique, inverse = np.unique(wanted, return_inverse=True)
        frames = self._read(unique)
        self._frame_shape = frames.shape[1:3]
        return frames if np.array_equal(unique, wanted) else frames[inverse]

    def close(self) -> None:
        """Free what the decoder holds; reading afterwards is not possible."""

    def __enter__(self) -> BaseVideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _known_frame_shape(self) -> tuple[int, int]:
        # The size in the header ignores rotation and may be wrong, so a frame is decoded.
        if self._frame_shape is None:
            self.frames([0])
        assert self._frame_shape is not None
        return self._frame_shape

    def _error(self, reason: object) -> VideoReadError:
        return VideoReadError(" ".join(str(reason).split()), self.video_id, str(self.source))

    def _check_size(self, num_frames: int, height: int, width: int) -> None:
        num_bytes = num_frames * height * width * 3
        if num_bytes > self.max_decoded_bytes:
            raise self._error(
                f"{num_frames} frames of {height} x {width} take {num_bytes} bytes, above the limit of "
                f"{self.max_decoded_bytes} (`max_decoded_bytes`)"
            )


class DecordVideoReader(BaseVideoReader):
    """Reads with decord, which seeks by itself. Rotation metadata is applied by decord."""

    def __init__(self, source: VideoSource, video_id: str | None, max_decoded_bytes: int, num_threads: int) -> None:
        super().__init__(source, video_id, max_decoded_bytes)
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        # DECORDError derives from Exception only; an empty stream fails decord's own assert.
        self._decord_errors = (RuntimeError, AssertionError, OSError, decord.DECORDError)
        self._substitute: PyAVVideoReader | None = None
        self._num_threads = num_threads
        handle = source.path if source.data is None else io.BytesIO(source.data)
        try:
            self._reader = decord.VideoReader(handle, num_threads=num_threads)
        except self._decord_errors as error:
            raise self._error(f"decord: {error}") from error

    def __len__(self) -> int:
        return len(self._reader)

    def close(self) -> None:
        self._reader = None
        if self._substitute is not None:
            self._substitute.close()

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._substitute is not None:
            return self._substitute._read(indices)
        try:
            return self._read_with_decord(indices)
        except self._decord_errors as error:
            if isinstance(error, VideoReadError):
                raise
            # decord 0.6.0 mistakes the row padding of some widths (72) for pixels and refuses sound videos.
            if "from_size == to_size" not in str(error) or "pyav" not in available_decoders():
                raise self._error(f"decord: {error}") from error
        self._substitute = PyAVVideoReader(self.source, self.video_id, self.max_decoded_bytes, self._num_threads)
        return self._substitute._read(indices)

    def _read_with_decord(self, indices: np.ndarray) -> np.ndarray:
        if self._frame_shape is not None:
            self._check_size(len(indices), *self._frame_shape)
            return self._reader.get_batch(indices).asnumpy()
        # The size is unknown until a frame is decoded: take the first alone, then check, then the others.
        first = self._reader.get_batch(indices[:1]).asnumpy()
        height, width = first.shape[1:3]
        self._check_size(len(indices), height, width)
        if len(indices) == 1:
            return first
        frames = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        frames[:1] = first
        frames[1:] = self._reader.get_batch(indices[1:]).asnumpy()
        return frames


class PyAVVideoReader(BaseVideoReader):
    """Reads with PyAV: one pass forward from where the last call stopped; going back opens the file anew."""

    def __init__(self, source: VideoSource, video_id: str | None, max_decoded_bytes: int, num_threads: int) -> None:
        super().__init__(source, video_id, max_decoded_bytes)
        import av

        self._av = av
        self._num_threads = num_threads
        self._container: Any = None
        self._decoded: Iterator[Any] = iter(())
        self._next_index = 0
        self._num_frames = self._start().frames or self._count_frames()
        if self._num_frames == 0:
            self.close()
            raise self._error("it holds zero frames")

    def __len__(self) -> int:
        return self._num_frames

    def close(self) -> None:
        self._decoded = iter(())  # its frames refer back here: left to the garbage collector they would outlive a fork
        if self._container is not None:
            self._container.close()
            self._container = None

    def _start(self) -> Any:
        """Open the file at its first frame and return its video stream."""
        self.close()
        handle = self.source.path if self.source.data is None else io.BytesIO(self.source.data)
        try:
            self._container = self._av.open(handle)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._error(f"pyav: {error}") from error
        if not self._container.streams.video:
            self.close()
            raise self._error("it has no video stream")
        stream = self._container.streams.video[0]
        context = stream.codec_context
        if context is None:
            self.close()
            raise self._error("pyav has no decoder for its video stream")
        context.thread_count = self._num_threads
        self._check_size(1, context.height, context.width)
        self._decoded = self._decode()
        self._next_index = 0
        return stream

    def _decode(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(video=0)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._error(f"pyav: {error}") from error

    def _count_frames(self) -> int:
        # WebM and raw streams do not say how many frames they hold.
        num_frames = sum(1 for _ in self._decoded)
        self._start()
        return num_frames

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if indices[0] < self._next_index:
            self._start()
        frames: np.ndarray | None = None
        for position, index in enumerate(indices):
            image = _upright_rgb(self._frame_at(int(index)))
            if frames is None:
                self._check_size(len(indices), *image.shape[:2])
                frames = np.empty((len(indices), *image.shape), dtype=np.uint8)
            if image.shape != frames.shape[1:]:
                raise self._error(f"the frame size changes from {frames.shape[1:3]} to {image.shape[:2]} at {index}")
            frames[position] = image
        assert frames is not None
        return frames

    def _frame_at(self, index: int) -> Any:
        for frame in self._decoded:
            self._next_index += 1
            if self._next_index > index:
                return frame
        raise self._error(f"its header promises {len(self)} frames, but decoding ends after {self._next_index}")


def _upright_rgb(frame: Any) -> np.ndarray:
    """Turn a PyAV frame into uint8 (H, W, 3), rotated as its metadata asks (decord does so by itself)."""
    image = frame.to_ndarray(format="rgb24", threads=1)
    return np.rot90(image, frame.rotation // 90) if frame.rotation else image


class FrameFolderReader(BaseVideoReader):
    """Reads a video that lies on disk as one image file per frame."""

    def __len__(self) -> int:
        return len(self.source.frame_paths or ())

    def _read(self, indices: np.ndarray) -> np.ndarray:
        from PIL import Image

        assert self.source.frame_paths is not None
        frames: list[np.ndarray] = []
        for index in indices:
            path = self.source.frame_paths[index]
            try:
                with Image.open(path) as image:
                    self._check_size(len(indices), image.height, image.width)
                    frames.append(np.asarray(image.convert("RGB")))
            except (OSError, Image.DecompressionBombError) as error:
                raise self._error(f"frame {index} ({path}): {error}") from error
            if frames[-1].shape != frames[0].shape:
                raise self._error(f"frame {index} is {frames[-1].shape[:2]}, the first one {frames[0].shape[:2]}")
        return np.stack(frames)


class ArrayReader(BaseVideoReader):
    """A whole video that is already in memory as uint8 (n, H, W, 3)."""

    def __init__(self, array: np.ndarray, source: VideoSource) -> None:
        super().__init__(source, None, array.nbytes)
        self._array = array
        self._frame_shape = array.shape[1:3]

    def __len__(self) -> int:
        return len(self._array)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self._array[indices]


DecoderClass = Callable[[VideoSource, "str | None", int, int], BaseVideoReader]
_READER_CLASSES: dict[str, tuple[DecoderClass, str]] = {
    "decord": (DecordVideoReader, "decord"),
    "pyav": (PyAVVideoReader, "av"),
}


def available_decoders() -> list[str]:
    """Names of the decoders that are installed, the preferred one first."""
    return [name for name, (_, package) in _READER_CLASSES.items() if importlib.util.find_spec(package) is not None]


def reader_class(decoder: str | None) -> DecoderClass:
    """Find the reader for `decoder`, or the preferred installed one for None.

    Raises:
        ValueError: an unknown name.
        ImportError: the decoder is not installed.
    """
    if decoder is not None and decoder not in _READER_CLASSES:
        raise ValueError(f"`decoder` must be one of {sorted(_READER_CLASSES)} or None, not {decoder!r}.")
    installed = available_decoders()
    if not installed:
        raise ImportError("No video decoder is installed: run `pip install decord` or `pip install av`.")
    name = decoder or installed[0]
    if name not in installed:
        package = _READER_CLASSES[name][1]
        raise ImportError(f"The decoder {name!r} is not installed: run `pip install {package}`, or use {installed}.")
    return _READER_CLASSES[name][0]
