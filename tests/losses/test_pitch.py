"""f0 loss on a known tone."""

from __future__ import annotations

import math

import pytest
import torch

from bcaudio.audio.pitch import PitchEstimator
from bcaudio.losses.pitch import f0_loss


def test_f0_loss_of_a_constant_offset_on_a_known_tone_is_that_offset() -> None:
    time = torch.arange(24000) / 24000
    target = PitchEstimator()(torch.sin(2 * math.pi * 200 * time)[None])[:, 3:-3]
    assert float(f0_loss(torch.full_like(target, 212.0), target)) == pytest.approx(12.0, abs=0.3)


def test_unvoiced_frames_count_with_target_zero() -> None:
    assert float(f0_loss(torch.tensor([[110.0, 4.0]]), torch.tensor([[100.0, 0.0]]))) == pytest.approx(7.0)


def test_different_frame_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="hop length"):
        f0_loss(torch.zeros(1, 3), torch.zeros(1, 4))
