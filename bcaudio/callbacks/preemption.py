"""Told to go (SIGUSR1, SIGTERM): finish the step, save, leave with exit code 75, so that the same command goes on from there."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from bcaudio.launch.job import PREEMPTED
from bcaudio.training.resume import Checkpoints

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preempted(SystemExit):
    """Training was told to stop and has saved a checkpoint; the exit code is 75."""

    def __init__(self, step: int) -> None:
        super().__init__(PREEMPTED)
        self.step = step

    def __str__(self) -> str:
        return f"told to stop; saved after {self.step} steps; the same command goes on from there"


class Preemption(L.Callback):
    """On SIGUSR1 or SIGTERM, to any rank: all ranks save a checkpoint after the same step and leave with exit code 75.

    The ranks agree between two steps, on CPU, so that no device is waited for. A validation that is due there is left out, for
    time is short; after the last step it is made, for the run is nearly over. A signal before training, or while its results are
    written, ends the process as it would without this callback.

    Args:
        checkpoints: writes the checkpoint.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.told = self.training = self.leaving = False
        self.first_step = 0
        self.group: Any = None
        self.before: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._listen()  # before Lightning does: when it is over, it puts back the handlers that it found

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.training, self.first_step = True, pl_module.next_step
        self._listen()  # in place of Lightning's handler, which would start a broadcast in the middle of whatever is running
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if getattr(batch, "micro", 0) == 0:
            self._leave_if_told(trainer, pl_module.next_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.training and pl_module.next_step < getattr(trainer.datamodule, "max_steps", float("inf")):
            self._leave_if_told(trainer, pl_module.next_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.training = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.training = False

    def _leave_if_told(self, trainer: L.Trainer, step: int) -> None:
        """Raise Preempted on all ranks when one of them was told; `step` is how many are done."""
        told = self.told
        if self.group is not None:
            flag = torch.tensor([int(told)], dtype=torch.int32)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group)
            told = bool(flag.item())
        if told:
            self.leaving = True
            if step > self.first_step:  # else the checkpoint this attempt began with, if any, says it all
                self.checkpoints.save(trainer, step)
            raise Preempted(step)

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            found = signal.signal(number, self._handle)
            self.before.setdefault(number, found)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.training:
            self.told = True
        elif not self.leaving:  # not yet training, or no longer: as if this callback were not there
            signal.signal(number, self.before.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)
