"""Load a folder as those do who read it on the Hub: by the code inside it, without this package, without a network.

Run by [`amd_hf.hub.publishing`] in a process of its own: `python - FOLDER CLASS SCRATCH < this file`. It reads
`inputs.pt` in the scratch folder and writes `answer.pt` there.
"""

import sys
from pathlib import Path
from typing import Any

import torch


def answer(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return what a model makes of inputs: its logits, or an encoder's hidden states."""
    with torch.no_grad():
        output = model.eval()(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


def read(folder: str, name: str, scratch: Path) -> None:
    """Load config, model and processor, each by its Auto class, and every other class that the folder names."""
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    trust = {"trust_remote_code": True}
    inputs = torch.load(scratch / "inputs.pt", weights_only=True)
    torch.set_num_threads(inputs.pop("num_threads"))  # sums are the same only in the same order
    config = transformers.AutoConfig.from_pretrained(folder, **trust)
    for reference in config.auto_map.values():
        get_class_from_dynamic_module(reference, folder)
    auto_class = getattr(transformers, name, None)
    if auto_class is None:  # there is no Auto class for it
        model = get_class_from_dynamic_module(config.auto_map[name], folder).from_pretrained(folder)
    else:
        model = auto_class.from_pretrained(folder, **trust)
    is_image = config.num_frames == 1
    (transformers.AutoImageProcessor if is_image else transformers.AutoVideoProcessor).from_pretrained(folder, **trust)
    torch.save(answer(model, inputs), scratch / "answer.pt")


if __name__ == "__main__":
    sys.modules["amd_hf"] = None  # type: ignore[assignment]  # whoever imports it finds that it is not installed
    read(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
