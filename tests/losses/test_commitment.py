"""Commitment loss by hand."""

import torch

from bcaudio.losses.commitment import commitment_loss


def test_commitment_is_the_mean_over_real_positions_and_levels() -> None:
    distances = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 0.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert commitment_loss(distances, mask).item() == 3.0


def test_commitment_of_nothing_is_zero() -> None:
    assert commitment_loss(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)).item() == 0.0
