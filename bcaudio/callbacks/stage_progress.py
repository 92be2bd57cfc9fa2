"""Where a stage stands, for `bcaudio run` and for anyone who looks into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from bcaudio.recipe.record import Progress


class StageProgress(L.Callback):
    """Writes the step, the training loss and the last validation numbers through `bcaudio.recipe.record.Progress`, on rank 0.

    Args:
        out: the stage folder.
        total: steps of the whole stage.
        every_n_steps: how often; the last step is always written.
    """

    def __init__(self, out: str | Path, total: int, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"StageProgress: every_n_steps is {every_n_steps}; it must be at least 1")
        self.total, self.every_n_steps = total, every_n_steps
        self.progress = Progress(Path(out), total)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The batch knows its step; global_step counts every optimizer's step, which is twice as many for a GAN.
        step = int(getattr(batch, "step", trainer.global_step - 1)) + 1
        if not trainer.is_global_zero or (step % self.every_n_steps and step != self.total):
            return
        numbers = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name in ("train/loss", "val/loss") or "val/" in name
        }
        self.progress.step(step, **numbers)
