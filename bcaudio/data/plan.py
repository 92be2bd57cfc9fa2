"""The order of data: which samples make the batch of a global step, as a pure function of (sizes, weights, seed, step)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bcaudio.data.mixture import Mixture, Passes, draw
from bcaudio.data.packing import deal, pack_evenly, pack_rows
from bcaudio.data.recent import Recent

CYCLE = 10_000  # draws after which the shares of a PackPlan are exact
BLOCK_ROWS = 128  # at least so many rows are packed together
# shares of a block's rows that are tried, the highest first
FILLS = (0.99, 0.985, 0.98, 0.975, 0.97, 0.95, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
FULL = 0.97  # up to here, rows that are evenly full go before fuller ones
TRIALS = 4  # per share
SEARCHED = 4096  # draws; a boundary known this closely is found among them one by one


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
        for i, size in enumerate(sizes):
            if size <= 0:
                raise ValueError(f"data source {i} has no samples; correct its shards or its filters, or remove it")
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.window = window if lengths is not None else 1
        self.mixture = Mixture(weights, [seed, 2])
        self.passes = [Passes([size], seed, source) for source, size in enumerate(sizes)]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The (source, sample) pairs of one step."""
        first = step // self.window * self.window
        drawn = draw(self.mixture, self.passes, first * self.batch_size, (first + self.window) * self.batch_size)
        draws = list(zip(*(array.tolist() for array in drawn), strict=True))
        if self.window == 1:
            return draws
        draws.sort(key=lambda pair: self.lengths[pair[0]][pair[1]])  # stable: ties keep the order of drawing
        place = np.random.default_rng([self.seed, 1, first]).permutation(self.window)[step - first]
        return draws[place * self.batch_size : (place + 1) * self.batch_size]


