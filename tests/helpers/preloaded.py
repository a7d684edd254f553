"""What nearly every program imports, for the process that `tests.helpers.warm` forks others from."""

import gc

import torch
import transformers.trainer  # noqa: F401
from torch.distributed import run  # noqa: F401

import amd_hf.cli.evaluate
import amd_hf.cli.features
import amd_hf.cli.finetune
import amd_hf.cli.predict
import amd_hf.cli.pretrain  # noqa: F401
from amd_hf import AMDFineTuningTrainer, AMDTrainer  # noqa: F401


torch.set_num_threads(1)
gc.collect()
gc.freeze()  # pages that no search for garbage touches stay shared
