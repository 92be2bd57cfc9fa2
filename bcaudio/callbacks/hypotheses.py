"""What the error-rate and BLEU callbacks share: hypotheses during validation, counted and summed over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning as L

from bcaudio.callbacks.together import everyones, in_pieces, same_steps
from bcaudio.distributed import rank
from bcaudio.metrics.counting import CountingMetric


class HypothesisCallback(L.Callback):
    """Collects hypotheses from `module.transcribe(batch) -> [(id, hypothesis, reference, language, task), ...]`.

    The languages are named beforehand, so that every rank holds the same metrics and may sum them, whatever it has seen.
    `self.reports` keeps the last validation's reports, with their counts. Where weights lie in pieces (ZeRO-3, FSDP) every rank
    answers the batches of all, which takes as many times longer: bound it by `max_batches`.

    Args:
        languages, tasks: one metric for each pair; hypotheses of others are passed over.
        max_batches: of each validation loader, to bound the time; 0 takes all.

    Raises:
        ValueError: no language or task.
        TypeError: at the start of a fit or validation whose module has no `transcribe`.
    """

    def __init__(self, languages: Sequence[str], tasks: Sequence[str], max_batches: int = 0) -> None:
        if not languages or not tasks:
            raise ValueError(
                f"{type(self).__name__}: languages is {list(languages)} and tasks {list(tasks)}; name at least one of each"
            )
        self.pairs = [(task, language) for task in tasks for language in languages]
        self.max_batches = max_batches
        self.metrics = {pair: self.metric(pair[1]) for pair in self.pairs}
        self.reports: dict[str, dict[str, Any]] = {}

    def metric(self, language: str) -> CountingMetric:
        """The metric of one language."""
        raise NotImplementedError

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not callable(getattr(pl_module, "transcribe", None)):
            raise TypeError(
                f"{type(self).__name__} needs {type(pl_module).__name__}.transcribe(batch) -> "
                "[(id, hypothesis, reference, language, task), ...]; "
                "add that method or remove the callback from the recipe"
            )

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.metrics = {pair: self.metric(pair[1]).to(pl_module.device) for pair in self.pairs}
        self.in_pieces = in_pieces(pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.max_batches and batch_idx >= self.max_batches:
            return
        if self.in_pieces:  # a forward pass waits for all ranks, so each answers the items of all
            batch = replace(batch, items=[item for items in everyones(batch.items) for item in items])
        with same_steps(pl_module):
            rows = pl_module.transcribe(batch)  # type: ignore[operator]  # setup has looked for it
        if self.in_pieces and rank() > 0:  # rank 0 has counted them
            return
        for (task, language), metric in self.metrics.items():
            chosen = [row for row in rows if (row[4], row[3]) == (task, language)]
            metric.update([row[1] for row in chosen], [row[2] for row in chosen], [row[0] for row in chosen])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.reports = {}
        for (task, language), metric in self.metrics.items():
            report = metric.report(allow_empty=True)
            if report:
                key = f"{task}.{language}.{metric.name}"
                self.reports[key] = report
                pl_module.log(
                    f"val/{key}", report[metric.name], on_step=False, on_epoch=True, sync_dist=False, add_dataloader_idx=False
                )
