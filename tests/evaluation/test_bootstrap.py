"""The bootstrap against cases worked out by hand, exhaustive resampling, sacrebleu and simulated coverage."""

import itertools
import math
import random

import numpy as np
import pytest
import sacrebleu

from bcaudio.evaluation import bootstrap
from bcaudio.evaluation.bootstrap import PairedDifference, confidence_interval, paired_difference
from bcaudio.metrics import BLEU, Accuracy, ChrF, CountingMetric, ErrorRate, Mean


def answers(*right: float, ids: str = "") -> Accuracy:
    metric = Accuracy()
    metric.update(right, list(ids) or None)
    return metric


def words(errors: list[int], units: list[int]) -> ErrorRate:
    """Substitutions among so many words."""
    metric = ErrorRate("en")
    metric.add_rows([[wrong, 0, 0, all_] for wrong, all_ in zip(errors, units, strict=True)])
    return metric


def test_the_interval_is_that_of_all_resamples() -> None:
    errors, units = [0, 3, 1, 0, 2], [4, 5, 9, 2, 3]
    every = sorted(
        sum(errors[i] for i in drawn) / sum(units[i] for i in drawn) for drawn in itertools.product(range(5), repeat=5)
    )
    low, high = confidence_interval(words(errors, units), num_samples=40_000, level=0.9)
    assert low == pytest.approx(np.quantile(every, 0.05), abs=0.01)
    assert high == pytest.approx(np.quantile(every, 0.95), abs=0.01)
    assert high - low > 0.3


def test_the_value_of_a_corpus_is_resampled_and_not_the_mean_of_its_items() -> None:
    # one long item without an error, many short ones full of them: the mean over items would be near 1
    low, high = confidence_interval(words([0] * 50 + [1] * 50, [99] * 50 + [1] * 50))
    assert low < 0.01 < high < 0.02


def test_the_same_seed_gives_the_same_interval_in_any_order_and_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, units = [n % 4 for n in range(40)], [5 + n % 3 for n in range(40)]
    first = confidence_interval(words(errors, units))
    assert confidence_interval(words(errors[::-1], units[::-1])) == first
    assert confidence_interval(words(errors, units), seed=1) != first
    monkeypatch.setattr(bootstrap, "CHUNK", 300)  # 7 resamples at a time, the last 6
    assert confidence_interval(words(errors, units)) == first


def test_a_wider_level_holds_a_narrower_one() -> None:
    metric = answers(*[n % 3 == 0 for n in range(60)])
    (low, high), (wide_low, wide_high) = (confidence_interval(metric, level=level) for level in (0.5, 0.99))
    assert wide_low < low < 1 / 3 < high < wide_high


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for number in range(200):
        metric = Mean("x")
        metric.update(rng.exponential(2.0, 80))
        low, high = confidence_interval(metric, num_samples=300, seed=number, level=0.9)
        covered += low <= 2.0 <= high
    # 180 expected, a little fewer for so skew a population; standard deviation 4
    assert 164 <= covered <= 194


@pytest.mark.parametrize("metric", [BLEU("en"), ChrF("en")], ids=["bleu", "chrf"])
def test_translations_are_resampled_as_sacrebleu_would(metric: BLEU | ChrF) -> None:
    rng = random.Random(0)
    references = [" ".join(rng.choices(["the", "cat", "sat", "on", "a", "mat", "and"], k=9)) for _ in range(30)]
    hypotheses = [" ".join(word if rng.random() < 0.8 else "x" for word in text.split()) for text in references]
    metric.update(hypotheses, references, [str(n) for n in range(30)])
    oracle, values = sacrebleu.BLEU() if metric.name == "bleu" else sacrebleu.CHRF(), []
    for _ in range(400):
        drawn = [rng.randrange(30) for _ in range(30)]
        values.append(oracle.corpus_score([hypotheses[i] for i in drawn], [[references[i] for i in drawn]]).score)
    low, high = confidence_interval(metric, num_samples=2000)
    spread = float(np.std(values))
    # the ends of two bootstraps of 400 and 2000 differ by about a ninth of the spread
    assert low == pytest.approx(np.quantile(values, 0.025), abs=0.45 * spread)
    assert high == pytest.approx(np.quantile(values, 0.975), abs=0.45 * spread)
    assert low < metric.compute().item() < high


