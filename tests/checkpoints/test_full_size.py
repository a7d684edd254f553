"""Conversion of checkpoints of the published sizes: bit for bit, in bounded time and memory. Minutes and gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from amd_hf import convert_checkpoint, export_checkpoint, load_teacher
from tests.helpers.checkpoints import Shapes, classifier_shapes, pretraining_shapes, random_state_dict
from tests.helpers.models import nested_masks, randomize
from tests.helpers.videomae import SPELLINGS, hidden_states, respell_file


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_ROOT = Path(__file__).parents[2]

# width, depth, decoder width, decoder depth, teacher width of the paper's models and its teacher
_SIZES = {
    "ViT-S": (384, 12, 192, 4, 1024),
    "ViT-B": (768, 12, 384, 4, 1024),
    "ViT-L": (1024, 24, 512, 12, None),
}


def _pretraining(name: str) -> Shapes:
    width, depth, decoder_width, decoder_depth, teacher_width = _SIZES[name]
    return pretraining_shapes(width, depth, decoder_width, decoder_depth, teacher_width)


def _classifier(name: str) -> Shapes:
    width, depth, *_ = _SIZES[name]
    return classifier_shapes(width, depth, 400)


@pytest.mark.parametrize("name", list(_SIZES))
@pytest.mark.parametrize("shapes_of", [_pretraining, _classifier], ids=["pretraining", "classifier"])
def test_published_size_converts_and_exports_bit_for_bit(shapes_of: Callable[[str], Shapes], name: str) -> None:
    tensors = random_state_dict(shapes_of(name), std=0.02)
    model = convert_checkpoint(tensors)
    assert model.config.num_patches == 1568
    official = export_checkpoint(model)
    assert official.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(official[key], tensor), key


_MEASURE = """
import json, resource, sys, time
from pathlib import Path
import amd_hf
from amd_hf import convert_checkpoint
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before, start = resident(), time.perf_counter()
model = convert_checkpoint(sys.argv[1])
seconds = time.perf_counter() - start
# Not `ru_maxrss`, which starts at what the parent process had: the tests before this one hold whole models.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"seconds": seconds, "bytes": peak - before, "labels": model.num_labels}))
"""


def test_vit_l_file_converts_in_bounded_time_and_memory(tmp_path: Path) -> None:
    file = tmp_path / "vit_l.pth"
    torch.save({"model": random_state_dict(_classifier("ViT-L"), std=0.02)}, file)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(file)], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["labels"] == 400
    assert measured["seconds"] < 20
    assert measured["bytes"] < 2.5 * file.stat().st_size


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_videomae_folder_of_vit_b_size_gives_the_hidden_states_of_transformers(spelling: str, tmp_path: Path) -> None:
    theirs = randomize(VideoMAEForPreTraining(VideoMAEConfig(use_mean_pooling=False)), std=0.02).eval()
    theirs.save_pretrained(tmp_path)
    respell_file(tmp_path / "model.safetensors", spelling)
    teacher = load_teacher(tmp_path, layers=[6, 12])
    clips = torch.randint(256, (1, 16, 3, 224, 224), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    frames = (clips / 255 - mean[:, None, None]) / std[:, None, None]
    for mask in (nested_masks(1568, 1408, 1176, batch_size=1)[1], None):
        with torch.no_grad():
            ours = teacher(clips, mask, output_hidden_states=True).hidden_states[1:]
        for one, other in zip(ours, hidden_states(theirs, frames, mask), strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)
