"""Runs of `pretrain.py` that are killed: real processes, forked from a server that has imported everything once."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import socket
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from amd_hf import AMDModel
from amd_hf.options.programs import run_program
from amd_hf.training.checkpoints import MARKER_NAME
from tests.helpers.models import randomize, tiny_config, tiny_teacher_config
from tests.helpers.training import load_script


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])
NUM_STEPS = 12
_PATIENCE = 250  # seconds for a run to end; a few are enough on an idle machine


def _live(arguments: list[str], log: str, rank: int, num_processes: int, port: int) -> None:
    """One process of a run: what `torchrun` and `python scripts/pretrain.py` do after the imports."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loading workers: what a program starts with on Linux
    if num_processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run_program(lambda: load_script("pretrain").main(arguments))


@dataclass
class Kind:
    """A way to train: map-style or streaming, on one process or two, guided by a teacher."""

    videos: Path
    teacher: Path
    is_streaming: bool
    num_processes: int

    def arguments(self, output_dir: Path) -> list[str]:
        config = tiny_config(image_size=16).to_diff_dict()
        model = {name: config[name] for name in tiny_options()} | {"drop_path_rate": 0.3}
        options = {
            "data": self.videos, "train_split": "train", "teacher": self.teacher, "streaming": self.is_streaming,
            "stream_buffer_rows": 5, "sampling_rate": 2, "num_repetitions": 1, "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 4 // self.num_processes, "max_steps": NUM_STEPS, "warmup_epochs": 0,
            "base_learning_rate": 0.1, "save_steps": 2, "save_total_limit": 3, "logging_steps": 1, "report_to": "none",
            "dataloader_num_workers": 1, "disable_tqdm": True, "use_cpu": True,
            "resume_from_checkpoint": "last", "output_dir": output_dir,
        }  # fmt: skip
        return [
            *(f"--model.{name}={value}" for name, value in model.items()),
            *(f"--{name}={value}" for name, value in options.items()),
        ]


def tiny_options() -> tuple[str, ...]:
    """Options of the tiny student that differ from the paper's."""
    return tuple(
        "image_size patch_size num_frames hidden_size num_hidden_layers num_attention_heads decoder_hidden_size "
        "decoder_num_hidden_layers decoder_num_attention_heads teacher_hidden_size generator_num_hidden_layers "
        "generator_num_attention_heads student_direct_layers student_generation_layers teacher_direct_layers "
        "teacher_generation_layers student_mask_ratio teacher_mask_ratio".split()
    )


def save_teacher(folder: Path) -> Path:
    """A tiny teacher as a folder."""
    randomize(AMDModel(tiny_teacher_config(image_size=16))).save_pretrained(folder)
    return folder


@dataclass
class KilledRun:
    """A run in `output_dir`, started again and again until it is whole."""

    kind: Kind
    output_dir: Path
    chance: random.Random
    num_kills: int = 0
    num_kills_in_save: int = 0  # those that left an unfinished checkpoint behind
    survivors_seconds: list[float] = field(default_factory=list)  # from a process's death to the end of the other
    _processes: list[BaseProcess] = field(default_factory=list)
    _log_size: int = 0  # at the last start

    @property
    def log(self) -> Path:
        return self.output_dir.with_suffix(".log")

    def start(self) -> None:
        """Start all processes, as after a power cut."""
        arguments, size = self.kind.arguments(self.output_dir), self.kind.num_processes
        port = _free_port()
        self.log.touch()
        self._log_size = self.log.stat().st_size
        self._processes = [
            _SERVER.Process(target=_live, args=(arguments, str(self.log), rank, size, port)) for rank in range(size)
        ]
        for process in self._processes:
            process.start()

    def finish(self) -> str:
        """Let the run go on to its end; the hash of the weights it leaves."""
        self.start()
        codes = self._wait()
        assert set(codes) == {0}, self.log.read_text()[-3000:]
        return hashlib.sha256((self.output_dir / "model.safetensors").read_bytes()).hexdigest()

    def kill_after(self, seconds: float) -> bool:
        """Start, and kill after so long. False if the run had ended by then."""
        self.start()
        time.sleep(seconds)
        return self._kill()

    def kill_in_save(self, step: int) -> bool:
        """Start, and kill while the first checkpoint from `step` on is written. False if the run had ended by then."""
        self.start()
        while all(process.is_alive() for process in self._processes):
            if any(number >= step for number in self._unfinished()):
                time.sleep(self.chance.uniform(0, 0.02))
                break
            time.sleep(0.0005)
        return self._kill()

    def _kill(self) -> bool:
        if not all(process.is_alive() for process in self._processes):
            assert set(self._wait()) == {0}, self.log.read_text()[-3000:]
            return False
        victims = self._processes
        if len(victims) > 1 and self.chance.random() < 0.5 and self._has_met():
            victims = [self.chance.choice(victims)]  # one only: the other must end by itself, with an error
        for process in victims:
            process.kill()
        died = time.monotonic()
        self._wait()
        if len(victims) < len(self._processes):
            self.survivors_seconds.append(time.monotonic() - died)
        self.num_kills += 1
        self.num_kills_in_save += bool(self._unfinished())
        return True

    def _has_met(self) -> bool:
        """Whether the processes have found each other; of one that dies before, only their launcher can know."""
        return b"training videos" in self.log.read_bytes()[self._log_size :]

    def _wait(self) -> list[int | None]:
        for process in self._processes:
            process.join(_PATIENCE)
        codes = [process.exitcode for process in self._processes]
        for process in self._processes:
            process.kill()
        assert None not in codes, f"a process hangs: {self.log.read_text()[-3000:]}"
        return codes

    def _unfinished(self) -> list[int]:
        """Steps of checkpoints that are not whole."""
        folders = self.output_dir.glob("checkpoint-*") if self.output_dir.is_dir() else ()
        steps = []
        with contextlib.suppress(FileNotFoundError):  # old checkpoints go while we look
            steps = [int(path.name.rpartition("-")[2]) for path in folders if not (path / MARKER_NAME).exists()]
        return steps


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