@dataclass(frozen=True)
class PackedRow:
    """The documents of one row: source, sample and tokens of each, [D]."""

    sources: np.ndarray
    samples: np.ndarray
    tokens: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents; the rest of the row is padding."""
        return int(self.tokens.sum())


@dataclass(frozen=True)
class _Phase:
    """From `block` and its first draw on, the sources are drawn by `mixture`; before, source s was drawn `base[s]` times."""

    block: int
    draw: int
    base: np.ndarray
    mixture: Mixture


class PackPlan:
    """The rows of every global step: documents of a weighted mixture packed into `rows` rows of `row_tokens` tokens.

    The draws of the mixture form one endless sequence. Block k is what is drawn from token k * B on, up to token (k + 1) * B,
    where B is `fill` of the room of its rows; it is packed as a whole and makes `steps_per_block` steps. Since the tokens of
    the first n draws follow from totals per shard (Passes.num_tokens), any step is found at the same cost as the first.

    Args:
        tokens: length of every sample, [N] per source, none above `row_tokens` and none 0.
        shard_sizes: samples of every shard, per source.
        weights: share of each source in the draws, any positive scale.
        rows: rows of a global step, over all ranks and accumulations.
        row_tokens: tokens of a row.
        seed: of the recipe.
        window: shards whose samples are mixed (see Passes).
        schedule: (step, weights) in ascending order: other weights from that step on, or from the next block where the step lies
            inside one.

    Raises:
        ValueError: a weight that is not positive, or too small; a schedule out of order.
    """

    def __init__(
        self,
        tokens: Sequence[np.ndarray],
        shard_sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        rows: int,
        row_tokens: int,
        seed: int,
        window: int = 16,
        schedule: Sequence[tuple[int, Sequence[float]]] = (),
    ) -> None:
        self.tokens, self.rows, self.row_tokens, self.seed = list(tokens), rows, row_tokens, seed
        self.passes = [Passes(sizes, seed, s, window, tokens[s]) for s, sizes in enumerate(shard_sizes)]
        self.steps_per_block = -(-BLOCK_ROWS // rows)
        self._boundaries, self._blocks = Recent(64), Recent(2)
        self._found = (0, 0)
        mixtures = [Mixture(given, [seed, 2, i], CYCLE) for i, given in enumerate([weights, *(given for _, given in schedule)])]
        self.fill = self._find_fill(mixtures)
        self._block_tokens = int(self.fill * self.steps_per_block * rows * row_tokens)
        self._phases = [_Phase(0, 0, np.zeros(len(self.tokens), np.int64), mixtures[0])]
        for (step, _), mixture in zip(schedule, mixtures[1:], strict=True):
            last, block = self._phases[-1], -(-step // self.steps_per_block)
            if block < last.block:
                raise ValueError(f"schedule: step {step} comes behind a later one; give its steps in ascending order")
            first = self._boundary(block)
            self._phases.append(_Phase(block, first, last.base + last.mixture.counts(first - last.draw), mixture))

    def step(self, step: int) -> list[PackedRow]:
        """The rows of a global step: `rows` of them. Where documents long against a row did not go into their block's rows, which
        trial packings at the start make rare, the block's last step has more."""
        block, place = divmod(step, self.steps_per_block)
        packed = self._blocks(block, lambda: self._pack(block))
        last = place == self.steps_per_block - 1
        return packed[place * self.rows : None if last else (place + 1) * self.rows]

    def share(self, step: int, rank: int, world_size: int, accumulate: int) -> list[list[PackedRow]]:
        """Rows of each micro-batch of a rank: equally many for all ranks, of nearly equal tokens. Empty rows fill up where a step
        has more than `rows`.

        Raises:
            ValueError: the rows cannot be shared out equally.
        """
        check_share(self.rows, world_size, accumulate)
        rows, empty = self.step(step), np.zeros(0, np.int64)
        rows = [*rows, *[PackedRow(empty, empty, empty)] * (-len(rows) % (world_size * accumulate))]
        mine = [rows[i] for i in self._deal(rows, world_size)[rank]]
        return [[mine[i] for i in part] for part in self._deal(mine, accumulate)]

    @staticmethod
    def _deal(rows: Sequence[PackedRow], parts: int) -> list[list[int]]:
        return deal(np.array([row.num_tokens for row in rows]), parts)

    def _pack(self, block: int) -> list[PackedRow]:
        phase = self._phase(block)
        first, last = (self._boundary(number) - phase.draw for number in (block, block + 1))
        sources, samples, tokens = self._draws(phase, first, last)
        num_rows = self.steps_per_block * self.rows
        placed = pack_rows(tokens, num_rows, self.row_tokens)
        found = max(num_rows, int(placed.max(initial=-1)) + 1)
        order = np.argsort(placed, kind="stable")
        starts = np.searchsorted(placed[order], np.arange(found + 1))
        documents = [order[a:b] for a, b in itertools.pairwise(starts)]
        # the rows of a step are alike in tokens, and so are its ranks; the steps come in random order
        rng = np.random.default_rng([self.seed, 5, block])
        sums = np.bincount(placed, weights=tokens, minlength=found)[:num_rows]
        alike = np.lexsort([rng.random(num_rows), sums]).reshape(self.steps_per_block, self.rows)
        chosen = [*rng.permutation(alike).ravel().tolist(), *range(num_rows, found)]
        return [PackedRow(sources[ids], samples[ids], tokens[ids]) for ids in (documents[row] for row in chosen)]

    def _phase(self, block: int) -> _Phase:
        return next(phase for phase in reversed(self._phases) if phase.block <= block)

    def _draws(self, phase: _Phase, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sources, samples = draw(phase.mixture, self.passes, first, last, phase.base)
        tokens = np.empty(len(sources), np.int64)
        for source in np.unique(sources).tolist():
            here = sources == source
            tokens[here] = self.tokens[source][samples[here]]
        return sources, samples, tokens

    def _boundary(self, block: int) -> int:
        """The first draw of a block."""
        return self._boundaries(block, lambda: self._find(self._phase(block), block))

    def _find(self, phase: _Phase, block: int) -> int:
        if block == phase.block:
            return phase.draw
        target = block * self._block_tokens
        low = self._found[1] - phase.draw if phase.block <= self._found[0] < block else 0  # the last search is often near
        below = self._tokens_before(phase, low)
        mean = float(phase.mixture.share @ [passes.total / passes.size for passes in self.passes])
        high, above = low, below
        while above < target:
            low, below = high, above
            high += int((target - below) / mean) + SEARCHED // 2
            above = self._tokens_before(phase, high)
        for attempt in itertools.count():
            if high - low <= SEARCHED:
                break
            share = (target - below) / (above - below) if attempt % 8 else 0.5  # should the lengths trend, halves will do
            guess = low + round(share * (high - low))
            for n in (guess - SEARCHED // 3, guess + SEARCHED // 3):
                if low < n < high:
                    tokens = self._tokens_before(phase, n)
                    low, below, high, above = (n, tokens, high, above) if tokens < target else (low, below, n, tokens)
        reached = below + np.cumsum(self._draws(phase, low, high)[2])
        found = phase.draw + low + int(np.searchsorted(reached, target)) + 1
        self._found = block, found
        return found

    def _tokens_before(self, phase: _Phase, n: int) -> int:
        """Tokens of all draws before draw n of a phase."""
        counts = (phase.base + phase.mixture.counts(n)).tolist()
        return sum(passes.num_tokens(count) for passes, count in zip(self.passes, counts, strict=True))

    def _find_fill(self, mixtures: Sequence[Mixture]) -> float:
        """The highest fill at which random documents go into evenly filled rows; if that is too low, into any rows."""
        for way, lowest, margin in ((pack_evenly, FULL, 0.005), (pack_rows, 0.0, 0.015)):
            for fill in FILLS:  # trials are fuller than what they speak for
                if fill >= lowest and all(self._fits(mixture, fill + margin, way) for mixture in mixtures):
                    return fill
        return FILLS[-1]

    def _fits(self, mixture: Mixture, fill: float, way: Callable[[np.ndarray, int, int], np.ndarray | None]) -> bool:
        """Whether documents drawn at random that fill a block this far go into its rows, in all of some trials."""
        num_rows = self.steps_per_block * self.rows
        budget = fill * num_rows * self.row_tokens
        mean = float(mixture.share @ [passes.total / passes.size for passes in self.passes])
        rng = np.random.default_rng([self.seed, 6])
        for _ in range(TRIALS):
            counts = rng.multinomial(int(1.2 * budget / mean) + 10, mixture.share)
            drawn = [tokens[rng.integers(len(tokens), size=n)] for tokens, n in zip(self.tokens, counts, strict=True)]
            tokens = rng.permutation(np.concatenate(drawn).astype(np.int64))
            tokens = tokens[: int(np.searchsorted(np.cumsum(tokens), budget)) + 1]
            rows = way(tokens, num_rows, self.row_tokens)
            if rows is None or rows.max() >= num_rows:
                return False
        return True


def check_share(rows: int, world_size: int, accumulate: int) -> None:
    """Whether the rows of a step can be shared out equally. Raises ValueError where they cannot."""
    parts = world_size * accumulate
    if accumulate < 1 or rows < 1 or rows % parts:
        raise ValueError(
            f"data.rows is {rows}, which {world_size} ranks with accumulate {accumulate} cannot share equally; "
            f"make it a multiple of {max(parts, 1)}"
        )
