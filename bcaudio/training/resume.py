"""Checkpoints of a stage: written whole or not at all, the last few kept, the last good one found again."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from bcaudio.recipe.record import is_rank_zero

STATE, MANIFEST = "state.ckpt", "checkpoint.json"
COMPARED_BYTES = 2 * 2**30  # larger checkpoints are checked by the sizes of their files alone


class Checkpoints(Checkpoint):
    """Writes `<folder>/step=<n>.ckpt/` every so many steps: `state.ckpt`, under ZeRO a file per rank, and `checkpoint.json` with
    the sizes of all. The folder gets its name when it is complete; older ones are deleted after that.

    It is written when the next step begins, so that the step's validation is done and its metrics are on the disk. The last step
    writes none: a stage that is cut off after it does its last steps again, and so has its last validation.

    Args:
        folder: where they lie.
        every: steps between them.
        keep_last: how many stay; 0 keeps all.

    Raises:
        ValueError: `every` below 1 or `keep_last` below 0.
    """

    def __init__(self, folder: Path, every: int = 200, keep_last: int = 2) -> None:
        if every < 1 or keep_last < 0:
            raise ValueError(
                f"checkpoints: every is {every} and keep_last {keep_last}; every must be at least 1, keep_last at least 0 (all)"
            )
        self.folder, self.every, self.keep_last = folder, every, keep_last
        self._saved = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:  # what an attempt that was cut off while writing has left
            for part in self.folder.glob(".step=*.tmp"):
                shutil.rmtree(part)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = pl_module.next_step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        step = pl_module.next_step  # of the steps before this batch; what they logged and their validation are done by now
        if step != self._saved and step % self.every == 0:
            self.save(trainer, step)

    def save(self, trainer: L.Trainer, step: int) -> None:
        """Write the checkpoint of a step, between two steps; every rank calls it."""
        self._saved = step
        for logger in trainer.loggers:
            logger.save()
        temporary, final = self.folder / f".step={step}.ckpt.tmp", self.folder / f"step={step}.ckpt"
        if trainer.is_global_zero:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint folder")
        trainer.save_checkpoint(temporary / STATE)
        if trainer.is_global_zero:
            _write_manifest(temporary, step=step, world_size=trainer.world_size, strategy=type(trainer.strategy).__name__)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
            _sync(self.folder)
            older = sorted(self.folder.glob("step=*.ckpt"), key=step_of)
            for old in older[: -self.keep_last] if self.keep_last else []:
                shutil.rmtree(old)
        trainer.strategy.barrier("checkpoint kept")


def find_checkpoint(folder: Path) -> Path | None:
    """`state.ckpt` of the newest checkpoint that is whole; every damaged one that is passed over is named.

    Args:
        folder: `<stage>/checkpoints`.
    """
    for checkpoint in sorted(folder.glob("step=*.ckpt"), key=step_of, reverse=True):
        problem = _problem(checkpoint)
        if problem is None:
            if is_rank_zero():
                print(f"resuming from {checkpoint}", flush=True)
            return checkpoint / STATE
        if is_rank_zero():
            print(f"{checkpoint}: not readable ({problem}); trying an older one", flush=True)
    return None


def step_of(checkpoint: Path) -> int:
    """The number in `step=<n>.ckpt`; -1 for a name without one."""
    number = checkpoint.name.removeprefix("step=").removesuffix(".ckpt")
    return int(number) if number.isdecimal() else -1


def _write_manifest(folder: Path, **about: Any) -> None:
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    for name in files:
        _sync(folder / name)
    (folder / MANIFEST).write_text(json.dumps({**about, "files": files}, indent=1) + "\n", encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _problem(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used, or None."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, size in sizes.items():
            found = (checkpoint / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes of {size}"
        if sizes[STATE] <= COMPARED_BYTES:
            with zipfile.ZipFile(checkpoint / STATE) as archive:
                damaged = archive.testzip()
            return damaged and f"{STATE}: {damaged} is damaged"
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return str(error)
    return None
