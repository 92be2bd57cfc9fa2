"""Discriminators: geometry, and that they can tell two sounds apart."""

from __future__ import annotations

import math

import pytest
import torch

from bcaudio.losses.adversarial import discriminator_loss
from bcaudio.nn.discriminators import Discriminators, PeriodDiscriminator


def test_one_judgement_per_period_and_resolution() -> None:
    net = Discriminators(periods=(2, 5), resolutions=((256, 64),), period_channels=(4, 8), spectrogram_channels=(4, 4, 4))
    judgements = net(torch.randn(2, 1001))
    assert len(judgements) == 3
    assert [len(features) for _, features in judgements] == [2, 2, 3]
    assert judgements[1][0].shape == (2, 1, 67, 5)  # 1001 -> padded to 1005 -> 201 rows of 5 -> stride 3
    assert judgements[2][0].shape == (2, 1, 65, 16)  # 129 bins halved once, 1001 // 64 + 1 frames


def test_period_discriminator_does_not_mix_phases() -> None:
    net = PeriodDiscriminator(3, channels=(4, 4))
    waveform = torch.zeros(1, 300)
    changed = waveform.clone()
    changed[0, 150] = 1.0  # phase 0 of 3
    difference = (net(changed)[0] - net(waveform)[0]).abs().amax(dim=(0, 1, 2))
    assert difference[0] > 0
    assert (difference[1:] == 0).all()


def test_discriminators_learn_to_tell_a_tone_from_noise() -> None:
    torch.manual_seed(0)
    net = Discriminators(periods=(3,), resolutions=((256, 64),), period_channels=(8, 16), spectrogram_channels=(4, 4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    time = torch.arange(2400) / 24000
    for _ in range(80):
        tone = 0.3 * torch.sin(2 * math.pi * 440 * time + torch.rand(4, 1) * 6.28)
        loss = discriminator_loss(net(tone), net(0.2 * torch.randn(4, 2400)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.15  # 0.5 is what saying one half everywhere costs


def test_no_discriminator_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="both empty"):
        Discriminators(periods=(), resolutions=())
