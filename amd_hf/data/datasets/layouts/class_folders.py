"""Class folders: `root/<class>/.../x.mp4` or `root/<split>/<class>/.../x.mp4`; videos by themselves have no labels.

The class is the first folder; what lies below it may be nested as deep as it likes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..label_names import near_name
from ..listing import NO_VIDEOS, SIDE_FILE, Listing, folder_names, is_utf8, list_folder
from ..problems import printable
from ..rows import MEDIA_SUFFIXES, VideoRows


logger = logging.getLogger(__name__)

TRAIN_NAMES = ("train", "training")
_VALIDATION_NAMES = ("validation", "val", "valid", "dev", "eval")
_TEST_NAMES = ("test", "testing")
SPLIT_NAMES = (*TRAIN_NAMES, *_VALIDATION_NAMES, *_TEST_NAMES)


class SplitNames(NamedTuple):
    """Names of a data set's folders by what they are for; `None` where it has none, or several that might be meant."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None


def read_class_folders(
    root: Path,
    split: str | None = None,
    label_names: list[str] | None = None,
    media: str = "video",
    unlabelled: bool = False,
) -> VideoRows:
    """List the videos of a folder and of all folders below it, labelled by the first of these in sorted order.

    A split counts the classes of its sibling splits too, so that a label means the same in each of them. One line is
    logged where files were left out: how many, which, and why.

    Args:
        root (`Path`): the data set's folder. A `video_id` is a path relative to it, with forward slashes.
        split (`str`, *optional*): sub-folder of `root` to read.
        label_names (list of `str`, *optional*): names of the labels in their order, where it is not the
            sorted one or where classes are missing; a class folder of another name is an error.
        media (`str`, defaults to `"video"`): which files count, `video` or `image`.
        unlabelled (`bool`, defaults to `False`): folders are no classes, no video has a label.

    Returns:
        `VideoRows` in sorted order.

    Raises:
        FileNotFoundError: `root` or its split does not exist.
        ValueError: no video where one is looked for, a layout that can be read in two ways, a class folder that
            `label_names` does not name, or a class that the training split lacks.
    """
    folder = find_split_folder(root, split)
    listing = list_folder(folder, media)
    loose, class_names = listing.loose, listing.filled_folders
    if not listing.files:
        raise ValueError(_no_video_message(listing, media))
    if split is None:
        check_no_splits(root, listing, media)
    if loose and class_names and not unlabelled:
        raise ValueError(
            f"{folder} holds videos ({loose[0][0]}, ...) and folders of videos ({class_names[0]}, ...): it is unclear "
            "whether the videos have labels. Move the loose videos into a class folder or, where none has a label, "
            "say `unlabelled=True` (`--unlabelled true`)."
        )
    for parts in listing.metadata:
        listing.account.add(SIDE_FILE, "/".join(parts), os.path.splitext(parts[-1])[1])
    if unlabelled or loose:
        listing.report(f"{len(listing.files):,} {media}s without labels")
        return _rows(root, listing)
    names = label_names
    if names is None:
        names = _names_of_all_splits(root, split, class_names, media)
    unknown = [name for name in class_names if name not in set(names)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} class folder(s) of {folder} are none of the {len(names)} label names: "
            f"{', '.join(unknown[:20])}{near_name(unknown[0], names)}. Rename the folders, or complete the label "
            "names."
        )
    for name in listing.folders:
        if name not in class_names:
            listing.account.add(NO_VIDEOS, name)
    listing.report(f"{len(listing.files):,} {media}s of {len(class_names)} classes")
    return _rows(root, listing, names)


