"""What a conversion did with a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..view_settings import ViewSettings


@dataclass
class ConversionReport:
    """What became of each tensor, and where each size comes from.

    Args:
        source, wrapper, prefixes: Where the tensors were found.
        task (`str`): `"pretraining"`, `"classification"`, `"detection"` or `"encoder"`.
        sizes (`dict[str, str]`): Config option -> "value (read from the tensors | looked up by width | given | ...)".
        assumed (`dict[str, str]`): Config option -> "value: why", of what no tensor tells and nobody said. Another
            value would load as well, and give other numbers.
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
    views: ViewSettings = field(default_factory=lambda: ViewSettings(sampling_mode=None))
    views_origin: str = "nothing tells"

    def __str__(self) -> str:
        where = f" under `{self.wrapper}`" if self.wrapper else ""
        prefixes = f", prefixes taken off: {' '.join(self.prefixes)}" if self.prefixes else ""
        lines = [f"{self.source}: {self.task} checkpoint{where}{prefixes}", "sizes:"]
        lines += [f"  {name} = {origin}" for name, origin in self.sizes.items()]
        if self.assumed:
            lines.append("ASSUMED, since no tensor tells it (--model.NAME VALUE where it is otherwise):")
            lines += [f"  {name} = {why}" for name, why in self.assumed.items()]
        lines.append(f"tensors used: {len(self.used)}")
        for title, entries in (("dropped", self.dropped), ("newly initialised", self.new)):
            lines.append(f"tensors {title}: {len(entries)}")
            lines += [f"  {name}: {reason}" for name, reason in entries.items()]
        if self.ignored_entries:
            lines.append(f"other entries of the file, not read: {', '.join(self.ignored_entries)}")
        lines.append(f"frames of a clip: {self.views_origin}")
        return "\n".join(lines)
