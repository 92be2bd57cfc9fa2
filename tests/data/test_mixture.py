"""Draws: shares of the sources, passes through them."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaudio.data.mixture import Mixture, Passes, draw, mixture_weights


def test_temperature_moves_the_weights_between_size_and_none() -> None:
    assert mixture_weights([1, 1], [100, 400], 1).tolist() == [100, 400]
    np.testing.assert_allclose(mixture_weights([1, 3], [100, 400], 2), [10, 60])
    assert mixture_weights([1, 3], [100, 400], None).tolist() == [1, 3]


def test_every_cycle_holds_every_source_at_its_share_in_another_order() -> None:
    mixture = Mixture([1, 3], [0], cycle=20)
    first, second = mixture.sources(0, 20), mixture.sources(20, 40)
    assert np.bincount(first).tolist() == np.bincount(second).tolist() == [5, 15]
    assert first.tolist() != second.tolist()
    assert mixture.sources(13, 33).tolist() == [*first[13:], *second[:13]]


@given(st.lists(st.floats(1, 10), min_size=1, max_size=5), st.integers(0, 500))
def test_counts_are_those_of_the_draws(weights: list[float], n: int) -> None:
    mixture = Mixture(weights, [1], cycle=100)
    assert mixture.counts(n).tolist() == np.bincount(mixture.sources(0, n), minlength=len(weights)).tolist()


def test_a_source_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"source 1 has weight 0.0001.* at least 1 in 1000"):
        Mixture([1, 0.0001], [0])


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any), st.integers(1, 4), st.integers(0, 3), st.integers(0, 60))
@settings(deadline=None)
def test_passes_hold_every_sample_once_and_count_their_tokens(sizes: list[int], window: int, seed: int, n: int) -> None:
    tokens = np.random.default_rng(seed).integers(1, 50, sum(sizes)).astype(np.int32)
    passes = Passes(sizes, seed, 0, window, tokens)
    size = sum(sizes)
    for epoch in range(2):
        assert sorted(passes.samples(epoch * size, (epoch + 1) * size).tolist()) == list(range(size))
    drawn = passes.samples(0, n)
    assert passes.num_tokens(n) == tokens[drawn].sum()
    assert passes.samples(n // 2, n).tolist() == drawn[n // 2 :].tolist()


def test_a_window_reads_few_shards_at_a_time_and_shuffles_them_together() -> None:
    passes = Passes([10] * 12, 0, 0, window=3)
    shards = passes.samples(0, 120) // 10
    for start in range(0, 120, 30):
        assert len(set(shards[start : start + 30].tolist())) == 3
        assert len(set(shards[start : start + 10].tolist())) > 1
    assert set(shards[:30].tolist()) != set((passes.samples(120, 150) // 10).tolist())  # the next pass has another order


def test_draws_survive_the_way_to_another_process() -> None:
    mixture, passes = Mixture([1, 2], [0]), [Passes([9], 0, 0), Passes([4, 4], 0, 1)]
    expected = [array.tolist() for array in draw(mixture, passes, 5, 50)]
    mixture, passes = pickle.loads(pickle.dumps((mixture, passes)))
    assert [array.tolist() for array in draw(mixture, passes, 5, 50)] == expected
