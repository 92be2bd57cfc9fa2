"""A set of shards under one task, as a recipe names it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from bcaudio.data.batch import Item
from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import open_indices
from bcaudio.data.lengths import sequence_lengths
from bcaudio.data.recent import Recent
from bcaudio.data.sequence import SequenceBuilder

MEGABYTE = 1_000_000


def bytes_of(item: Item) -> float:
    """About what an item takes in memory."""
    codes = 0 if item.sample.codes is None else item.sample.codes.nbytes
    return 2000 + codes + sum(clip.nbytes for clip in item.waveforms.values())


class Source:
    """A set of shards under one task. They are opened by the data module, or when something is asked of them.

    Args:
        shards: path or glob of the tar files, or a list of them.
        task: a name of bcaudio.data.tasks.
        weight: share in the mixture.
        languages: keep only these; empty keeps all.
        min_duration_s, max_duration_s: keep only samples between them.
        limit: keep only the first so many; 0 keeps all.
        name: by which a schedule speaks of it.
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
        name: str = "",
    ) -> None:
        self.shards, self.task, self.weight, self.name = shards, task, weight, name
        self.languages, self.limit = list(languages), limit
        self.min_duration_s, self.max_duration_s = min_duration_s, max_duration_s
        self.recent = Recent(512 * MEGABYTE, bytes_of)  # a data module gives all its sources one
        self.table = np.zeros((3, 0), np.int32)

    @cached_property
    def index(self) -> ShardIndex:
        """The samples of the shards. Raises what ShardIndex raises."""
        return ShardIndex([self.shards] if isinstance(self.shards, str) else self.shards)

    @cached_property
    def kept(self) -> np.ndarray:
        """Places of the samples that pass the filters, ascending. Raises ValueError where none does."""
        mask = np.ones(len(self.index), bool)
        if self.min_duration_s > 0 or self.max_duration_s < float("inf"):
            mask &= (self.index.durations_s >= self.min_duration_s) & (self.index.durations_s <= self.max_duration_s)
        if self.languages:
            mask &= self.index.where(language=self.languages)
        kept = np.flatnonzero(mask)[: self.limit or None]
        if not len(kept):
            raise ValueError(
                f"{self.shards}: no sample left of {len(self.index)} (languages {self.languages}, {self.min_duration_s} to "
                f"{self.max_duration_s} s); widen the filter"
            )
        return kept

    @property
    def lengths(self) -> np.ndarray:
        """About how long every sample is, from the index alone."""
        return self.index.durations_s[self.kept] * 50 + self.index.num_text_chars[self.kept]

    @property
    def shard_sizes(self) -> np.ndarray:
        """Samples kept of every shard."""
        starts = np.cumsum([0, *(file.num_samples for file in open_indices(self.index.tars))])
        return np.diff(np.searchsorted(self.kept, starts))

    def measure(self, builder: SequenceBuilder, folder: str | None) -> None:
        """Fill `table` [3, N]: tokens, paid text labels and paid audio frames of every sample kept (see sequence_lengths)."""
        table = sequence_lengths(self.index, self.task, builder, folder)
        self.table = table if len(self.kept) == table.shape[1] else table[:, self.kept]

    def __len__(self) -> int:
        return len(self.kept)

    def key(self, i: int) -> str:
        """Key of sample i."""
        return self.index.key(int(self.kept[i]))

    def item(self, i: int, sample_rates: Sequence[int]) -> Item:
        """Sample i with its audio at the wanted rates as int16; what was read last stays in memory."""
        return self.recent((id(self), i, *sample_rates), lambda: self._read(int(self.kept[i]), sample_rates))

    def _read(self, at: int, sample_rates: Sequence[int]) -> Item:
        waveforms = {
            rate: np.round(np.clip(self.index.waveform(at, rate), -1, 1) * 32767).astype(np.int16) for rate in sample_rates
        }
        return Item(self.index.sample(at), self.task, waveforms)
