"""Which sample a draw takes: the mixture of the sources, and the passes through each of them. All are functions of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bcaudio.data.recent import Recent

CYCLE = 1000  # draws after which every source has had exactly its share


def mixture_weights(weights: Sequence[float], sizes: Sequence[int], temperature: float | None) -> np.ndarray:
    """Weights [S] of sources of `sizes` samples, times sizes ** (1 / temperature) where one is given.

    A temperature of 1 draws from a source in proportion to its size; the higher it is, the more alike the sources are drawn.
    """
    made = np.asarray(weights, dtype=np.float64)
    return made if temperature is None else made * np.asarray(sizes, dtype=np.float64) ** (1 / temperature)


class Mixture:
    """The source of every draw: within each cycle every source has exactly its share, in random order.

    Args:
        weights: share of each source, any positive scale.
        key: of the random generator.
        cycle: draws after which the shares are exact.

    Raises:
        ValueError: a weight that is not positive, or so small against the others that its source is never drawn.
    """

    def __init__(self, weights: Sequence[float], key: Sequence[int], cycle: int = CYCLE) -> None:
        for i, weight in enumerate(weights):
            if not weight > 0:
                raise ValueError(f"data source {i} has weight {weight}; a weight must be above 0")
        share = np.asarray(weights, dtype=np.float64) / sum(weights) * cycle
        quota = np.floor(share).astype(int)
        for i in np.argsort(quota - share, kind="stable")[: cycle - quota.sum()]:
            quota[i] += 1
        if not quota.all():
            i = int(quota.argmin())
            raise ValueError(
                f"data source {i} has weight {weights[i]}, {weights[i] / sum(weights):.1e} of all, and would never be drawn; "
                f"give it at least 1 in {cycle}"
            )
        self.share, self.quota, self.cycle, self.key = share / cycle, quota, cycle, tuple(key)
        self._recent = Recent(16)

    def counts(self, n: int) -> np.ndarray:
        """Draws of every source among the first n, [S]."""
        cycle, rest = divmod(n, self.cycle)
        return cycle * self.quota + np.bincount(self._pattern(cycle)[:rest], minlength=len(self.quota))

    def sources(self, first: int, last: int) -> np.ndarray:
        """Source of each of the draws first ... last - 1."""
        cycles = range(first // self.cycle, -(-last // self.cycle))
        joined = np.concatenate([self._pattern(cycle) for cycle in cycles] or [np.zeros(0, dtype=int)])
        start = first - cycles.start * self.cycle
        return joined[start : start + last - first]

    def _pattern(self, cycle: int) -> np.ndarray:
        return self._recent(cycle, lambda: self._make_pattern(cycle))

    def _make_pattern(self, cycle: int) -> np.ndarray:
        sources = np.repeat(np.arange(len(self.quota)), self.quota)
        return np.random.default_rng([*self.key, cycle]).permutation(sources)


@dataclass(frozen=True)
class _Pass:
    """One pass: the order of the shards and, per window, where it starts (`starts` [V + 1]) and the tokens before it."""

    shards: np.ndarray
    starts: np.ndarray
    tokens: np.ndarray


class Passes:
    """Endless passes through one source, each in a new random order that touches few shards at a time.

    A pass permutes the shards, then the samples within every `window` shards of that order. How many tokens any number of draws
    takes is found from totals per shard and one window, at a cost that does not grow with the number of draws.

    Args:
        shard_sizes: samples per shard; samples are numbered through all shards.
        seed: of the recipe.
        source: number of the source.
        window: shards whose samples are mixed.
        tokens: length of every sample, [N]; needed by `num_tokens` alone.
    """

    def __init__(
        self, shard_sizes: Sequence[int], seed: int, source: int, window: int = 1, tokens: np.ndarray | None = None
    ) -> None:
        self.starts = np.cumsum([0, *shard_sizes])
        self.size = int(self.starts[-1])
        self.seed, self.source, self.window, self.tokens = seed, source, window, tokens
        shards = zip(self.starts, self.starts[1:], strict=False)
        self._shard_tokens = np.array([0 if tokens is None else tokens[a:b].sum(dtype=np.int64) for a, b in shards], np.int64)
        self.total = int(self._shard_tokens.sum())
        self._recent = Recent(8)

    def samples(self, first: int, last: int) -> np.ndarray:
        """Samples of this source's draws first ... last - 1."""
        parts = []
        while first < last:
            epoch, number, offset = self._place(first)
            part = self._window(epoch, number)[0][offset : offset + last - first]
            parts.append(part)
            first += len(part)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=int)

    def num_tokens(self, n: int) -> int:
        """Tokens of the first n draws of this source."""
        epoch, number, offset = self._place(n)
        return epoch * self.total + int(self._pass(epoch).tokens[number]) + int(self._window(epoch, number)[1][offset])

    def _place(self, n: int) -> tuple[int, int, int]:
        """(pass, window, offset in the window) of draw n."""
        epoch, offset = divmod(n, self.size)
        starts = self._pass(epoch).starts
        number = int(np.searchsorted(starts, offset, side="right")) - 1
        return epoch, number, offset - int(starts[number])

    def _pass(self, epoch: int) -> _Pass:
        return self._recent(epoch, lambda: self._make_pass(epoch))

    def _window(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        return self._recent((epoch, number), lambda: self._make_window(epoch, number))

    def _make_pass(self, epoch: int) -> _Pass:
        shards = np.random.default_rng([self.seed, 4, self.source, epoch]).permutation(len(self.starts) - 1)
        ends = np.append(np.arange(0, len(shards), self.window), len(shards))
        sizes, tokens = np.diff(self.starts)[shards], self._shard_tokens[shards]
        return _Pass(shards, *(np.concatenate([[0], np.cumsum(values)])[ends] for values in (sizes, tokens)))

    def _make_window(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        shards = self._pass(epoch).shards[number * self.window : (number + 1) * self.window]
        ids = np.concatenate([np.arange(self.starts[shard], self.starts[shard + 1]) for shard in shards])
        key = [self.seed, 3, self.source, epoch, *([number] if number else [])]
        ids = ids[np.random.default_rng(key).permutation(len(ids))]
        tokens = np.zeros(len(ids) + 1, np.int64)
        if self.tokens is not None:
            np.cumsum(self.tokens[ids], out=tokens[1:])
        return ids, tokens


def draw(mixture: Mixture, passes: Sequence[Passes], first: int, last: int, base: np.ndarray | int = 0) -> tuple[np.ndarray, ...]:
    """(source, sample) of the draws first ... last - 1, each [last - first].

    Args:
        base: draws that the sources have had before the mixture began, [S].
    """
    sources = mixture.sources(first, last)
    samples = np.empty(len(sources), dtype=np.int64)
    start = base + mixture.counts(first)
    for source in np.unique(sources).tolist():
        here = sources == source
        samples[here] = passes[source].samples(int(start[source]), int(start[source] + here.sum()))
    return sources, samples
