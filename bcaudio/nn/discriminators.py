"""Discriminators of the vocoder: by period (HiFi-GAN, arXiv 2010.05646) and by spectrogram (UnivNet, arXiv 2106.07889)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample: the waveform folded to [N / period, period] under strided 2-D convolutions.

    Args:
        period: samples.
        channels: width of each convolution; all but the last have stride 3 along time.
    """

    def __init__(self, period: int, channels: Sequence[int] = (32, 128, 512, 1024, 1024)) -> None:
        super().__init__()
        self.period = period
        widths = [1, *channels]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3 if b_index < len(channels) - 1 else 1, 1), padding=(2, 0)))
            for b_index, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """waveform [B, N] -> scores [B, 1, T', period] and the features of every convolution."""
        missing = -waveform.shape[-1] % self.period
        x = F.pad(waveform.unsqueeze(1), (0, missing), mode="reflect") if missing else waveform.unsqueeze(1)
        x = x.unflatten(-1, (-1, self.period))
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return self.out(x), features


class SpectrogramDiscriminator(nn.Module):
    """2-D convolutions over the magnitude of one STFT, compressed by log(1 + 10 m) so that quiet harmonics count.

    Args:
        n_fft, hop_length: of the STFT (Hann window of n_fft).
        channels: width of each convolution; all but the first and the last halve the frequency axis.
    """

    def __init__(self, n_fft: int, hop_length: int, channels: Sequence[int] = (32, 32, 32, 32, 32)) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        widths = [1, *channels]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (9, 3), (2 if 0 < b_index < len(channels) - 1 else 1, 1), padding=(4, 1)))
            for b_index, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """waveform [B, N] -> scores [B, 1, bins', frames] and the features of every convolution."""
        spectrum = torch.stft(waveform.float(), self.n_fft, self.hop_length, window=self.window, return_complex=True)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        x = torch.log1p(10.0 * magnitude).unsqueeze(1).to(waveform.dtype)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return self.out(x), features


class Discriminators(nn.Module):
    """All discriminators of a vocoder; the defaults have the published widths, a CPU run gives narrower ones.

    Args:
        periods: one PeriodDiscriminator each; may be empty.
        resolutions: (n_fft, hop_length), one SpectrogramDiscriminator each; may be empty.
        period_channels, spectrogram_channels: widths.

    Raises:
        ValueError: with no discriminator at all.
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        resolutions: Sequence[Sequence[int]] = ((512, 128), (1024, 256), (2048, 512)),
        period_channels: Sequence[int] = (32, 128, 512, 1024, 1024),
        spectrogram_channels: Sequence[int] = (32, 32, 32, 32, 32),
    ) -> None:
        super().__init__()
        if not periods and not resolutions:
            raise ValueError(
                "Discriminators: periods and resolutions are both empty; give one of them, or train without discriminators"
            )
        parts: list[nn.Module] = [PeriodDiscriminator(period, period_channels) for period in periods]
        parts += [SpectrogramDiscriminator(n_fft, hop, spectrogram_channels) for n_fft, hop in resolutions]
        self.parts = nn.ModuleList(parts)

    def forward(self, waveform: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """waveform [B, N] -> (scores, features) of every discriminator."""
        return [part(waveform) for part in self.parts]
