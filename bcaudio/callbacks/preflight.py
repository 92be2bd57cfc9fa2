"""The checks of `bcaudio.training.preflight` at the start of a fit."""

from __future__ import annotations

import time
from collections.abc import Mapping

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from bcaudio.recipe.record import versions
from bcaudio.training.preflight import check, facts_of_rank, gather, needs_of


class Preflight(L.Callback):
    """Refuses a run whose ranks differ in versions or recipe, or lack disk, memory or a right clock; all problems at once.

    It runs once the process group stands, before weights are loaded or a model is built in `configure_model`.

    Args:
        folder: where checkpoints go; None takes the trainer's root folder.
        same: more that must be equal on every rank, by name (`recipe`: its hash).
        keep: checkpoints that are kept.
        max_clock_skew_s: how far a clock may be off the median.
        clock_offset_s: added to this rank's clock, for drills.

    Raises:
        PreflightError: in `setup`, on every rank.
    """

    def __init__(
        self,
        folder: str | None = None,
        same: Mapping[str, str] | None = None,
        keep: int = 2,
        max_clock_skew_s: float = 5.0,
        clock_offset_s: float = 0.0,
    ) -> None:
        self.folder, self.same, self.keep = folder, dict(same or {}), keep
        self.max_clock_skew_s, self.clock_offset_s = max_clock_skew_s, clock_offset_s

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        device = trainer.strategy.root_device
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
        same = {**versions(), "cuda": str(torch.version.cuda), "gpu": gpu, **self.same}
        sharded = isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy)
        facts = facts_of_rank(self.folder or trainer.default_root_dir, same, device, lambda: time.time() + self.clock_offset_s)
        check(gather(facts), needs_of(pl_module, self.keep, device.type == "cuda", sharded), self.max_clock_skew_s)
