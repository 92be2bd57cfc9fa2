import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bcaudio.inference.sampling import SamplingOptions, choose, keep_top_k, keep_top_p, penalise_repetition

INF = math.inf


def test_penalty_divides_positive_and_multiplies_negative_scores_of_seen_classes() -> None:
    scores, seen = torch.tensor([[2.0, -2.0, 2.0, -INF]]), torch.tensor([[True, True, False, True]])
    assert penalise_repetition(scores, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -INF]]


def test_top_k_keeps_the_best_two() -> None:
    assert keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist() == [[-INF, 3.0, 2.0, -INF]]


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, [1]), (0.6, [1, 2]), (0.85, [0, 1, 2]), (0.001, [1])])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: list[int]) -> None:
    scores = torch.tensor([[0.2, 0.5, 0.25, 0.05]]).log()
    assert keep_top_p(scores, top_p)[0].isfinite().nonzero().flatten().tolist() == kept


def test_distribution_is_that_of_the_hugging_face_processors() -> None:
    torch.manual_seed(0)
    scores, history = 3 * torch.randn(1, 30), torch.tensor([[3, 7, 7, 11]])
    options = SamplingOptions(temperature=0.8, top_k=8, top_p=0.85, repetition_penalty=1.3)
    theirs = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.8), TopKLogitsWarper(8), TopPLogitsWarper(0.85)]
    )
    expected = theirs(history, scores).softmax(dim=-1)[0]
    seen = torch.zeros(1, 30, dtype=torch.bool).scatter(1, history, True)
    draws = choose(scores.expand(20000, -1), seen.expand(20000, -1), options, torch.Generator().manual_seed(1))
    frequency = draws.bincount(minlength=30) / 20000
    assert (frequency > 0).tolist() == (expected > 0).tolist()
    torch.testing.assert_close(frequency, expected, atol=0.02, rtol=0)


def test_greedy_takes_the_best_after_the_penalty() -> None:
    scores, seen = torch.tensor([[4.0, 3.0]]), torch.tensor([[True, False]])
    assert choose(scores, seen, SamplingOptions(greedy=True)).tolist() == [0]
    assert choose(scores, seen, SamplingOptions(greedy=True, repetition_penalty=2.0)).tolist() == [1]


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"repetition_penalty": 0.0}]
)
def test_values_outside_their_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingOptions(**wrong)
