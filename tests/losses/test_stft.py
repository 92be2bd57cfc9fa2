"""Spectral loss on sounds with a known answer."""

from __future__ import annotations

import math

import pytest
import torch

from bcaudio.losses.stft import MultiResolutionSTFTLoss


def test_loss_of_halved_amplitude_is_half_plus_log_two() -> None:
    waveform = torch.randn(2, 4800, generator=torch.Generator().manual_seed(0))
    loss = MultiResolutionSTFTLoss(floor=1e-12)(0.5 * waveform, waveform)
    # ||S - S/2|| / ||S|| = 1/2 and |log S - log S/2| = log 2, at every resolution
    assert float(loss) == pytest.approx(0.5 + math.log(2), abs=1e-3)


def test_equal_waveforms_cost_nothing_and_silence_has_a_finite_gradient() -> None:
    loss = MultiResolutionSTFTLoss(((256, 64),))
    waveform = torch.randn(1, 2400, generator=torch.Generator().manual_seed(0))
    assert float(loss(waveform, waveform)) == 0.0
    silence = torch.zeros(1, 2400, requires_grad=True)
    loss(silence, waveform).backward()
    assert torch.isfinite(silence.grad).all()


def test_segment_shorter_than_the_window_names_the_resolution() -> None:
    with pytest.raises(ValueError, match="n_fft=2048"):
        MultiResolutionSTFTLoss()(torch.zeros(1, 1000), torch.zeros(1, 1000))
