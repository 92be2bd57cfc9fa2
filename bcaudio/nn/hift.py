"""Parts of the HiFT vocoder: f0 predictor, harmonic source and iSTFT filter (the CosyVoice 2 vocoder the released model reuses).

HiFT drives a HiFi-GAN-like filter with sines at f0 and its harmonics, and writes magnitude and phase of a tiny STFT in place of
samples. Convolutions are weight-normalised; their parameters keep the names `weight_g`, `weight_v`, `bias` of the released file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormConv1d(nn.Module):
    """Conv1d ("same" padding by default) with weight g * v / ||v||, the norm taken over all axes but the first."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.padding = (kernel_size - 1) * dilation // 2
        self.dilation = dilation
        self.weight_v = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size))
        self.weight_g = nn.Parameter(torch.empty(out_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.set_weight(torch.randn_like(self.weight_v) / math.sqrt(in_channels * kernel_size))

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Make `weight` [C_out, C_in, k] the effective weight."""
        self.weight_v.copy_(weight)
        self.weight_g.copy_(weight.norm(dim=(1, 2), keepdim=True))

    def weight(self) -> Tensor:
        """Effective weight [C_out, C_in, k]."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, T] -> [B, C_out, T]."""
        return F.conv1d(x, self.weight(), self.bias, padding=self.padding, dilation=self.dilation)


class WeightNormUpsample(nn.Module):
    """ConvTranspose1d to `stride` times the length with weight g * v / ||v||; the norm's first axis is the input channel.

    Raises:
        ValueError: if kernel_size - stride is odd or negative (the length would not be exactly stride times).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        if kernel_size < stride or (kernel_size - stride) % 2:
            raise ValueError(
                f"WeightNormUpsample: kernel_size {kernel_size} must exceed stride {stride} by an even number; "
                "change upsample_kernel_sizes"
            )
        self.stride = stride
        self.padding = (kernel_size - stride) // 2
        self.weight_v = nn.Parameter(
            torch.randn(in_channels, out_channels, kernel_size) / math.sqrt(in_channels * kernel_size / stride)
        )
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, T] -> [B, C_out, stride * T]."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))
        return F.conv_transpose1d(x, weight, self.bias, stride=self.stride, padding=self.padding)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with one alpha per channel (Ziyin et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class SnakeResBlock(nn.Module):
    """Residual pairs of convolutions, one pair per dilation, with Snake before every convolution.

    The second convolution of a pair starts small, so that a fresh block is close to the identity.
    """

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(WeightNormConv1d(channels, channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(WeightNormConv1d(channels, channels, kernel_size) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)
        for conv in self.convs2:
            conv.set_weight(0.1 * conv.weight_v)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        for conv1, conv2, act1, act2 in zip(self.convs1, self.convs2, self.activations1, self.activations2, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
        return x


@torch.no_grad()
def centre_on_mel(conv: WeightNormConv1d, mean: float = -5.0, std: float = 2.5) -> None:
    """Start a convolution as if its natural-log mel input had been standardised: silence is about -11.5, loud speech about 1."""
    weight = conv.weight() / std
    conv.set_weight(weight)
    conv.bias.copy_(-mean * weight.sum(dim=(1, 2)))


class F0Predictor(nn.Module):
    """Mel -> f0 in Hz: five convolutions with ELU, a linear map, the absolute value.

    The linear map starts at the scale of speech (about 100 Hz), or learning that scale would take thousands of steps.
    """

    def __init__(self, mel_bins: int = 80, channels: int = 512, num_layers: int = 5) -> None:
        super().__init__()
        widths = [mel_bins] + [channels] * num_layers
        layers: list[nn.Module] = []
        for in_channels, out_channels in itertools.pairwise(widths):
            layers += [WeightNormConv1d(in_channels, out_channels, 3), nn.ELU()]
            layers[-2].set_weight(1.4 * layers[-2].weight_v)
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)
        centre_on_mel(self.condnet[0])
        nn.init.normal_(self.classifier.weight, std=100.0 / math.sqrt(channels))
        nn.init.constant_(self.classifier.bias, 100.0)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, mel_bins, T] -> f0 [B, T] in Hz, not negative."""
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class HarmonicSource(nn.Module):
    """Excitation at the sample rate: sines at f0 and its harmonics where voiced, noise elsewhere, merged into one channel.

    No gradient flows back into f0; the predictor learns from its own loss.

    Args:
        sample_rate: Hz.
        upsample: samples per f0 frame.
        num_harmonics: overtones beside f0.
        amplitude: of the sines; unvoiced noise has a third of it as its standard deviation.
        noise_std: of the noise on voiced samples.
        voiced_threshold: Hz above which a frame is voiced.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        upsample: int = 480,
        num_harmonics: int = 8,
        amplitude: float = 0.1,
        noise_std: float = 0.003,
        voiced_threshold: float = 10.0,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.upsample = upsample
        self.num_tones = num_harmonics + 1
        self.amplitude = amplitude
        self.noise_std = noise_std
        self.voiced_threshold = voiced_threshold
        self.l_linear = nn.Linear(self.num_tones, 1)

    def forward(self, f0: Tensor, phase: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Make the excitation.

        Args:
            f0: [B, T] Hz.
            phase: [B, tones, 1] starting phases in radians (the fundamental's is set to 0); drawn uniformly when not given.
            noise: [B, tones, upsample * T] standard normal; drawn when not given.

        Returns:
            [B, 1, upsample * T] in (-1, 1).
        """
        tones = self._tones(f0.detach().float(), phase, noise)
        return torch.tanh(self.l_linear(tones.transpose(1, 2))).transpose(1, 2)

    @torch.no_grad()
    def _tones(self, f0: Tensor, phase: Tensor | None, noise: Tensor | None) -> Tensor:
        f0 = f0.repeat_interleave(self.upsample, dim=-1).unsqueeze(1)
        order = torch.arange(1, self.num_tones + 1, device=f0.device)[None, :, None]
        if phase is None:
            phase = (2.0 * torch.rand(f0.shape[0], self.num_tones, 1, device=f0.device) - 1.0) * math.pi
        phase = torch.where(order == 1, 0.0, phase)
        turns = torch.cumsum(f0 * order / self.sample_rate, dim=-1)
        sines = self.amplitude * torch.sin(2.0 * math.pi * (turns % 1.0) + phase)
        if noise is None:
            noise = torch.randn_like(sines)
        voiced = (f0 > self.voiced_threshold).float()
        return sines * voiced + noise * (self.noise_std * voiced + self.amplitude / 3.0 * (1.0 - voiced))
