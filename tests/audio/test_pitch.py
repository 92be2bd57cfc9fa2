"""Pitch of sounds whose pitch is known."""

from __future__ import annotations

import math

import pytest
import torch

from bcaudio.audio.pitch import PitchEstimator

SAMPLE_RATE = 24000


def harmonic_tone(f0: float, num_harmonics: int, seconds: float = 0.4, amplitude: float = 0.1) -> torch.Tensor:
    time = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return sum(amplitude / h * torch.sin(2 * math.pi * h * f0 * time + h) for h in range(1, num_harmonics + 1))


@pytest.mark.parametrize("num_harmonics", [1, 5, 12])
def test_pitch_of_steady_tones_is_right_within_one_percent(num_harmonics: int) -> None:
    frequencies = torch.tensor([65.0, 93.7, 120.0, 201.3, 333.0, 480.0])
    waveform = torch.stack([harmonic_tone(float(f), num_harmonics) for f in frequencies])
    f0 = PitchEstimator()(waveform)
    assert f0.shape == (6, 20)
    inner = f0[:, 2:-2]
    assert ((inner / frequencies[:, None] - 1).abs() < 0.01).all(), inner


def test_missing_fundamental_is_found() -> None:
    time = torch.arange(9600) / SAMPLE_RATE
    waveform = sum(0.1 * torch.sin(2 * math.pi * 150 * h * time) for h in (2, 3, 4, 5))
    inner = PitchEstimator()(waveform[None])[0, 2:-2]
    torch.testing.assert_close(inner, torch.full((16,), 150.0), atol=1.5, rtol=0)


def test_glide_is_followed_at_the_centres_of_the_frames() -> None:
    time = torch.arange(24000) / SAMPLE_RATE
    waveform = 0.2 * torch.sin(2 * math.pi * (100 * time + 50 * time**2))
    f0 = PitchEstimator()(waveform[None])[0]
    centres = (torch.arange(50) + 0.5) * 480 / SAMPLE_RATE
    wanted = 100 + 100 * centres
    assert ((f0 - wanted)[3:-3].abs() < 3.0).all(), f0 - wanted


def test_noise_and_silence_are_unvoiced() -> None:
    noise = 0.1 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(0))
    f0 = PitchEstimator()(torch.cat([noise, torch.zeros(1, 24000), torch.full((1, 24000), 0.5)]))
    assert (f0[0] > 0).float().mean() <= 0.04
    assert (f0[1] == 0).all()
    assert (f0[2, 2:-2] == 0).all()


def test_a_ring_of_one_frame_between_silences_is_no_voice() -> None:
    f0 = torch.tensor([[0.0, 470.0, 0.0, 100.0, 110.0, 112.0, 300.0, 0.0]])
    assert PitchEstimator()._drop_lonely(f0).tolist() == [[0.0, 0.0, 0.0, 100.0, 110.0, 112.0, 0.0, 0.0]]


def test_wrong_range_names_the_limit() -> None:
    with pytest.raises(ValueError, match="sample_rate / 4 = 6000"):
        PitchEstimator(fmin=60, fmax=7000)
