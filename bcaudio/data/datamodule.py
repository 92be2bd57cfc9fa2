"""The one data module: shard sets with a task and a weight, a plan, a collate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bcaudio.data.batch import PackedBatch, SequenceCollate
from bcaudio.data.mixture import mixture_weights
from bcaudio.data.plan import BatchPlan, PackedRow, PackPlan, check_share
from bcaudio.data.recent import Recent
from bcaudio.data.sequence import IGNORE
from bcaudio.data.source import MEGABYTE, Source, bytes_of
from bcaudio.data.tasks import TASKS, segments_of

Collate = Callable[..., Any]  # (items, rng, training=False) -> batch


class _TrainBatches(IterableDataset):
    """The batches of steps `steps` of one rank.

    Worker w of W makes every W-th of them, so that the loader's round robin keeps the order. Rank r of R takes samples r, r + R,
    ... of every global batch, or its share of the rows: together the ranks see what one process would.
    """

    def __init__(self, data: DataModule, steps: range, rank: int, world_size: int) -> None:
        self.sources, self.plan, self.collate, self.seed = data.train, data.plan, data.collate, data.seed
        self.steps, self.rank, self.world_size, self.accumulate = steps, rank, world_size, data.accumulate

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        number, of = (0, 1) if info is None else (info.id, info.num_workers)
        parts = range(self.steps.start * self.accumulate, self.steps.stop * self.accumulate)
        make = self._packed if isinstance(self.plan, PackPlan) else self._counted
        for part in parts[number::of]:
            yield make(*divmod(part, self.accumulate))

    def _counted(self, step: int, micro: int) -> Any:
        mine = self.plan.batch(step)[self.rank :: self.world_size]
        items = [self.sources[source].item(i, self.collate.sample_rates) for source, i in mine]
        rng = np.random.default_rng([self.seed, 7, step * self.world_size + self.rank])
        return replace(self.collate(items, rng, training=True), step=step)

    def _packed(self, step: int, micro: int) -> PackedBatch:
        share = self.plan.share(step, self.rank, self.world_size, self.accumulate)
        rows = [
            [self.sources[source].item(i, ()) for source, i in zip(row.sources.tolist(), row.samples.tolist(), strict=True)]
            for row in share[micro]
        ]
        rng = np.random.default_rng([self.seed, 7, step, micro * self.world_size + self.rank])
        batch = self.collate.rows(rows, [row.tokens.tolist() for row in share[micro]], rng)
        paid = torch.tensor(self._paid([row for part in share for row in part]), dtype=torch.float64)
        return replace(batch, step=step, micro=micro, num_micro=self.accumulate, paid=paid)

    def _paid(self, rows: Sequence[PackedRow]) -> list[int]:
        """Paid text labels and paid audio frames of the rows."""
        found = np.zeros(2, np.int64)
        for row in rows:
            for source in np.unique(row.sources).tolist():
                found += self.sources[source].table[1:, row.samples[row.sources == source]].sum(axis=1)
        return found.tolist()


class DataModule(L.LightningDataModule):
    """Training and validation batches of a recipe.

    A step takes `batch_size` samples, or `rows` rows of the collate's `row_tokens` that are packed full (PackPlan): the second
    keeps the tokens of a step and the sequence of global batches whatever the number of ranks, workers and accumulations.

    Args:
        train, val: sources.
        collate: SequenceCollate or AudioCollate; a SequenceCollate for `rows`.
        max_steps: training ends after so many steps.
        batch_size: samples per step, over all ranks; val_batch_size: of validation.
        rows: rows per step, over all ranks and accumulations.
        accumulate: micro-batches per rank and step (rows only).
        seed: of the recipe (given by the program).
        window: steps sorted by length together (batch_size only; see BatchPlan).
        shuffle_shards: shards whose samples are mixed (rows only; see Passes).
        temperature: multiplies every weight by the source's size ** (1 / temperature).
        schedule: `{step, weights: {name: weight}}` in ascending order: from that step on, these sources have other weights (rows
            only; see PackPlan).
        lengths: folder that keeps the measured lengths of the samples (rows only); null measures them at every start.
        num_workers: loader processes.
        memory_mb: samples kept in memory, by all loader processes of a rank together.

    Raises:
        ValueError: naming everything that is wrong with the sources, weights, rows and lengths.
    """

    def __init__(
        self,
        train: Sequence[Source],
        collate: Collate,
        max_steps: int,
        batch_size: int | None = None,
        rows: int | None = None,
        accumulate: int = 1,
        val: Sequence[Source] = (),
        val_batch_size: int = 32,
        seed: int = 0,
        window: int = 1,
        shuffle_shards: int = 16,
        temperature: float | None = None,
        schedule: Sequence[Mapping[str, Any]] = (),
        lengths: str | None = None,
        num_workers: int = 0,
        memory_mb: float = 512,
    ) -> None:
        super().__init__()
        self.train, self.val, self.collate = list(train), list(val), collate
        self.batch_size, self.rows, self.accumulate, self.val_batch_size = batch_size, rows, accumulate, val_batch_size
        self.max_steps, self.seed, self.num_workers = max_steps, seed, num_workers
        self.first_step = 0  # set by a resumed stage
        recent = Recent(memory_mb * MEGABYTE / max(1, num_workers), bytes_of)
        for source in [*self.train, *self.val]:
            source.recent = recent
        _refuse([*self._check_way(schedule), *self._check_sources(), *self._check_weights(temperature, schedule)])
        if rows is not None:
            _refuse(self._check_lengths(lengths))
        sizes = [len(source) for source in self.train]
        given = {source.name or i: source.weight for i, source in enumerate(self.train)}
        weights = mixture_weights(list(given.values()), sizes, temperature)
        if rows is None:
            rough = [source.lengths for source in self.train] if window > 1 else None
            self.plan: BatchPlan | PackPlan = BatchPlan(sizes, weights, batch_size, seed, rough, window)
            return
        phases = []
        for phase in schedule:
            given |= phase["weights"]
            phases.append((int(phase["step"]), mixture_weights(list(given.values()), sizes, temperature)))
        tokens, shard_sizes = [source.table[0] for source in self.train], [source.shard_sizes for source in self.train]
        self.plan = PackPlan(tokens, shard_sizes, weights, rows, collate.row_tokens, seed, shuffle_shards, phases)
        if self.plan.fill < 0.97:
            rank_zero_warn(
                f"data: rows of {collate.row_tokens} tokens can only be filled to {self.plan.fill:.0%} with samples of these "
                "lengths; raise data.collate.row_tokens"
            )

    def _check_way(self, schedule: Sequence[Mapping[str, Any]]) -> list[Exception | str]:
        if (self.batch_size is None) == (self.rows is None):
            return [f"data.batch_size is {self.batch_size} and data.rows is {self.rows}; give one of them"]
        if self.rows is None:
            wrong = [name for name, given in (("accumulate", self.accumulate != 1), ("schedule", schedule)) if given]
            return [f"data.{name} needs data.rows; batch_size knows none" for name in wrong]
        problems: list[Exception | str] = []
        if not isinstance(self.collate, SequenceCollate) or self.collate.row_tokens < 1:
            problems.append("data.rows needs a SequenceCollate with row_tokens above 0 as data.collate")
        try:
            check_share(self.rows, int(os.environ.get("WORLD_SIZE", 1)), self.accumulate)
        except ValueError as error:
            problems.append(error)
        return problems

    def _check_sources(self) -> list[Exception | str]:
        problems: list[Exception | str] = []
        first: dict[str, tuple[str, Any]] = {
            "codebook_sizes": ("data.collate", list(getattr(self.collate, "codebook_sizes", ())))
        }
        first = {name: found for name, found in first.items() if found[1]}
        for where, source in self._named():
            if source.task not in TASKS:
                problems.append(f"{where}: unknown task {source.task!r}; known: {', '.join(TASKS)}")
            try:
                source.kept  # noqa: B018 (opens the shards)
            except (ValueError, FileNotFoundError) as error:
                problems.append(error)
                continue
            for name, value in source.index.fingerprint.items():
                other, expected = first.setdefault(name, (where, value))
                if value != expected:
                    problems.append(
                        f"{where}: fingerprint {name} of its shards is {value!r}, but {expected!r} in {other}; "
                        "use shards made by one recipe (and one tokenizer)"
                    )
        return problems

    def _check_weights(self, temperature: float | None, schedule: Sequence[Mapping[str, Any]]) -> list[Exception | str]:
        problems: list[Exception | str] = []
        remedy = "a weight must be above 0; to leave the source out, remove it"
        names = [source.name for source in self.train if source.name]
        for where, source in self._named():
            if not source.weight > 0:
                problems.append(f"{where}.weight is {source.weight}; {remedy}")
        problems += [f"data.train: two sources are named {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
        if temperature is not None and not temperature > 0:
            problems.append(f"data.temperature is {temperature}; it must be above 0")
        for i, phase in enumerate(schedule):
            if set(phase) != {"step", "weights"}:
                problems.append(f"data.schedule[{i}]: has the fields {sorted(phase)}; give step and weights")
                continue
            for name, weight in phase["weights"].items():
                if name not in names:
                    known = ", ".join(names) or "none; give sources a name"
                    problems.append(f"data.schedule[{i}]: there is no source {name!r}; sources with a name: {known}")
                elif not weight > 0:
                    problems.append(f"data.schedule[{i}].weights.{name} is {weight}; {remedy}")
        return problems

    def _check_lengths(self, folder: str | None) -> list[Exception | str]:
        problems: list[Exception | str] = []
        limit = self.collate.row_tokens
        for where, source in list(self._named())[: len(self.train)]:
            source.measure(self.collate.builder, folder)
            tokens = source.table[0]
            if not tokens.all():
                i = int(tokens.argmin())
                try:
                    self.collate.builder.measure(segments_of(source.task, source.item(i, ()).sample))
                except (ValueError, LookupError) as error:
                    what = f"{(tokens == 0).sum()} of {len(tokens)} samples do not suit the task {source.task}"
                    problems.append(f"{where}: {what}; the first is {source.key(i)}: {error}")
            if tokens.max() > limit:
                i, count = int(tokens.argmax()), int((tokens > limit).sum())
                problems.append(
                    f"{where}: {count} of {len(tokens)} samples have more tokens than data.collate.row_tokens, {limit}; "
                    f"the longest is {source.key(i)} with {tokens[i]}; raise row_tokens or lower the source's max_duration_s"
                )
        return problems

    def _named(self) -> Iterator[tuple[str, Source]]:
        for part in ("train", "val"):
            for i, source in enumerate(getattr(self, part)):
                yield f"data.{part}[{i}]{f' ({source.name})' if source.name else ''}", source

    def setup(self, stage: str | None = None) -> None:
        """Refuses a number of ranks that cannot share the rows or the validation."""
        world_size, num_batches = self._rank_of()[1], len(self._val_starts())
        if self.rows is not None:
            check_share(self.rows, world_size, self.accumulate)
        if 0 < num_batches < world_size and not isinstance(self.collate, SequenceCollate):
            raise ValueError(
                f"data.val: {num_batches} batches for {world_size} ranks, and each needs one; lower data.val_batch_size "
                f"({self.val_batch_size}) or take more samples"
            )

    def ledger(self, step: int) -> list[str]:
        """Keys of the samples of a global step, over all ranks, from the plan alone."""
        if isinstance(self.plan, BatchPlan):
            return [self.train[source].key(i) for source, i in self.plan.batch(step)]
        rows = [zip(row.sources.tolist(), row.samples.tolist(), strict=True) for row in self.plan.step(step)]
        return [self.train[source].key(i) for row in rows for source, i in row]

    def train_dataloader(self) -> DataLoader:
        steps = range(self.first_step, self.max_steps)
        dataset = _TrainBatches(self, steps, *self._rank_of())
        workers = min(self.num_workers, os.cpu_count() or 1)
        return DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=False)

    def val_dataloader(self) -> DataLoader | list[Any]:
        """All validation items in order, in batches shared out over ranks; empty when the recipe has none.

        Every rank gets equally many packed batches, since a forward pass may be a collective; what fills up counts for nothing.
        """
        starts, (rank, world_size) = self._val_starts(), self._rank_of()
        if not starts:
            return []
        batches = [self._val_batch(*start) for start in starts[rank::world_size]]
        if isinstance(self.collate, SequenceCollate) and len(batches) < -(-len(starts) // world_size):
            batches.append(_unpaid(self._val_batch(*starts[-1])))
        return DataLoader(batches, batch_size=None)

    def _val_starts(self) -> list[tuple[int, int]]:
        """(source, its first sample) of every validation batch."""
        return [(n, start) for n, source in enumerate(self.val) for start in range(0, len(source), self.val_batch_size)]

    def _val_batch(self, number: int, start: int) -> Any:
        source = self.val[number]
        stop = min(start + self.val_batch_size, len(source))
        items = [source.item(i, self.collate.sample_rates) for i in range(start, stop)]
        return self.collate(items, np.random.default_rng([self.seed, 8, number, start]))

    def _rank_of(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)


def _unpaid(batch: PackedBatch) -> PackedBatch:
    """A batch of the same shape that pays for nothing and names no sample."""
    labels, audio_labels = (torch.full_like(part, IGNORE) for part in (batch.labels, batch.audio_labels))
    return replace(batch, labels=labels, audio_labels=audio_labels, items=[])


def _refuse(problems: Sequence[Exception | str]) -> None:
    """Raise all problems as one; a single error as it is."""
    if len(problems) == 1 and isinstance(problems[0], Exception):
        raise problems[0]
    if problems:
        raise ValueError("\n".join(dict.fromkeys(str(problem) for problem in problems)))
