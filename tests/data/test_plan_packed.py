"""Packed rows as a pure function of the step."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bcaudio.data.plan
from bcaudio.data.mixture import draw
from bcaudio.data.plan import PackedRow, PackPlan

Documents = list[tuple[int, int]]


def log_normal(count: int, mean: float, sigma: float, seed: int, limit: int) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return lengths.clip(8, limit).astype(np.int32)


@st.composite
def plans(draw_value: st.DrawFn) -> PackPlan:
    shards = draw_value(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any), min_size=1, max_size=3))
    seed, sigma = draw_value(st.integers(0, 9)), draw_value(st.floats(0.2, 1.0))
    tokens = [log_normal(sum(sizes), 40, sigma, seed + i, 512) for i, sizes in enumerate(shards)]
    weights = draw_value(st.lists(st.floats(0.2, 5), min_size=len(shards), max_size=len(shards)))
    rows = draw_value(st.sampled_from([8, 16, 24]))
    return PackPlan(tokens, shards, weights, rows, 512, seed, window=draw_value(st.integers(1, 3)))


examples = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def documents(rows: list[PackedRow]) -> Documents:
    return [pair for row in rows for pair in zip(row.sources.tolist(), row.samples.tolist(), strict=True)]


def plain(rows: list[PackedRow]) -> list[Documents]:
    return [documents([row]) for row in rows]


@given(plans())
@examples
def test_blocks_cut_the_draws_at_equal_numbers_of_tokens(plan: PackPlan) -> None:
    mixture = plan._phases[0].mixture
    sources, samples = draw(mixture, plan.passes, 0, 20_000)
    tokens = np.array([plan.tokens[s][i] for s, i in zip(sources, samples, strict=True)])
    before = np.cumsum(tokens) - tokens
    for block in range(3):
        inside = (before >= block * plan._block_tokens) & (before < (block + 1) * plan._block_tokens)
        steps = range(block * plan.steps_per_block, (block + 1) * plan.steps_per_block)
        found = [pair for step in steps for pair in documents(plan.step(step))]
        assert Counter(found) == Counter(zip(sources[inside].tolist(), samples[inside].tolist(), strict=True))


@given(plans())
@examples
def test_every_sample_comes_once_per_pass_and_source(plan: PackPlan) -> None:
    found = Counter(pair for step in range(3 * plan.steps_per_block) for pair in documents(plan.step(step)))
    for source, tokens in enumerate(plan.tokens):
        counts = [found[source, i] for i in range(len(tokens))]
        assert max(counts) - min(counts) <= 1


@given(plans(), st.integers(0, 100_000))
@examples
def test_any_step_is_found_at_once_as_by_walking(plan: PackPlan, step: int) -> None:
    fresh = pickle.loads(pickle.dumps(plan))
    for earlier in range(max(0, step - 2 * plan.steps_per_block), step):
        plan.step(earlier)
    assert plain(fresh.step(step)) == plain(plan.step(step))
    assert plain(pickle.loads(pickle.dumps(plan)).step(step)) == plain(plan.step(step))


@given(plans(), st.integers(0, 1000))
@examples
def test_ranks_and_accumulations_share_the_same_step_in_equal_parts(plan: PackPlan, step: int) -> None:
    whole = Counter(documents(plan.step(step)))
    for world_size, accumulate in ((1, 1), (2, 1), (1, 4), (4, 2), (8, 1)):
        shares = [plan.share(step, rank, world_size, accumulate) for rank in range(world_size)]
        assert {len(share) for share in shares} == {accumulate}
        assert len({len(part) for share in shares for part in share}) == 1
        assert Counter(pair for share in shares for part in share for pair in documents(part)) == whole
        if len(plan.step(step)) == plan.rows:
            assert len(shares[0][0]) * world_size * accumulate == plan.rows


@pytest.mark.parametrize("row_tokens", [4096, 8192])
@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.1])
def test_rows_of_realistic_lengths_are_full_and_ranks_alike(row_tokens: int, sigma: float) -> None:
    tokens = [log_normal(20_000, 300, sigma, seed, row_tokens) for seed in range(2)]
    plan = PackPlan(tokens, [[1000] * 20] * 2, [3, 1], rows=16, row_tokens=row_tokens, seed=0)
    steps = [plan.step(step) for step in range(5 * plan.steps_per_block)]
    filled = np.array([[row.num_tokens for row in rows] for rows in steps])
    assert filled.shape[1] == 16
    assert filled.max() <= row_tokens
    assert filled.mean() >= 0.97 * row_tokens
    assert filled.std(axis=1).mean() < 0.5 * filled.std()  # the rows of a step are alike
    for step in range(len(steps)):
        ranks = [sum(row.num_tokens for part in plan.share(step, rank, 8, 2) for row in part) for rank in range(8)]
        assert max(ranks) <= 1.02 * min(ranks)


def test_documents_too_long_to_fill_rows_lower_the_fill_and_nothing_is_lost() -> None:
    plan = PackPlan([np.full(1000, 300, np.int32)], [[100] * 10], [1], rows=64, row_tokens=1000, seed=0)
    assert plan.fill == 0.88  # three to a row
    assert {len(plan.step(step)) for step in range(20)} == {64}


def test_documents_that_did_not_fit_their_block_come_in_further_rows_of_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcaudio.data.plan, "FILLS", (0.95,))
    plan = PackPlan([np.full(1000, 300, np.int32)], [[100] * 10], [1], rows=64, row_tokens=1000, seed=0)
    assert plan.steps_per_block == 2
    # 0.95 * 128 * 1000 tokens are 405.3 documents: 406 and 405; 384 fit, 22 and 21 are over and take 8 and 7 rows
    assert [len(plan.step(step)) for step in range(4)] == [64, 72, 64, 71]
    assert sum(len(documents(plan.step(step))) for step in range(2)) == 406
    shares = [plan.share(1, rank, 8, 8) for rank in range(8)]
    assert {len(part) for share in shares for part in share} == {2}
    assert Counter(pair for share in shares for part in share for pair in documents(part)) == Counter(documents(plan.step(1)))


def test_a_schedule_changes_the_shares_from_its_step_on_and_loses_no_sample() -> None:
    tokens = [log_normal(3000, 30, 0.8, seed, 512) for seed in range(2)]
    sizes = [[300] * 10] * 2
    schedule = [(20, [1, 9]), (41, [1, 1])]
    plan = PackPlan(tokens, sizes, [9, 1], rows=128, row_tokens=512, seed=0, schedule=schedule)
    drawn = [Counter(source for source, _ in documents(plan.step(step))) for step in range(60)]
    for steps, share in ((range(20), 0.9), (range(20, 41), 0.1), (range(41, 60), 0.5)):
        first = sum(drawn[step][0] for step in steps)
        assert first / sum(drawn[step].total() for step in steps) == pytest.approx(share, abs=0.01)
    found = Counter(pair for step in range(60) for pair in documents(plan.step(step)))
    for source in range(2):
        counts = [found[source, i] for i in range(3000)]
        assert max(counts) - min(counts) <= 1
    again = PackPlan(tokens, sizes, [9, 1], rows=128, row_tokens=512, seed=0, schedule=schedule)
    assert plain(again.step(55)) == plain(plan.step(55))
    without = PackPlan(tokens, sizes, [9, 1], rows=128, row_tokens=512, seed=0)
    assert without.fill == plan.fill
    assert plain(without.step(19)) == plain(plan.step(19))
    assert plain(without.step(20)) != plain(plan.step(20))


def test_the_order_follows_the_seed() -> None:
    tokens = [log_normal(500, 50, 0.5, 0, 512)]
    one, two = (PackPlan(tokens, [[100] * 5], [1], 16, 512, seed) for seed in (1, 2))
    assert plain(one.step(3)) != plain(two.step(3))


def test_rows_that_ranks_cannot_share_are_refused_with_the_remedy() -> None:
    plan = PackPlan([np.full(50, 20, np.int32)], [[50]], [1], rows=8, row_tokens=100, seed=0)
    with pytest.raises(ValueError, match=r"rows is 8, which 2 ranks with accumulate 3 .* multiple of 6"):
        plan.share(0, 0, 2, 3)
    with pytest.raises(ValueError, match="rows is 8, which 16 ranks"):
        plan.share(0, 0, 16, 1)
