"""How much of each codebook is in use while a tokenizer trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor

from bcaudio.metrics.codebook import CodebookUsage


class CodebookHealth(L.Callback):
    """Logs `codebook/used_<level>` (share of entries) and `codebook/perplexity_<level>` over each window of steps, summed
    over ranks.

    The codes [..., K] come from the step's outputs (`outputs["codes"]`) or from `module.last_codes`.

    Args:
        codebook_sizes: entries per level.
        every_n_steps: length of the window.
    """

    def __init__(self, codebook_sizes: Sequence[int], every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"CodebookHealth: every_n_steps is {every_n_steps}; it must be at least 1")
        self.usage = CodebookUsage(codebook_sizes)
        self.every_n_steps = every_n_steps
        self.report: dict[str, Any] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        codes = outputs.get("codes") if isinstance(outputs, Mapping) else None
        codes = getattr(pl_module, "last_codes", None) if codes is None else codes
        if not isinstance(codes, Tensor):
            raise TypeError(
                f"CodebookHealth needs codes [..., K] from {type(pl_module).__name__}: "
                "return them as outputs['codes'] or keep them as last_codes"
            )
        self.usage.to(codes.device).update(codes.detach())
        if (batch_idx + 1) % self.every_n_steps:
            return
        self.report = self.usage.report(allow_empty=True)
        self.usage.reset()
        for level, (share, perplexity) in enumerate(
            zip(self.report.get("usage", []), self.report.get("perplexity", []), strict=True)
        ):
            pl_module.log(f"codebook/used_{level}", share, on_step=True, on_epoch=False)
            pl_module.log(f"codebook/perplexity_{level}", perplexity, on_step=True, on_epoch=False)
