"""The order of data."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest

from bcaudio.data.plan import BatchPlan


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, two = (BatchPlan([50, 70], [1, 2], batch_size=8, seed=3) for _ in range(2))
    later = [one.batch(step) for step in range(30)]
    assert [two.batch(step) for step in reversed(range(30))][::-1] == later
    assert BatchPlan([50, 70], [1, 2], batch_size=8, seed=4).batch(0) != later[0]


def test_every_sample_comes_once_per_epoch() -> None:
    plan = BatchPlan([40], [1.0], batch_size=10, seed=0)
    epochs = [[pair for step in range(4 * e, 4 * e + 4) for pair in plan.batch(step)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == [(0, i) for i in range(40)]
    assert epochs[0] != epochs[1]


def test_sources_have_exactly_their_share_of_a_cycle() -> None:
    plan = BatchPlan([7, 11], [1, 3], batch_size=100, seed=0)
    drawn = Counter(source for step in range(10) for source, _ in plan.batch(step))
    assert drawn == {0: 250, 1: 750}


def test_window_sorts_by_length_and_loses_nothing() -> None:
    lengths = np.arange(64.0)
    plain = BatchPlan([64], [1.0], batch_size=8, seed=1)
    sorted_plan = BatchPlan([64], [1.0], batch_size=8, seed=1, lengths=[lengths], window=4)
    for first in (0, 4):
        ours = [sorted_plan.batch(step) for step in range(first, first + 4)]
        assert sorted(chain(*ours)) == sorted(pair for step in range(first, first + 4) for pair in plain.batch(step))
        spans = sorted((min(i for _, i in batch), max(i for _, i in batch)) for batch in ours)
        assert all(high < low for (_, high), (low, _) in pairwise(spans))


def test_empty_source_and_bad_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="source 1 has no samples"):
        BatchPlan([3, 0], [1, 1], 2, 0)
    with pytest.raises(ValueError, match="source 0 has weight 0"):
        BatchPlan([3], [0], 2, 0)
