"""What a conversion did with a checkpoint, and what the checkpoint says of how its model looks at videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..configuration_amd import AMDConfig
from ..view_settings import DATA_SETS, ViewSettings, data_set_settings, settings_from_dict
from .reading import Checkpoint


# No proof, but worth a hint: the classes of the paper's data sets.
_DATA_SET_OF_NUM_LABELS = {400: "k400", 174: "ssv2", 101: "ucf101", 51: "hmdb51"}
# What the authors' programs call their data sets (`--data_set`), by how it begins.
_AUTHORS_NAMES = {
    "kinetics": "k400", "ssv2": "ssv2", "something": "ssv2", "ucf101": "ucf101", "hmdb51": "hmdb51", "ava": "ava",
}  # fmt: skip
_AUTHORS_OPTIONS = {
    "sampling_rate": "sampling_rate",
    "test_num_segment": "test_num_segments",
    "test_num_crop": "test_num_crops",
    "short_side_size": "short_side",
}


@dataclass
class ConversionReport:
    """What became of each tensor, and where each size comes from.

    Args:
        source, wrapper, prefixes: Where the tensors were found.
        task (`str`): `"pretraining"`, `"classification"`, `"detection"` or `"encoder"`.
        sizes (`dict[str, str]`): Config option -> "value (read from the tensors | looked up by width | given | ...)".
        assumed (`dict[str, str]`): Config option -> "value: why", for options that neither tensors nor files give.
            Another value would load as well, and give other numbers.
        used (`dict[str, str]`): Official name -> our name.
        dropped, new (`dict[str, str]`): Official name -> reason; our name -> reason.
        ignored_entries (`list[str]`): Other entries of the file, such as the optimizer.
        views (`ViewSettings`): How the model looks at videos, for [`~amd_hf.models.build_processor`].
        views_origin (`str`): Who says so.
    """

    source: str
    task: str
    wrapper: str | None = None
    prefixes: list[str] = field(default_factory=list)
    sizes: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    ignored_entries: list[str] = field(default_factory=list)
    views: ViewSettings = ViewSettings(sampling_mode=None)
    views_origin: str = "nothing says"

    def __str__(self) -> str:
        where = f" under `{self.wrapper}`" if self.wrapper else ""
        prefixes = f", prefixes taken off: {' '.join(self.prefixes)}" if self.prefixes else ""
        lines = [f"{self.source}: {self.task} checkpoint{where}{prefixes}", "sizes:"]
        lines += [f"  {name} = {origin}" for name, origin in self.sizes.items()]
        if self.assumed:
            lines.append("ASSUMED, since no tensor says it (--model.NAME VALUE where it is otherwise):")
            lines += [f"  {name} = {why}" for name, why in self.assumed.items()]
        lines.append(f"tensors used: {len(self.used)}")
        for title, entries in (("dropped", self.dropped), ("newly initialised", self.new)):
            lines.append(f"tensors {title}: {len(entries)}")
            lines += [f"  {name}: {reason}" for name, reason in entries.items()]
        if self.ignored_entries:
            lines.append(f"other entries of the file, not read: {', '.join(self.ignored_entries)}")
        lines.append(f"frames of a clip: {self.views_origin}")
        return "\n".join(lines)


def find_views(checkpoint: Checkpoint, task: str, config: AMDConfig, dataset: str | None) -> tuple[ViewSettings, str]:
    """Return how the model looks at videos, as the user, the file or its kind says, and a line for the report."""
    if dataset is None and checkpoint.views:  # an export of our own
        views = settings_from_dict(checkpoint.views)
        return views, f"{views.describe(config.num_frames)} (read from the file)"
    named, said = run_settings(checkpoint.run_arguments, task)
    if dataset is not None:
        views = data_set_settings(dataset, task)
        origin = f"data set {dataset}, given"
        if named not in (None, views):
            said, origin = {}, f"{origin}; the file names another, {checkpoint.run_arguments['data_set']}"
    elif named is not None:
        views, origin = named, f"data set {checkpoint.run_arguments['data_set']}, by the arguments in the file"
    elif task == "detection":
        views, origin = data_set_settings("ava", task), "that of VideoMAE's code for AVA"
    elif config.num_frames == 1:
        return data_set_settings("in1k", task), "one, of images: ImageNet's resizing is assumed"
    else:
        likely = _DATA_SET_OF_NUM_LABELS.get(config.num_labels) if task == "classification" else None
        hint = f"; {config.num_labels} classes may be those of {likely}" if likely else ""
        views, origin = ViewSettings(sampling_mode=None), f"nothing says{hint}"
    views = replace(views, **said)
    if views.sampling_mode is not None:
        return views, f"{views.describe(config.num_frames)} ({origin})"
    assumed = views.with_assumptions()
    names = "|".join(DATA_SETS)
    return views, f"{origin}. Users will see that {assumed.describe(config.num_frames)} is assumed; say {names}"


def run_settings(arguments: Mapping[str, Any], task: str) -> tuple[ViewSettings | None, dict[str, Any]]:
    """Return what the arguments of an authors' run say of how its model looks at videos.

    Args:
        arguments (`Mapping`): As a checkpoint of theirs holds them under `args`.
        task (`str`): `pretraining`, `classification` or `detection`.

    Returns:
        The settings, None where the arguments do not name a data set that is known; and what they say by the name of
        the setting.
    """
    named = str(arguments.get("data_set") or "").lower()
    data_set = next((ours for start, ours in _AUTHORS_NAMES.items() if named.startswith(start)), None)
    said: dict[str, Any] = {
        ours: arguments[theirs]
        for theirs, ours in _AUTHORS_OPTIONS.items()
        if isinstance(arguments.get(theirs), int) and arguments[theirs] >= 1
    }
    if data_set is None or task not in DATA_SETS[data_set]:
        return None, said
    return data_set_settings(data_set, task), said