def find_split_folder(root: Path, split: str | None) -> Path:
    """Return the folder of a split, or `root` itself.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its path is no UTF-8, so that no table can hold it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}. Give the folder that holds the class folders.")
    folder = root / split if split is not None else root
    if not folder.is_dir():
        names = folder_names(root)
        raise FileNotFoundError(
            f"There is no split {split!r} in {root}; its folders are {names}{near_name(split or '', names)}. Choose "
            "one of them as `split`, or none where they are classes."
        )
    if not is_utf8(os.path.abspath(folder)):
        raise ValueError(f"The path of the folder {printable(str(folder))!r} is no UTF-8: rename it.")
    return folder


def check_no_splits(root: Path, listing: Listing, media: str) -> None:
    """Check that the folders of a data set are not its splits.

    Raises:
        ValueError: they are: all are named so, or one is named so and holds folders only.
    """
    folders = listing.filled_folders
    if folders and not listing.loose and all(is_split_name(name) for name in folders):
        raise ValueError(
            f"The folders of {root} are splits, not classes: {', '.join(folders)}. Choose one with `split`."
        )
    with_videos = {parts[0] for parts in listing.files if len(parts) == 2}
    nested = [name for name in folders if name not in with_videos]
    if any(is_split_name(name) for name in nested):
        raise ValueError(
            f"{root} holds no {media}s, but its folders {nested} hold class folders. Choose one with `split`."
        )


def is_split_name(name: str) -> bool:
    """Return whether a folder is named as splits are, in whatever case."""
    return name.lower() in SPLIT_NAMES


def find_split_names(root: Path) -> SplitNames:
    """Return the splits of a data set whose folders are all named as splits are; none otherwise."""
    names = folder_names(root)
    if not all(is_split_name(name) for name in names):
        return SplitNames()
    found = [
        [name for name in names if name.lower() in kind] for kind in (TRAIN_NAMES, _VALIDATION_NAMES, _TEST_NAMES)
    ]
    return SplitNames(*(kind[0] if len(kind) == 1 else None for kind in found))


def sibling_splits(root: Path, split: str | None) -> list[str]:
    """Return the other splits of the data set, recognised by name: an unknown folder may be another data set."""
    if split is None or not is_split_name(split):
        return []
    return [name for name in folder_names(root) if is_split_name(name) and name != split]


def check_classes_of_splits(root: Path, classes: Mapping[str, Sequence[str]]) -> None:
    """Check that no split has a class that the training split lacks: mostly that is one class in two spellings.

    Args:
        root (`Path`): the data set's folder, for messages.
        classes (mapping): names of the classes of each split that has any.

    Raises:
        ValueError: names the class, its split, and the class that is nearest in its spelling.
    """
    trained = next((split for split in classes if split.lower() in TRAIN_NAMES), None)
    if trained is None:
        return
    known = set(classes[trained])
    for split, names in classes.items():
        lacking = [name for name in names if name not in known]
        if lacking:
            raise ValueError(
                f"{len(lacking)} class(es) of the split {split!r} of {root} are not in {trained!r}: "
                f"{', '.join(map(repr, lacking[:20]))}{near_name(lacking[0], known)}. Rename what is misspelt; where "
                "classes are meant to be in one split only, name all of them by `label_names` (`--class_names FILE`)."
            )
    elsewhere = {name for split, names in classes.items() if split != trained for name in names}
    for name in sorted(known - elsewhere) if elsewhere else ():
        if hint := near_name(name, elsewhere):
            logger.warning("The class %r of %s is in %r only%s", name, root, trained, hint)


def _names_of_all_splits(root: Path, split: str | None, class_names: list[str], media: str) -> list[str]:
    classes = {name: list_folder(root / name, media).filled_folders for name in sibling_splits(root, split)}
    classes = {name: names for name, names in classes.items() if names}
    if split is not None:
        check_classes_of_splits(root, {**classes, split: class_names})
    return sorted(set(class_names).union(*classes.values()))


def _rows(root: Path, listing: Listing, label_names: list[str] | None = None) -> VideoRows:
    labels = None
    if label_names is not None:
        label_of = {name: label for label, name in enumerate(label_names)}
        labels = [label_of[parts[0]] for parts in listing.files]
    top = os.path.abspath(listing.folder)
    inside = os.path.relpath(listing.folder, root).replace(os.sep, "/")
    prefix = "" if inside == "." else f"{inside}/"
    above = os.path.join(top, "")
    paths = [above + os.sep.join(parts) for parts in listing.files]  # half the time of `join`
    return VideoRows(paths, [prefix + "/".join(parts) for parts in listing.files], labels, label_names)


def _no_video_message(listing: Listing, media: str) -> str:
    other = next(kind for kind in MEDIA_SUFFIXES if kind != media)
    hint = f" It holds {other}s: say `media={other}`." if list_folder(listing.folder, other).files else ""
    left_out = listing.account.describe()
    return (
        f"Found no {media} in {listing.folder} or in its sub-folders (looked for {', '.join(MEDIA_SUFFIXES[media])}). "
        f"Expected <class>/<{media}> for labelled {media}s, or the {media}s themselves for unlabelled ones.{hint}"
        + (f" What lies there was {left_out}." if left_out else "")
    )
