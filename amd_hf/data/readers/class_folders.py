"""Class folders: `root/<class>/x.mp4` or `root/<split>/<class>/x.mp4`; a flat folder of videos has no labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .label_names import read_label_names
from .rows import MEDIA_SUFFIXES, VideoRows, folder_names, is_video_file, video_names


SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")


def read_class_folders(
    root: Path,
    split: str | None = None,
    label_names: str | Path | Sequence[str] | None = None,
    media: str = "video",
) -> VideoRows:
    """List the videos of a folder, labelled by the names of its class folders in sorted order.

    A split counts the classes of its sibling splits too, so that a label means the same in each of them.

    Args:
        root (`Path`): the data set's folder. A `video_id` is a path relative to it, with forward slashes.
        split (`str`, *optional*): sub-folder of `root` to read.
        label_names (path or sequence of `str`, *optional*): names of the labels in their order, where it is not the
            sorted one or where classes are missing; a class folder of another name is an error.
        media (`str`, defaults to `"video"`): which files count, `video` or `image`.

    Returns:
        `VideoRows` in sorted order.

    Raises:
        FileNotFoundError: `root` or its split does not exist.
        ValueError: no video where one is looked for, a layout that can be read in two ways, or a class folder that
            `label_names` does not name.
    """
    folder = _find_folder(root, split)
    files = video_names(folder, media)
    class_names = _class_names(folder, media)
    if files and class_names:
        raise ValueError(
            f"{folder} holds videos ({files[0]}, ...) and folders of videos ({class_names[0]}, ...): it is unclear "
            "whether the videos have labels. Move the loose videos into a class folder, or all videos into one folder."
        )
    if files:
        return _rows(root, [folder / name for name in files])
    if not class_names:
        raise ValueError(_no_video_message(folder, split, media))
    if split is None and set(class_names) <= set(SPLIT_NAMES):
        raise ValueError(
            f"The folders of {root} are splits, not classes: {', '.join(class_names)}. Choose one with `split`."
        )
    names = read_label_names(label_names)
    if names is None:
        names = sorted(set(class_names).union(*(_class_names(path, media) for path in _sibling_splits(root, split))))
    unknown = sorted(set(class_names) - set(names))
    if unknown:
        raise ValueError(
            f"{len(unknown)} class folder(s) of {folder} are none of the {len(names)} label names: "
            f"{', '.join(unknown[:20])}. Rename the folders, or complete the label names."
        )
    paths = [
        folder / class_name / name for class_name in class_names for name in video_names(folder / class_name, media)
    ]
    return _rows(root, paths, names)


def _rows(root: Path, paths: list[Path], label_names: list[str] | None = None) -> VideoRows:
    labels = None
    if label_names is not None:
        label_of = {name: label for label, name in enumerate(label_names)}
        labels = [label_of[path.parent.name] for path in paths]
    video_ids = [path.relative_to(root).as_posix() for path in paths]
    return VideoRows([os.path.abspath(path) for path in paths], video_ids, labels, label_names)


def _find_folder(root: Path, split: str | None) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}. Give the folder that holds the class folders.")
    folder = root / split if split is not None else root
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no split {split!r} in {root}; its folders are {folder_names(root)}. Choose one of them as "
            "`split`, or none where they are classes."
        )
    return folder


def _sibling_splits(root: Path, split: str | None) -> list[Path]:
    """The other splits of the data set, told by their names: an unknown folder may be another data set."""
    if split not in SPLIT_NAMES:
        return []
    return [root / name for name in folder_names(root) if name in SPLIT_NAMES and name != split]


def _class_names(folder: Path, media: str) -> list[str]:
    """Names of the sub-folders that hold a video, sorted."""
    return [name for name in folder_names(folder) if _has_video(folder / name, media)]


def _has_video(folder: Path, media: str) -> bool:
    with os.scandir(folder) as entries:
        return any(is_video_file(entry.name, media) for entry in entries)


def _no_video_message(folder: Path, split: str | None, media: str) -> str:
    nested = [name for name in folder_names(folder) if _class_names(folder / name, media)]
    if nested and split is None:
        return f"{folder} holds no {media}s, but its folders {nested} hold class folders. Choose one with `split`."
    other = next(kind for kind in MEDIA_SUFFIXES if kind != media)
    hint = f" It holds {other}s: say `media={other}`." if _class_names(folder, other) else ""
    return (
        f"Found no {media} in {folder} or in its sub-folders (looked for {', '.join(MEDIA_SUFFIXES[media])}). "
        f"Expected <class>/<{media}> for labelled {media}s, or the {media}s themselves for unlabelled ones.{hint}"
    )
