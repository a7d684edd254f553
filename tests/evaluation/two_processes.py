"""The multi-view test and the extraction of features as every process of a run sees them; see `test_processes.py`.

torchrun --nproc_per_node 2 tests/evaluation/two_processes.py VIDEOS OUTPUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from amd_hf import AMDForVideoClassification, load_video_dataset
from amd_hf.evaluation.features import FeatureOptions, extract_features
from amd_hf.evaluation.multiview import ViewOptions, run_multi_view_test
from tests.helpers.models import randomize, tiny_config


OPTIONS = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=2, num_crops=3)
VIDEOS_PER_BATCH = 4


def classifier() -> AMDForVideoClassification:
    """The model of all processes; it knows the classes of the data in another order."""
    torch.manual_seed(0)
    config = tiny_config(image_size=16, num_labels=6)
    config.id2label = dict(enumerate("fedcba"))
    return randomize(AMDForVideoClassification(config), std=0.2)


def play(videos: Path, output: Path) -> dict[str, Any]:
    """What this process finds."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1"))
    rows, model = load_video_dataset(videos), classifier()
    result = run_multi_view_test(
        model, rows, OPTIONS, accelerator, videos_per_batch=VIDEOS_PER_BATCH, keep_view_logits=True
    )
    summary = extract_features(
        model.base_model, rows, OPTIONS, FeatureOptions("here", ("pooled", "layer_2")), output / "features",
        accelerator, videos_per_batch=VIDEOS_PER_BATCH, videos_per_file=3,
    )  # fmt: skip
    return {"outcomes": result.outcomes, "metrics": result.metrics(), "features": summary}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = play(Path(sys.argv[1]), Path(sys.argv[2]))
    torch.save(found, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
    dist.destroy_process_group()
