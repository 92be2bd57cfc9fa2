"""How much of each codebook is in use while a tokenizer trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from bcaudio.metrics.codebook import CodebookUsage


class CodebookHealth(L.Callback):
    """Logs `codebook/used_<level>` (share of entries) and `codebook/perplexity_<level>` over each window of steps, summed
    over ranks.

    The codes [..., K] come from the step's outputs (`outputs["codes"]`) or from `module.last_codes`, which may be padded
    [B, T, K] with the real frames in `module.last_num_codes` [B].

    Args:
        codebook_sizes: entries per level; None asks `module.model.quantizer` for them.
        every_n_steps: length of the window.
    """

    def __init__(self, codebook_sizes: Sequence[int] | None = None, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"CodebookHealth: every_n_steps is {every_n_steps}; it must be at least 1")
        self.usage = None if codebook_sizes is None else CodebookUsage(codebook_sizes)
        self.every_n_steps = every_n_steps
        self.report: dict[str, Any] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        codes = outputs.get("codes") if isinstance(outputs, Mapping) else None
        if codes is None:
            codes = getattr(pl_module, "last_codes", None)
            num_codes = getattr(pl_module, "last_num_codes", None)
            if codes is not None and num_codes is not None:
                codes = codes[torch.arange(codes.shape[1], device=codes.device)[None, :] < num_codes[:, None]]
        if not isinstance(codes, Tensor):
            raise TypeError(
                f"CodebookHealth needs codes [..., K] from {type(pl_module).__name__}: "
                "return them as outputs['codes'] or keep them as last_codes"
            )
        if self.usage is None:
            self.usage = CodebookUsage(pl_module.model.quantizer.codebook_sizes)
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
