"""Fixtures of all tests: golden figures, tiny models made once and copied, rendered videos; random states restored."""

from __future__ import annotations

import copy
import importlib.util
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network, nor wait for it

import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from amd_hf import AMDConfig, AMDForPreTraining, AMDForVideoClassification, AMDModel  # noqa: E402
from examples.motion_shapes import write_motion_shapes  # noqa: E402
from tests.helpers.checkpoints import classifier_shapes, random_state_dict
from tests.helpers.models import nested_masks, random_clips, randomize, tiny_config, tiny_teacher_config  # noqa: E402


# `make test-library` fetches the tests that those of this folder inherit from.
collect_ignore = [] if importlib.util.find_spec("library_tests") else ["library"]


pytest_plugins = ["tests.helpers.live_failures"]

_ROOT = Path(__file__).parents[1]

# Long files come first: at the end one process would run them while the other has nothing to do.
_FIRST = (
    "docs/test_commands.py", "cli/test_push.py", "training/test_processes.py", "cli/test_processes.py",
    "hub/test_publishing.py", "studies/test_ablate.py", "training/test_kill.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(_FIRST))  # stable: the others stay in their order


torch.set_num_threads(1)  # tiny models: threads cost more than they gain, and much more when tests share the cores
transformers_logging.disable_progress_bar()
transformers_logging.enable_propagation()  # to pytest's `caplog`


@pytest.fixture(autouse=True)
def _random_states() -> Iterator[None]:
    """Every test starts from the same random numbers and leaves those of others alone."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(autouse=True)
def _precision_of_accelerate() -> Iterator[None]:
    """A command that a test runs in this process leaves its precision to no later `Accelerator()`.

    Float32 that was there before the test stays, for trainers of a fixture of the file. Another precision is what
    commands of such a fixture have left.
    """
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != "no":
        AcceleratorState._reset_state()
    before = dict(AcceleratorState._shared_state)
    yield
    AcceleratorState._shared_state.clear()
    AcceleratorState._shared_state.update(before)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the authors' figures; where it is absent tests skip, or fail with AMD_REQUIRE_ALL=1."""
    folder = Path(os.environ.get("AMD_GOLDEN_DIR", _ROOT / "../shared/golden"))
    if not folder.is_dir():
        reason = f"the golden figures are absent: no folder {folder} (set AMD_GOLDEN_DIR)"
        if os.environ.get("AMD_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def config() -> AMDConfig:
    return tiny_config()


@pytest.fixture(scope="session")
def _models() -> dict[str, torch.nn.Module]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    models = {
        "pretraining": AMDForPreTraining(tiny_config()),
        "classifier": AMDForVideoClassification(tiny_config()),
        "teacher": AMDModel(tiny_teacher_config()),
    }
    torch.set_rng_state(state)
    return {name: randomize(model).eval() for name, model in models.items()}


@pytest.fixture
def pretraining_model(_models: dict[str, torch.nn.Module]) -> AMDForPreTraining:
    return copy.deepcopy(_models["pretraining"])


@pytest.fixture
def classifier(_models: dict[str, torch.nn.Module]) -> AMDForVideoClassification:
    return copy.deepcopy(_models["classifier"])


@pytest.fixture
def teacher_model(_models: dict[str, torch.nn.Module]) -> AMDModel:
    return copy.deepcopy(_models["teacher"])


@pytest.fixture
def classifier_file() -> dict[str, torch.Tensor]:
    """An official classification checkpoint: 3 blocks of width 24, 5 classes, tubelets of 2, patches of 8."""
    return random_state_dict(classifier_shapes(24, 3, 5, (3, 2, 8, 8)))


@pytest.fixture
def clips() -> torch.Tensor:
    """Two uint8 clips of the size of `config`."""
    return random_clips(tiny_config())


@pytest.fixture
def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of student (8 of 12 tokens) and teacher (4 of 12), as many as the ratios of `config` mean."""
    return nested_masks(12, 8, 4)


@pytest.fixture(scope="session")
def motion_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` (16) and `validation` (9) with class folders: videos of 10 frames of 32 x 32 in eight classes."""
    root = tmp_path_factory.mktemp("motion")
    for split, num_videos in (("train", 16), ("validation", 9)):
        write_motion_shapes(root, split, num_videos, seed=0, num_frames=10, num_workers=0)
    return root


@pytest.fixture
def square_config() -> AMDConfig:
    """Clips that the built-in collators can cut: 4 frames of 16 x 16, 8 tokens."""
    return tiny_config(image_size=16, num_labels=8)
