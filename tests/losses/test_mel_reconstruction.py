"""Eq. 1 by hand, at one and at two scales."""

import pytest
import torch

from bcaudio.losses.mel_reconstruction import MultiScaleMelReconstruction, mel_reconstruction, pool_frames


def test_reconstruction_adds_l1_and_l2_of_both_mels_over_real_frames() -> None:
    target = torch.zeros(2, 3, 2)
    coarse = torch.full((2, 2, 2), 2.0)
    refined = torch.full((2, 2, 2), -0.5)
    coarse[1, 1] = refined[1, 1] = 99.0
    # |2| + 2^2 + |0.5| + 0.5^2
    assert mel_reconstruction(coarse, refined, target, torch.tensor([2, 1])).item() == pytest.approx(6.75)


def test_reconstruction_refuses_features_that_are_not_transposed() -> None:
    with pytest.raises(ValueError, match="transpose"):
        mel_reconstruction(torch.zeros(1, 5, 80), torch.zeros(1, 5, 80), torch.zeros(1, 80, 5), torch.tensor([5]))


def test_pooling_averages_around_every_second_real_frame() -> None:
    mel = torch.tensor([[1.0, 2, 3, 4, 5], [1.0, 2, 3, 77, 77]])[..., None]
    pooled = pool_frames(mel, torch.tensor([5, 3]), 2)
    torch.testing.assert_close(pooled[0, :, 0], torch.tensor([1.5, 3.0, 4.5]))
    torch.testing.assert_close(pooled[1, :2, 0], torch.tensor([1.5, 2.5]))


def test_multi_scale_is_the_mean_over_its_scales() -> None:
    loss = MultiScaleMelReconstruction((1, 2))
    mel = torch.ones(1, 4, 1)
    targets = [torch.ones(1, 4, 1), torch.zeros(1, 2, 1)]
    # scale 1: 0; scale 2: (1 + 1) for each of the two mels
    assert loss(mel, mel, targets, torch.tensor([4])).item() == 2.0
    with pytest.raises(ValueError, match="1 targets"):
        loss(mel, mel, targets[:1], torch.tensor([4]))
