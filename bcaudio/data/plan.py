"""The order of data: which samples make the batch of a global step, as a pure function of (sizes, weights, seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CYCLE = 1000  # draws after which every source has had exactly its share


class BatchPlan:
    """Weighted mixture of sources, each passed through in a new random order every epoch.

    Args:
        sizes: samples per source.
        weights: share of each source, any positive scale.
        batch_size: samples per step, over all ranks.
        seed: of the recipe.
        lengths: length of every sample per source; with `window`, batches are made of samples of similar length.
        window: steps whose samples are sorted by length together; 1 leaves the order alone.

    Raises:
        ValueError: an empty source or a weight that is not positive.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        lengths: Sequence[np.ndarray] | None = None,
        window: int = 1,
    ) -> None:
        for i, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
            if size <= 0:
                raise ValueError(f"data source {i} has no samples; correct its shards or its filters, or remove it")
            if weight <= 0:
                raise ValueError(f"data source {i} has weight {weight}; a weight must be above 0")
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.window = window if lengths is not None else 1
        share = np.asarray(weights, dtype=np.float64) / sum(weights) * CYCLE
        quota = np.floor(share).astype(int)
        for i in np.argsort(quota - share, kind="stable")[: CYCLE - quota.sum()]:
            quota[i] += 1
        self.quota = quota
        self._pattern = lru_cache(maxsize=8)(self._make_pattern)
        self._permutation = lru_cache(maxsize=2 * len(sizes))(self._make_permutation)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The (source, sample) pairs of one step."""
        first = step // self.window * self.window
        draws = [self._draw(n) for n in range(first * self.batch_size, (first + self.window) * self.batch_size)]
        if self.window == 1:
            return draws
        draws.sort(key=lambda draw: self.lengths[draw[0]][draw[1]])  # stable: ties keep the order of drawing
        place = self._rng(1, first).permutation(self.window)[step - first]
        return draws[place * self.batch_size : (place + 1) * self.batch_size]

    def _draw(self, n: int) -> tuple[int, int]:
        cycle, position = divmod(n, CYCLE)
        sources, ranks = self._pattern(cycle)
        source = int(sources[position])
        epoch, offset = divmod(cycle * int(self.quota[source]) + int(ranks[position]), self.sizes[source])
        return source, int(self._permutation(source, epoch)[offset])

    def _make_pattern(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        sources = self._rng(2, cycle).permutation(np.repeat(np.arange(len(self.quota)), self.quota))
        ranks = np.zeros(CYCLE, dtype=int)
        for source in range(len(self.quota)):
            here = sources == source
            ranks[here] = np.arange(here.sum())
        return sources, ranks

    def _make_permutation(self, source: int, epoch: int) -> np.ndarray:
        return self._rng(3, source, epoch).permutation(self.sizes[source])

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])
