"""Parts of the vocoder against independent references."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bcaudio.nn.hift import F0Predictor, HarmonicSource, Snake, WeightNormConv1d, WeightNormUpsample, centre_on_mel


def test_weight_norm_of_the_transposed_convolution_is_over_the_input_channel() -> None:
    up = WeightNormUpsample(2, 3, 4, 2)
    up.weight_v.data = torch.randn_like(up.weight_v)
    up.weight_g.data = torch.tensor([2.0, 5.0]).view(2, 1, 1)
    unit = torch.stack([row / row.norm() for row in up.weight_v.data])
    x = torch.randn(1, 2, 6)
    expected = F.conv_transpose1d(x, unit * up.weight_g.data, stride=2, padding=1)
    torch.testing.assert_close(up(x).detach(), expected)
    assert expected.shape == (1, 3, 12)


def test_upsample_with_an_odd_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="upsample_kernel_sizes"):
        WeightNormUpsample(2, 2, 5, 2)


def test_snake_by_hand() -> None:
    snake = Snake(1)
    snake.alpha.data.fill_(2.0)
    assert float(snake(torch.tensor([[[0.5]]])).detach()) == pytest.approx(0.5 + math.sin(1.0) ** 2 / 2.0, abs=1e-6)


def test_source_of_a_voiced_frame_has_the_fundamental_asked_for() -> None:
    source = HarmonicSource(noise_std=0.0)
    source.l_linear.weight.data = F.one_hot(torch.tensor([0]), 9).float()  # the fundamental alone
    source.l_linear.bias.data.zero_()
    wave = source(torch.full((1, 10), 150.0))[0, 0]
    time = torch.arange(1, 4801) / 24000  # the running sum is one sample in at the first sample
    torch.testing.assert_close(wave.detach(), torch.tanh(0.1 * torch.sin(2 * math.pi * 150 * time)), atol=1e-4, rtol=0)


def test_source_of_an_unvoiced_frame_is_noise_of_a_third_of_the_amplitude() -> None:
    source = HarmonicSource(amplitude=0.3)
    noise = torch.ones(1, 9, 480)
    tones = source._tones(torch.zeros(1, 1), None, noise)
    torch.testing.assert_close(tones, torch.full_like(tones, 0.1))


def test_centring_makes_the_first_convolution_see_a_standardised_mel() -> None:
    torch.manual_seed(0)
    conv = WeightNormConv1d(80, 16, 3)
    plain = conv.weight().detach()
    centre_on_mel(conv, mean=-5.0, std=2.5)
    mel = torch.randn(1, 80, 9) * 2.5 - 5.0
    expected = F.conv1d((mel + 5.0) / 2.5, plain)
    torch.testing.assert_close(conv(mel)[..., 1:-1].detach(), expected, atol=1e-4, rtol=0)


def test_fresh_f0_predictor_starts_at_the_scale_of_speech() -> None:
    torch.manual_seed(0)
    f0 = F0Predictor(channels=64)(torch.randn(4, 80, 50) * 2.5 - 5.0)
    assert 30 < float(f0.detach().mean()) < 300
