"""Register model type `amd` with Transformers' Auto classes, as soon as somebody can ask them for it.

Registering needs the classes themselves, and with them PyTorch: seconds that `import amd_hf` and the help of a command
should not cost. So each Auto class is told of ours right after its own module was imported, before anybody can use
it, or at once where it was imported already.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


_AUTO = "transformers.models.auto."


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_amd import AMDConfig

    AutoConfig.register("amd", AMDConfig)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    from .configuration_amd import AMDConfig
    from .modeling_amd import AMDForImageClassification, AMDForPreTraining, AMDForVideoClassification, AMDModel

    modeling_auto.AutoModel.register(AMDConfig, AMDModel)
    modeling_auto.AutoModelForPreTraining.register(AMDConfig, AMDForPreTraining)
    modeling_auto.AutoModelForVideoClassification.register(AMDConfig, AMDForVideoClassification)
    modeling_auto.AutoModelForImageClassification.register(AMDConfig, AMDForImageClassification)


def _register_image_processor() -> None:
    from transformers import BitImageProcessor
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from .configuration_amd import AMDConfig

    AutoImageProcessor.register(AMDConfig, BitImageProcessor)


def _register_video_processor() -> None:
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    from .configuration_amd import AMDConfig
    from .video_processing_amd import AMDVideoProcessor

    AutoVideoProcessor.register(AMDConfig, AMDVideoProcessor)


def _register_old_layout() -> None:
    from .checkpoints.saved_layouts import register_old_layout

    register_old_layout()


# A module of Transformers, the module of ours that it needs, and the function that registers ours.
_REGISTRATIONS: tuple[tuple[str, str, Callable[[], None]], ...] = (
    ("transformers.conversion_mapping", f"{__package__}.modeling_amd", _register_old_layout),
    (_AUTO + "configuration_auto", f"{__package__}.configuration_amd", _register_config),
    (_AUTO + "modeling_auto", f"{__package__}.modeling_amd", _register_models),
    (_AUTO + "image_processing_auto", f"{__package__}.configuration_amd", _register_image_processor),
    (_AUTO + "video_processing_auto", f"{__package__}.video_processing_amd", _register_video_processor),
)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finder of the modules of `_REGISTRATIONS` that registers once they are imported.

    Importing a module of ours may import the one of Transformers on the way, when ours has no classes to show yet:
    then it is the end of our own import that registers.
    """

    def __init__(self) -> None:
        self._being_imported: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not any(name in (theirs, ours) for theirs, ours, _ in _REGISTRATIONS):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            self._being_imported.add(name)
            try:
                execute(module)
            finally:
                self._being_imported.discard(name)
            self.register(name)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def register(self, name: str | None = None) -> None:
        """Register what concerns the module `name`, or everything, where Transformers' side is in memory."""
        for theirs, ours, register in _REGISTRATIONS:
            is_whole = theirs in sys.modules and not self._being_imported & {theirs, ours}
            if is_whole and name in (None, theirs, ours):
                register()


def register_with_transformers() -> None:
    """Have the Auto classes know model type `amd`: those in memory now, the others when they are imported."""
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    finder.register()
