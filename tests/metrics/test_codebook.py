import pytest
import torch

from bcaudio.metrics.codebook import CodebookUsage


def test_perplexity_is_the_number_of_evenly_used_entries() -> None:
    metric = CodebookUsage([4, 2])
    metric.update(torch.tensor([[[0, 0], [1, 0]], [[2, 0], [3, -1]]]))
    report = metric.report()
    assert report["perplexity"] == pytest.approx([4.0, 1.0])
    assert report["used"] == [4, 1]
    assert report["usage"] == [1.0, 0.5]
    assert report["codes"] == [4, 3]


def test_perplexity_of_shares_three_quarters_and_one_quarter_by_hand() -> None:
    metric = CodebookUsage([8])
    metric.update(torch.tensor([[5], [5], [5], [6]]))
    assert metric.report()["perplexity"] == pytest.approx([4 / 3**0.75])  # exp(-(.75 ln .75 + .25 ln .25))


def test_two_halves_give_the_joint_result() -> None:
    codes = torch.randint(0, 5, (40, 2), generator=torch.Generator().manual_seed(0))
    first, second, joint = CodebookUsage([5, 5]), CodebookUsage([5, 5]), CodebookUsage([5, 5])
    first.update(codes[:7])
    second.update(codes[7:])
    joint.update(codes)
    first.merge_state(second)
    assert first.report() == joint.report()


def test_a_level_that_was_dropped_has_perplexity_zero() -> None:
    metric = CodebookUsage([2, 2])
    metric.update(torch.tensor([[1, -1]]))
    assert metric.report()["perplexity"] == [1.0, 0.0]


def test_codes_beyond_the_codebook_and_a_wrong_number_of_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="code 4 at level 1"):
        CodebookUsage([9, 4]).update(torch.tensor([[4, 4]]))
    with pytest.raises(ValueError, match="2 codebooks"):
        CodebookUsage([9, 4]).update(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no code"):
        CodebookUsage([9]).report()
