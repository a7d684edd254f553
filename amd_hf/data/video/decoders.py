"""The decoders beside PyAV: decord, torchcodec, Pillow for images, and videos that are decoded already.

Each is a [`~amd_hf.video_reading_amd.VideoDecoder`]. PyAV is in `video_reading_amd`, which travels with checkpoints.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import io
import logging
import os
from typing import Any, ClassVar

import numpy as np

from ...video_reading_amd import IMAGE_FAULT, PyAVDecoder, VideoDecoder, VideoLimits, VideoReadError
from .source import VideoSource


logger = logging.getLogger(__name__)

_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")  # Pillow hands some of the others to outside programs


# ---------------------------------------------------------------------------------------------------------------------
# decord and torchcodec: on the files on which they are right
# ---------------------------------------------------------------------------------------------------------------------


class GuardedDecoder(VideoDecoder):
    """A decoder with a substitute: PyAV reads the files on which it is known to be wrong, and those that it refuses.

    PyAV has the last word on whether a video can be read, so a sound video is not lost to a fault of the decoder.
    """

    decoder_name: ClassVar[str]
    _native: Any = None  # the library's own object

    def __init__(
        self, source: VideoSource, video_id: str | None, limits: VideoLimits | None = None, num_threads: int = 1
    ) -> None:
        super().__init__(source, video_id, limits, num_threads)
        self._frame_times: np.ndarray | None = None
        self._expected_size: tuple[int, int] | None = None
        # PyAV looks at the packets first. What it cannot read nobody can, and it says which files are safe to hand on:
        # the other decoders' FFmpeg would open whatever a playlist names.
        probe = PyAVDecoder(source, video_id, limits, num_threads, uses_index=False)
        self._substitute: PyAVDecoder | None = probe
        self._num_frames = len(probe)
        if not (self._is_mp4_or_matroska(probe.packets.format_name) and self._is_right_on(probe)):
            return
        try:
            with self._faults_of_the_file(self.decoder_name):
                num_frames = self._open()
                if num_frames != len(probe):
                    raise ValueError(f"it counts {num_frames} frames where there are {len(probe)}")
            self._frame_times = probe.frame_times
            self._expected_size = probe.height, probe.width
        except VideoReadError as error:
            self._use_substitute(error)
            return
        self._substitute = None
        probe.close()

    def _is_right_on(self, probe: PyAVDecoder) -> bool:
        """Return whether the decoder reads a file of this kind right."""
        return probe.is_plain

    def _open(self) -> int:
        """Open the file and return its number of frames; any exception calls for the substitute."""
        raise NotImplementedError

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        """Decode as `_read` does; any exception calls for the substitute."""
        raise NotImplementedError

    def _handle(self) -> str | bytes:
        """Return bytes for the decoder, or a path that no FFmpeg takes for an address, since it starts with `/`."""
        return os.path.abspath(self.source.path) if self.source.path is not None else self.source.data or b""

    def _is_mp4_or_matroska(self, format_name: str) -> bool:
        """Return whether every FFmpeg recognises the same format in the file: only these have true timestamps.

        A file that starts so scores higher as MP4 or Matroska than anything else that its bytes may imitate.
        """
        if self.source.path is None:
            start = (self.source.data or b"")[:12]
        else:
            with open(self.source.path, "rb") as file:
                start = file.read(12)
        is_mp4 = format_name.startswith("mov") and start[4:8] == b"ftyp"
        return is_mp4 or (format_name.startswith("matroska") and start[:4] == b"\x1a\x45\xdf\xa3")

    def __len__(self) -> int:
        return self._num_frames if self._substitute is None else len(self._substitute)

    @property
    def frame_times(self) -> np.ndarray:
        if self._substitute is not None:
            return self._substitute.frame_times
        assert self._frame_times is not None
        return self._frame_times

    def close(self) -> None:
        self._native = None
        if self._substitute is not None:
            self._substitute.close()

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._substitute is None:
            try:
                with self._faults_of_the_file(self.decoder_name):
                    frames = self._read_natively(indices)
                    if frames.shape[1:3] != self._expected_size:  # the edges that a header crops, as it sees them
                        raise ValueError(f"its frames are {frames.shape[1:3]}, not {self._expected_size}")
                    return frames
            except VideoReadError as error:
                self._use_substitute(error)
        assert self._substitute is not None
        return self._substitute._read(indices)

    def _use_substitute(self, error: VideoReadError) -> None:
        logger.debug("%s: PyAV reads it, since %s", self.source, error.reason)
        self._native = None
        if self._substitute is None:
            self._substitute = PyAVDecoder(self.source, self.video_id, self.limits, self.num_threads)


class DecordDecoder(GuardedDecoder):
    """Decoder of decord 0.6.0, or of decord2, imported under the same name: it seeks by itself and turns as files ask.

    decord finds frames by counting packets, and gives wrong ones, without an error, where that does not hold: open
    groups of pictures, H.264 intra refresh, AVI and MPEG files with B-frames. So the packets are looked at first.
    """

    decoder_name = "decord"

    @staticmethod
    def import_decoder() -> None:
        import av  # noqa: F401
        import decord  # noqa: F401

    def _open(self) -> int:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        handle = self._handle()
        self._native = decord.VideoReader(
            io.BytesIO(handle) if isinstance(handle, bytes) else handle, num_threads=self.num_threads
        )
        return len(self._native)

    def _is_right_on(self, probe: PyAVDecoder) -> bool:
        # It allocates for as many frames as the header promises, and aborts the process where memory does not suffice.
        if probe.packets.promised_frames > 4 * len(probe) + 1000:
            return False
        return probe.order is not None and probe.order.is_simple and super()._is_right_on(probe)

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        if self._frame_shape is not None:
            self._check_size(len(indices), *self._frame_shape)
            return self._native.get_batch(indices).asnumpy()
        # The size is sure only once a frame is decoded: take the first alone, then check, then the others.
        first = self._native.get_batch(indices[:1]).asnumpy()
        height, width = first.shape[1:3]
        self._check_size(len(indices), height, width)
        if len(indices) == 1:
            return first
        frames = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        frames[:1] = first
        frames[1:] = self._native.get_batch(indices[1:]).asnumpy()
        return frames


class TorchCodecDecoder(GuardedDecoder):
    """Decoder of torchcodec, which needs the system's FFmpeg, seeks by itself and applies rotation metadata.

    It is exact in MP4 and Matroska / WebM files whose packets show a frame each. In AVI, MPEG and transport streams it
    loses or shifts frames where there are B-frames (0.17 with FFmpeg 5.1), and it does not mirror: those go to PyAV.
    """

    decoder_name = "torchcodec"
    device: ClassVar[str] = "cpu"

    @staticmethod
    def import_decoder() -> None:
        import av  # noqa: F401
        from torchcodec.decoders import VideoDecoder  # noqa: F401

    def _open(self) -> int:
        import torchcodec.decoders

        self._native = torchcodec.decoders.VideoDecoder(
            self._handle(),  # type: ignore[arg-type]
            dimension_order="NHWC",
            num_ffmpeg_threads=self.num_threads,
            device=self.device,
            seek_mode="exact",
        )
        self._check_size(1, self._native.metadata.height or 0, self._native.metadata.width or 0)
        return len(self._native)

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        metadata = self._native.metadata
        self._check_size(len(indices), metadata.height or 0, metadata.width or 0)
        return self._native.get_frames_at(indices.tolist()).data.cpu().numpy()


class CudaTorchCodecDecoder(TorchCodecDecoder):
    """Decoder of torchcodec on the GPU (NVDEC), for machines with few cores for each GPU.

    Frames come back to the CPU, where clips are made. NVDEC gives the planes that others give; its conversion to RGB
    may round in another way. What NVDEC does not decode (10-bit H.264, 4:4:4, MPEG-4) PyAV reads, as ever.
    """

    decoder_name = "torchcodec_cuda"
    device = "cuda"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        import torch

        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:  # no fault of the file, for which PyAV would stand in
            raise ImportError(
                f"The decoder 'torchcodec_cuda' cannot be used: {error} In the workers of a data loader, which are "
                "forked, set a `decode_time_limit`: videos are decoded in a process of their own then."
            ) from error
        super().__init__(*args, **kwargs)

    @staticmethod
    def import_decoder() -> None:
        TorchCodecDecoder.import_decoder()
        import torch

        torch.cuda.init()  # what CUDA takes is no memory that a video takes


def why_cuda_is_unusable() -> str | None:
    """Say why no GPU can decode; None if there is one."""
    import torch

    # Unlike `is_available`, this may be asked in the forked worker of a data loader.
    if torch.cuda.device_count() > 0:
        return None
    return "it decodes on an NVIDIA GPU, and PyTorch finds none (`torch.cuda.device_count()` is 0)"


def is_decord2_installed() -> bool:
    """Return whether the package `decord` that is imported was installed as decord2."""
    try:
        importlib.metadata.distribution("decord2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def why_torchcodec_is_unusable() -> str | None:
    """Say why torchcodec cannot be used in this process: it is not installed or finds no FFmpeg. None if it can."""
    if importlib.util.find_spec("torchcodec") is None:
        return "it is not installed"
    try:
        import torchcodec
    except (ImportError, RuntimeError, OSError) as error:  # up to version 0.16 the import fails without FFmpeg
        return f"it cannot be loaded ({' '.join(str(error).split())[:200]})"
    if getattr(torchcodec, "ffmpeg_major_version", True) is None:
        return "it finds no FFmpeg libraries (versions 4 to 9); on Debian and Ubuntu: `apt-get install ffmpeg`"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Without a video decoder: image files, and videos that are in memory already
# ---------------------------------------------------------------------------------------------------------------------


class ImageDecoder(VideoDecoder):
    """Decoder of a video that lies on disk as one image file per frame, or of an image: a video of one frame."""

    source: VideoSource

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_length(len(self))

    @staticmethod
    def import_decoder() -> None:
        from PIL import Image  # noqa: F401

    def __len__(self) -> int:
        return 1 if self.source.frame_paths is None else len(self.source.frame_paths)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        from PIL import Image

        frames: np.ndarray | None = None
        for position, index in enumerate(indices.tolist()):
            file: str | io.BytesIO
            if self.source.frame_paths is not None:
                file = self.source.frame_paths[index]
                name = f"frame {index} ({file})"
            else:
                file = self.source.path if self.source.path is not None else io.BytesIO(self.source.data or b"")
                name = "Pillow"
            with self._faults_of_the_file(name):
                with Image.open(file, formats=_IMAGE_FORMATS) as image:
                    self._check_size(len(indices), image.height, image.width)
                    pixels = np.asarray(image.convert("RGB"))
                if frames is None:
                    frames = np.empty((len(indices), *pixels.shape), dtype=np.uint8)
            if pixels.shape != frames.shape[1:]:
                raise self._error(f"frame {index} is {pixels.shape[:2]}, the first one {frames.shape[1:3]}")
            frames[position] = pixels
        assert frames is not None
        return frames

    @property
    def frame_times(self) -> np.ndarray:
        is_one = self.source.frame_paths is None
        raise self._error(IMAGE_FAULT if is_one else "image files do not say when they are shown")


class DecodedVideo(VideoDecoder):
    """A whole video that is already in memory as uint8 (n, H, W, 3)."""

    def __init__(self, array: np.ndarray, source: VideoSource) -> None:
        super().__init__(source, None, VideoLimits(max_decoded_bytes=max(array.nbytes, 1)))
        self._array = array
        self._frame_shape = array.shape[1:3]

    def __len__(self) -> int:
        return len(self._array)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self._array[indices]


__all__ = [
    "CudaTorchCodecDecoder",
    "DecodedVideo",
    "DecordDecoder",
    "ImageDecoder",
    "TorchCodecDecoder",
    "is_decord2_installed",
    "why_cuda_is_unusable",
    "why_torchcodec_is_unusable",
]
