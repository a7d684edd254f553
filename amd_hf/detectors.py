"""Action detectors for one's own actions: a new head on a pre-trained encoder, or a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .checkpoints.conversion import without_load_report
from .configuration_amd import AMDConfig
from .modeling_amd_detection import AMDForActionDetection
from .sources import load_model, load_processor, load_start
from .video_processing_amd import AMDVideoProcessor


logger = logging.get_logger(__name__)

SHORT_SIDE = 256
"""Short side of the frames that detectors see, in pixels (VideoMAE's code for AVA)."""


def build_detector(source: str | None, action_names: Sequence[str], **config_options: Any) -> AMDForActionDetection:
    """A detector of these actions on a pre-trained encoder.

    Its head is new, unless the source is a detector of the very same actions, which is then trained on. A classifier
    gives its encoder; the final norm that a classifier lacks is new.

    Args:
        source (`str`, *optional*): What [`~amd_hf.sources.load_model`] loads; None: all is new.
        action_names (`Sequence[str]`): Names of the classes, in the order of their numbers.
        **config_options: Options of [`AMDConfig`]; those of the encoder's size only without a source, or where an
            official file does not tell them.

    Raises:
        ValueError: For no actions, an unknown option, or options with which the weights do not fill the encoder.
        OSError: If there is no model at `source`.
    """
    if not action_names:
        raise ValueError("A detector needs at least one action.")
    labels = {"id2label": dict(enumerate(action_names)), "label2id": {name: i for i, name in enumerate(action_names)}}
    if source is None:
        return AMDForActionDetection(AMDConfig(**config_options, **labels))
    # An official file needs to be told what leaves no trace in its tensors.
    model = load_start(source, **(config_options if Path(source).is_file() else {}))
    config = AMDConfig.from_dict({**model.config.to_dict(), **config_options, **labels, "use_final_norm": True})
    state_dict = {f"amd.{name}": value for name, value in model.base_model.state_dict().items()}
    if isinstance(model, AMDForActionDetection) and model.config.id2label == labels["id2label"]:
        logger.warning(f"{source} is a detector of the same actions: training goes on from its head.")
        state_dict |= {name: value for name, value in model.state_dict().items() if not name.startswith("amd.")}
    with without_load_report():
        detector, info = AMDForActionDetection.from_pretrained(
            None, config=config, state_dict=state_dict, ignore_mismatched_sizes=True, output_loading_info=True
        )
    unfilled = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    unfilled = {name for name in unfilled if not name.startswith(("classifier.", "amd.norm."))}
    if unfilled or info["unexpected_keys"]:
        raise ValueError(
            f"{source} does not fill the encoder: {len(unfilled)} weights are missing or of another size and "
            f"{len(info['unexpected_keys'])} have no place, the first is "
            f"{[*sorted(unfilled), *info['unexpected_keys']][0]}. Leave out the model options that change its size, "
            "or train from scratch."
        )
    return detector


def load_trained_detector(source: str, **config_options: Any) -> AMDForActionDetection:
    """A detector whose weights are all in the checkpoint: a folder, a Hub id, or a file of VideoMAE's code for AVA.

    Raises:
        ValueError: If it is no detector, or its head was never trained.
        OSError: If there is no model at `source`.
    """
    model = load_model(source, **config_options)
    if not isinstance(model, AMDForActionDetection):
        raise ValueError(f"{source} is no action detector, it is a {type(model).__name__}: fine-tune it first.")
    if not model.classifier.bias.any():
        raise ValueError(
            f"The head of {source} was never trained: its biases are all 0, as initialised. Fine-tune the model first."
        )
    return model


def detection_processor(config: AMDConfig, sampling_rate: int = 4, short_side: int = SHORT_SIDE) -> AMDVideoProcessor:
    """The video processor of a detector: frames resized to the short side and not cropped, the config's mean."""
    return AMDVideoProcessor.for_model(
        config, size={"shortest_edge": short_side}, do_center_crop=False, sampling_rate=sampling_rate
    )


def load_detection_processor(source: str | Path, config: AMDConfig) -> AMDVideoProcessor:
    """The video processor saved beside a detector, or the usual one for an official file, which comes without.

    Raises:
        ValueError: If its mean and deviation are not those of the model's config.
    """
    return detection_processor(config) if Path(source).is_file() else load_processor(source, config)