def test_a_certain_figure_has_no_width_and_an_undefined_one_no_ends() -> None:
    assert confidence_interval(answers(1, 1, 1)) == (1.0, 1.0)
    assert all(math.isnan(end) for end in confidence_interval(words([0, 0], [0, 0])))


def test_paired_items_are_matched_by_id() -> None:
    right = [1, 1, 0, 1, 0, 0]
    same = paired_difference(answers(*right, ids="abcdef"), answers(*right[::-1], ids="fedcba"))
    assert same == PairedDifference(0.0, 0.0, 0.0, 1.0, 6)
    other = paired_difference(answers(*right, ids="abcdef"), answers(*right[::-1], ids="abcdef"))
    assert other.low < other.difference == 0.0 < other.high


def test_pairing_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hard, ids = rng.random(200), [str(n) for n in range(200)]
    a, b = Mean("x"), Mean("x")
    a.update(hard * 10 + 0.1, ids)
    b.update(hard * 10 + rng.normal(0, 0.1, 200), ids)
    intervals = [confidence_interval(metric) for metric in (a, b)]
    assert intervals[0][0] < intervals[1][1]
    found = paired_difference(a, b)
    assert 0.07 < found.low < found.difference < found.high < 0.13
    assert found.p_value == 2 / 1001


def test_the_other_way_round_only_the_sign_changes() -> None:
    rng = np.random.default_rng(0)
    a, b = answers(*rng.random(50)), answers(*rng.random(50))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert other == PairedDifference(-one.difference, pytest.approx(-one.high), pytest.approx(-one.low), one.p_value, 50)
    assert 0.01 < one.p_value < 1


def test_equal_systems_do_not_differ() -> None:
    assert paired_difference(answers(1, 0, 1), answers(1, 0, 1)) == PairedDifference(0.0, 0.0, 0.0, 1.0, 3)


def test_the_p_value_by_hand() -> None:
    # the difference of a resample of two is 1, 0 or -1: 1/4, 1/2, 1/4, so 3/4 are at least and at most 0, and p is 1;
    # with differences 1, 1, 0 a resample of three is 0 in 1/27 and never below, so p is near 2/27
    assert paired_difference(answers(1, 0), answers(0, 1)).p_value == 1.0
    found = paired_difference(answers(1, 1, 0), answers(0, 0, 0), num_samples=20_000)
    assert found.p_value == pytest.approx(2 / 27, abs=0.008)


def test_false_alarms_are_as_rare_as_the_p_value_says() -> None:
    rng, alarms = np.random.default_rng(1), 0
    for number in range(200):
        a, b = (answers(*(rng.random(60) < 0.5)) for _ in range(2))
        alarms += paired_difference(a, b, num_samples=300, seed=number).p_value <= 0.1
    # 20 expected, standard deviation 4.2
    assert 7 <= alarms <= 34


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (answers(1, 0, ids="ab"), answers(1, 0, ids="bc"), r"1 only in the first \(a\), 1 only in the second \(c\)"),
        (answers(1, 0, 1, ids="aba"), answers(1, 0, ids="ab"), "id a occurs 2 times"),
        (answers(1), Mean("x"), "accuracy of Accuracy cannot be compared with x of Mean"),
        (answers(1), answers(), "no answer was scored"),
    ],
    ids=["other items", "twice", "other metric", "empty"],
)
def test_what_cannot_be_paired_is_refused(a: CountingMetric, b: CountingMetric, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paired_difference(a, b)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(ValueError, match="no answer was scored, so accuracy has no interval"):
        confidence_interval(Accuracy())
    with pytest.raises(ValueError, match="num_samples 0"):
        confidence_interval(answers(1), num_samples=0)
    with pytest.raises(ValueError, match="level 95"):
        confidence_interval(answers(1), level=95)
