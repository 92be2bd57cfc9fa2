"""The one data module: shard sets with a task and a weight, a plan, a collate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from bcaudio.data.batch import Item
from bcaudio.data.index import ShardIndex
from bcaudio.data.plan import BatchPlan

Collate = Callable[..., Any]  # (items, rng, training=False) -> batch


class Source:
    """A set of shards under one task.

    Args:
        shards: path or glob of the tar files, or a list of them.
        task: a name of bcaudio.data.tasks.
        weight: share in the mixture.
        languages: keep only these; empty keeps all.
        min_duration_s, max_duration_s: keep only samples between them.
        limit: keep only the first so many; 0 keeps all.

    Raises:
        ValueError: no sample is left.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        task: str,
        weight: float = 1.0,
        languages: Sequence[str] = (),
        min_duration_s: float = 0.0,
        max_duration_s: float = float("inf"),
        limit: int = 0,
    ) -> None:
        self.index = ShardIndex([shards] if isinstance(shards, str) else shards)
        self.task, self.weight = task, weight
        durations_s = self.index.durations_s
        mask = (durations_s >= min_duration_s) & (durations_s <= max_duration_s)
        if languages:
            mask &= self.index.where(language=list(languages))
        self.kept = np.flatnonzero(mask)[: limit or None]
        if not len(self.kept):
            raise ValueError(
                f"{shards}: no sample left of {len(self.index)} (languages {list(languages)}, {min_duration_s} to "
                f"{max_duration_s} s); widen the filter"
            )
        self.lengths = durations_s[self.kept] * 50 + self.index.num_text_chars[self.kept]
        self._cache: dict[tuple[int, tuple[int, ...]], Item] = {}

    def __len__(self) -> int:
        return len(self.kept)

    def item(self, i: int, sample_rates: Sequence[int]) -> Item:
        """Sample i with its audio at the wanted rates; kept in memory as int16 once read."""
        key = (i, tuple(sample_rates))
        if key not in self._cache:
            at = int(self.kept[i])
            waveforms = {
                rate: np.round(np.clip(self.index.waveform(at, rate), -1, 1) * 32767).astype(np.int16) for rate in sample_rates
            }
            self._cache[key] = Item(self.index.sample(at), self.task, waveforms)
        return self._cache[key]


class _TrainBatches(IterableDataset):
    """Batches first_step, ..., max_steps - 1.

    Worker w of W makes every W-th of them, so that the loader's round robin keeps the order. Rank r of R takes samples r, r + R,
    ... of every global batch: together the ranks see what one process would.
    """

    def __init__(
        self, sources: Sequence[Source], plan: BatchPlan, collate: Collate, steps: range, seed: int, rank: int, world_size: int
    ) -> None:
        self.sources, self.plan, self.collate, self.steps, self.seed = sources, plan, collate, steps, seed
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Any]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        steps = self.steps if info is None else self.steps[info.id :: info.num_workers]
        for step in steps:
            mine = self.plan.batch(step)[self.rank :: self.world_size]
            items = [self.sources[source].item(i, self.collate.sample_rates) for source, i in mine]
            rng = np.random.default_rng([self.seed, 7, step * self.world_size + self.rank])
            yield replace(self.collate(items, rng, training=True), step=step)


class DataModule(L.LightningDataModule):
    """Training and validation batches of a recipe.

    Args:
        train, val: sources.
        collate: SequenceCollate or AudioCollate.
        batch_size: samples per step; val_batch_size: of validation.
        max_steps: training ends after so many batches.
        seed: of the recipe (given by the program).
        window: steps sorted by length together (see BatchPlan).
        num_workers: loader processes.
    """

    def __init__(
        self,
        train: Sequence[Source],
        collate: Collate,
        batch_size: int,
        max_steps: int,
        val: Sequence[Source] = (),
        val_batch_size: int = 32,
        seed: int = 0,
        window: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.collate = list(train), list(val), collate
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.max_steps, self.seed, self.num_workers = max_steps, seed, num_workers
        self.plan = BatchPlan(
            [len(source) for source in self.train],
            [source.weight for source in self.train],
            batch_size,
            seed,
            lengths=[source.lengths for source in self.train],
            window=window,
        )
        self.first_step = 0  # set by a resumed stage

    def train_dataloader(self) -> DataLoader:
        steps = range(self.first_step, self.max_steps)
        dataset = _TrainBatches(self.train, self.plan, self.collate, steps, self.seed, *self._rank_of())
        workers = min(self.num_workers, os.cpu_count() or 1)
        return DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=False)

    def val_dataloader(self) -> DataLoader | list[Any]:
        """All validation items in order, in batches shared out over ranks; empty when the recipe has none."""
        if not self.val:
            return []
        batches, (rank, world_size) = [], self._rank_of()
        for number, source in enumerate(self.val):
            for start in range(0, len(source), self.val_batch_size):
                items = [
                    source.item(i, self.collate.sample_rates) for i in range(start, min(start + self.val_batch_size, len(source)))
                ]
                batches.append(self.collate(items, np.random.default_rng([self.seed, 8, number, start])))
        return DataLoader(batches[rank::world_size], batch_size=None)

    def _rank_of(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
