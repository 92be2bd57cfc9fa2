import math

import pytest
import torch

from bcaudio.losses.code_cross_entropy import code_cross_entropy


def test_levels_are_averaged_apart_and_joined_by_their_weights() -> None:
    # level 0: uniform over 4 classes, level 1: uniform over 2
    logits = [torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 2, requires_grad=True)]
    targets = torch.tensor([[0, 1], [3, -100], [2, -100]])
    loss, per_level = code_cross_entropy(logits, targets, [3.0, 1.0])
    torch.testing.assert_close(per_level, torch.tensor([math.log(4), math.log(2)]))
    assert loss.item() == pytest.approx((3 * math.log(4) + math.log(2)) / 4)
    loss.backward()
    # (softmax - one-hot) x weight 3/4 / 3 targets
    torch.testing.assert_close(logits[0].grad[0], torch.tensor([-0.75, 0.25, 0.25, 0.25]) / 4)
    assert logits[1].grad[1:].abs().max() == 0


def test_no_weights_means_equal_weights() -> None:
    logits, targets = [torch.randn(5, 4), torch.randn(5, 3)], torch.randint(0, 3, (5, 2))
    loss, per_level = code_cross_entropy(logits, targets)
    torch.testing.assert_close(loss, per_level.mean())


def test_a_batch_without_frames_costs_nothing() -> None:
    logits = [torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 3, requires_grad=True)]
    loss, per_level = code_cross_entropy(logits, torch.zeros(0, 2, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert per_level.tolist() == [0, 0]


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [2.0, -1.0]])
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="level_weights"):
        code_cross_entropy([torch.zeros(1, 4), torch.zeros(1, 3)], torch.zeros(1, 2, dtype=torch.long), weights)
