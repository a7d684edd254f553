"""What the authors' released loaders do for one video, re-written from their description to be timed beside ours.

Facts from MCG-NJU/AMD `dataset/`: frames come from decord; crops and RandAugment are PIL operations on one frame after
the other; clips leave as normalised float32; repetitions share the frames of one window; each view of the test is a
sample of its own, for which the whole frame grid of the video is decoded and resized again.
Where the original calls OpenCV (the resize of the test), torchvision's uint8 kernel stands in, frame by frame: it is
about as fast, and OpenCV need not be installed.
"""

from __future__ import annotations

import random

import decord
import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torchvision import transforms
from torchvision.transforms.v2 import functional


NUM_FRAMES, RATE, SIZE = 16, 4, 224
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
_SCALES = (1.0, 0.875, 0.75, 0.66)


def decode(path: str, indices: list[int]) -> np.ndarray:
    """Frames of a video, uint8 (n, H, W, 3), as the original reads them."""
    return decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0)).get_batch(indices).asnumpy()


def window(num_frames: int) -> list[int]:
    """The frames of one clip at a random place."""
    start = random.randint(0, num_frames - NUM_FRAMES * RATE)
    return list(range(start, start + NUM_FRAMES * RATE, RATE))


def pretraining_clips(path: str, repetitions: int) -> torch.Tensor:
    """`repetitions` multi-scale crops of one window, float32 (K, C, T, H, W)."""
    reader = decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0))
    video = reader.get_batch(window(len(reader))).asnumpy()
    frames = [Image.fromarray(frame).convert("RGB") for frame in video]
    return torch.stack([_multi_scale_crop(frames) for _ in range(repetitions)])


def _multi_scale_crop(frames: list[Image.Image]) -> torch.Tensor:
    width, height = frames[0].size
    sides = [int(min(width, height) * scale) for scale in _SCALES]
    row = random.randrange(len(sides))
    column = random.choice([index for index in range(len(sides)) if abs(index - row) <= 1])
    crop_width, crop_height = sides[column], sides[row]
    left = random.randint(0, 4) * ((width - crop_width) // 4)
    top = random.randint(0, 4) * ((height - crop_height) // 4)
    box = (left, top, left + crop_width, top + crop_height)
    cropped = [frame.crop(box) for frame in frames]
    resized = [frame.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for frame in cropped]
    stacked = np.concatenate([np.asarray(frame) for frame in resized], axis=2)  # (H, W, T * C)
    clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    for channel in range(len(clip)):
        clip[channel].sub_(_MEAN[channel % 3]).div_(_STD[channel % 3])
    return clip.view(NUM_FRAMES, 3, SIZE, SIZE).transpose(0, 1)


def finetuning_clips(path: str, repetitions: int) -> torch.Tensor:
    """`repetitions` augmented clips of one window, float32 (K, C, T, H, W)."""
    reader = decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0))
    video = reader.get_batch(window(len(reader))).asnumpy()
    return torch.stack([_augment(video) for _ in range(repetitions)])


def _augment(video: np.ndarray) -> torch.Tensor:
    frames = [transforms.ToPILImage()(frame) for frame in video]
    frames = _rand_augment(frames)
    clip = torch.stack([transforms.ToTensor()(frame) for frame in frames])
    clip = (clip.permute(0, 2, 3, 1) - _MEAN) / _STD
    clip = clip.permute(3, 0, 1, 2)  # (C, T, H, W)
    top, left, height, width = transforms.RandomResizedCrop.get_params(clip, [0.08, 1.0], [0.75, 1.3333])
    clip = torch.nn.functional.interpolate(
        clip[:, :, top : top + height, left : left + width], (SIZE, SIZE), mode="bilinear", align_corners=False
    )
    if random.random() < 0.5:
        clip = clip.flip(-1)
    # One box for all frames: timm draws it for the frames stacked as channels.
    erased = RandomErasing(0.25, mode="pixel", device="cpu")(clip.reshape(3 * NUM_FRAMES, SIZE, SIZE))
    return erased.view_as(clip)


def _rand_augment(frames: list[Image.Image]) -> list[Image.Image]:
    """timm's operations; each is drawn once and applied to all frames."""
    options = {"translate_const": int(SIZE * 0.45), "interpolation": Image.Resampling.BICUBIC}
    augment = rand_augment_transform("rand-m7-n4-mstd0.5-inc1", options)
    for operation in random.choices(augment.ops, k=augment.num_layers):
        if random.random() > operation.prob:
            continue
        magnitude = min(max(random.gauss(operation.magnitude, operation.magnitude_std), 0.0), 10.0)
        arguments = operation.level_fn(magnitude, operation.hparams) if operation.level_fn is not None else ()
        frames = [operation.aug_fn(frame, *arguments, **operation.kwargs) for frame in frames]
    return frames


def test_views(path: str, num_segments: int, num_crops: int) -> torch.Tensor:
    """All views of one video, float32 (S * C, 3, T, H, W); each decodes and resizes the whole grid of frames."""
    return torch.stack(
        [_test_view(path, segment, crop, num_segments, num_crops) for segment in range(num_segments)
         for crop in range(num_crops)]
    )  # fmt: skip


def _test_view(path: str, segment: int, crop: int, num_segments: int, num_crops: int) -> torch.Tensor:
    reader = decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0))
    video = reader.get_batch(list(range(0, len(reader), RATE))).asnumpy()
    height, width = video.shape[1:3]
    new_size = [SIZE, int(SIZE * width / height)]
    resized = []
    for frame in video:
        image = functional.resize(torch.from_numpy(frame).permute(2, 0, 1), new_size, antialias=False)
        resized.append(image.permute(1, 2, 0).numpy())
    grid = np.stack(resized)
    start = int(segment * max(len(grid) - NUM_FRAMES, 0) / (num_segments - 1))
    left = int(crop * (new_size[1] - SIZE) / (num_crops - 1))
    clip = grid[start : start + NUM_FRAMES, :, left : left + SIZE]
    as_float = np.zeros((3, NUM_FRAMES, SIZE, SIZE))
    for index, frame in enumerate(clip):
        as_float[:, index] = frame.transpose(2, 0, 1)
    tensor = torch.from_numpy(as_float).float().div(255)
    for channel in range(3):
        tensor[channel].sub_(_MEAN[channel]).div_(_STD[channel])
    return tensor
