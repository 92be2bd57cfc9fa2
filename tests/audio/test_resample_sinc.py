"""The windowed-sinc resampler on sines, whose resampled form is known."""

import math

import pytest
import torch

from bcaudio.audio.resample_sinc import resample_sinc, resampled_length

RATES = [(24000, 16000), (16000, 24000), (44100, 16000), (48000, 16000), (8000, 16000)]


@pytest.mark.parametrize(("orig_rate", "new_rate"), RATES)
def test_a_sine_stays_the_same_sine(orig_rate: int, new_rate: int) -> None:
    def sine(rate: int, num_samples: int) -> torch.Tensor:
        return torch.sin(2 * math.pi * 1000 * torch.arange(num_samples, dtype=torch.float64) / rate).float()

    resampled = resample_sinc(sine(orig_rate, orig_rate // 4), orig_rate, new_rate)
    assert len(resampled) == resampled_length(orig_rate // 4, orig_rate, new_rate)
    middle = slice(len(resampled) // 4, -len(resampled) // 4)
    torch.testing.assert_close(resampled[middle], sine(new_rate, len(resampled))[middle], atol=2e-3, rtol=0)


def test_frequencies_above_the_new_band_are_removed() -> None:
    high = torch.sin(2 * math.pi * 11000 * torch.arange(12000, dtype=torch.float64) / 24000).float()
    assert resample_sinc(high, 24000, 16000)[2000:6000].abs().max() < 1e-3


def test_length_is_rounded_up() -> None:
    assert resampled_length(1001, 24000, 16000) == 668
    assert resample_sinc(torch.zeros(2, 1001), 24000, 16000).shape == (2, 668)


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="0 -> 16000"):
        resample_sinc(torch.zeros(8), 0, 16000)
