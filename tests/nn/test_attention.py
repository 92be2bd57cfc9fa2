"""The attention seam against softmax written out for each clip."""

import math

import pytest
import torch

from bcaudio.nn.attention import attend, ragged_lengths, zero_beyond


@pytest.mark.parametrize("causal", [False, True])
def test_attend_equals_softmax_over_each_clips_own_positions(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 7, 2, 4).unbind(0)
    lengths = torch.tensor([7, 4, 1])
    attended = attend(q, k, v, lengths, causal)
    for clip, length in enumerate(lengths.tolist()):
        for head in range(2):
            logits = q[clip, :length, head] @ k[clip, :length, head].T / math.sqrt(4)
            if causal:
                logits = logits.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            expected = logits.softmax(dim=-1) @ v[clip, :length, head]
            torch.testing.assert_close(attended[clip, :length, head], expected, atol=1e-5, rtol=0)


def test_attend_needs_no_lengths_when_all_clips_are_full() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 1, 4).unbind(0)
    torch.testing.assert_close(attend(q, k, v), attend(q, k, v, torch.tensor([5, 5])), atol=1e-6, rtol=0)
    assert ragged_lengths(torch.tensor([5, 5]), 5) is None
    assert torch.equal(ragged_lengths(torch.tensor([5, 4]), 5), torch.tensor([5, 4]))


def test_an_empty_clip_gives_no_nan() -> None:
    x = torch.randn(2, 3, 1, 4)
    assert attend(x, x, x, torch.tensor([3, 0])).isfinite().all()


def test_zero_beyond_follows_the_axis_of_time() -> None:
    lengths = torch.tensor([1, 2])
    assert zero_beyond(torch.ones(2, 3, 1), lengths)[..., 0].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert zero_beyond(torch.ones(2, 1, 3), lengths, dim=2)[:, 0].tolist() == [[1, 0, 0], [1, 1, 0]]
