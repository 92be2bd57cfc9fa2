"""The vocoder: HiFT, natural-log mel at 50 Hz -> waveform at 24 kHz (arXiv 2502.17239, section 3.2; geometry of CosyVoice 2's
release).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.nn.hift import F0Predictor, HarmonicSource, SnakeResBlock, WeightNormConv1d, WeightNormUpsample, centre_on_mel


class Vocoder(nn.Module):
    """HiFT generator; parameter names are those of the released `hift.pt` (328 tensors at the default sizes).

    A frame gives prod(upsample_rates) * istft_hop samples (480 at the default sizes).

    Args:
        mel_bins: bins of the natural-log mel.
        base_channels: width after `conv_pre`; halved by every upsampling.
        sample_rate: Hz of the waveform.
        num_harmonics, source_amplitude, source_noise_std, voiced_threshold: see `HarmonicSource`.
        upsample_rates, upsample_kernel_sizes: one per upsampling.
        istft_n_fft, istft_hop: the output STFT.
        resblock_kernel_sizes, resblock_dilations: parallel residual blocks per upsampling, averaged.
        source_resblock_kernel_sizes, source_resblock_dilations: one residual block per upsampling on the source branch.
        lrelu_slope: of the leaky ReLU before each upsampling (the one before `conv_post` is 0.01 as released).
        audio_limit: the waveform is clamped to +- this.
        f0_channels: width of the f0 predictor.

    Raises:
        ValueError: if the lists do not have one entry per upsampling (resblocks: per kernel).
    """

    def __init__(
        self,
        mel_bins: int = 80,
        base_channels: int = 512,
        sample_rate: int = 24000,
        num_harmonics: int = 8,
        source_amplitude: float = 0.1,
        source_noise_std: float = 0.003,
        voiced_threshold: float = 10.0,
        upsample_rates: Sequence[int] = (8, 5, 3),
        upsample_kernel_sizes: Sequence[int] = (16, 11, 7),
        istft_n_fft: int = 16,
        istft_hop: int = 4,
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        source_resblock_kernel_sizes: Sequence[int] = (7, 7, 11),
        source_resblock_dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        lrelu_slope: float = 0.1,
        audio_limit: float = 0.99,
        f0_channels: int = 512,
    ) -> None:
        super().__init__()
        levels = len(upsample_rates)
        sizes = (len(upsample_kernel_sizes), len(source_resblock_kernel_sizes), len(source_resblock_dilations))
        if any(size != levels for size in sizes) or len(resblock_kernel_sizes) != len(resblock_dilations):
            raise ValueError(
                f"Vocoder: {levels} upsample_rates need {levels} upsample kernels, source kernels and source dilations "
                f"(have {sizes}), and every resblock kernel needs its dilations "
                f"(have {len(resblock_kernel_sizes)} and {len(resblock_dilations)})"
            )
        if base_channels % 2**levels:
            raise ValueError(
                f"Vocoder: base_channels {base_channels} must be a multiple of {2**levels} to be halved {levels} times"
            )
        self.mel_bins = mel_bins
        self.sample_rate = sample_rate
        self.samples_per_frame = math.prod(upsample_rates) * istft_hop
        self.istft_n_fft = istft_n_fft
        self.istft_hop = istft_hop
        self.num_kernels = len(resblock_kernel_sizes)
        self.lrelu_slope = lrelu_slope
        self.audio_limit = audio_limit

        self.m_source = HarmonicSource(
            sample_rate, self.samples_per_frame, num_harmonics, source_amplitude, source_noise_std, voiced_threshold
        )
        self.f0_predictor = F0Predictor(mel_bins, f0_channels)
        self.conv_pre = WeightNormConv1d(mel_bins, base_channels, 7)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        spectrum = istft_n_fft + 2
        for level, rate in enumerate(upsample_rates):
            width = base_channels // 2 ** (level + 1)
            self.ups.append(WeightNormUpsample(2 * width, width, upsample_kernel_sizes[level], rate))
            step = math.prod(upsample_rates[level + 1 :])
            down = nn.Conv1d(spectrum, width, 1) if step == 1 else nn.Conv1d(spectrum, width, 2 * step, step, step // 2)
            self.source_downs.append(down)
            self.source_resblocks.append(
                SnakeResBlock(width, source_resblock_kernel_sizes[level], source_resblock_dilations[level])
            )
            self.resblocks.extend(
                SnakeResBlock(width, kernel, dilations)
                for kernel, dilations in zip(resblock_kernel_sizes, resblock_dilations, strict=True)
            )
        self.conv_post = WeightNormConv1d(width, spectrum, 7)
        self.register_buffer("window", torch.hann_window(istft_n_fft, periodic=True), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start quiet (magnitude about e^-3) and with inputs standardised, so that neither exp nor the clamp saturates."""
        centre_on_mel(self.conv_pre)
        self.conv_post.set_weight(0.1 * self.conv_post.weight_v)
        self.conv_post.bias[: self.istft_n_fft // 2 + 1] = -3.0

    def forward(
        self, mel: Tensor, f0: Tensor | None = None, phase: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mel to waveform.

        Args:
            mel: [B, mel_bins, T], natural log.
            f0: [B, T] Hz for the source in place of the predicted one.
            phase, noise: draws of the source, see `HarmonicSource.forward`.

        Returns:
            waveform [B, samples_per_frame * T] and the *predicted* f0 [B, T] in Hz.
        """
        predicted = self.f0_predictor(mel)
        source = self.m_source(predicted if f0 is None else f0, phase, noise)
        return self.filter(mel, source), predicted

    def filter(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel [B, mel_bins, T] and excitation [B, 1, samples_per_frame * T] -> waveform [B, samples_per_frame * T]."""
        spectrum = self._source_spectrum(source.squeeze(1)).to(mel.dtype)
        x = self.conv_pre(mel)
        last = len(self.ups) - 1
        for level, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.lrelu_slope))
            if level == last:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[level](self.source_downs[level](spectrum))
            blocks = self.resblocks[level * self.num_kernels : (level + 1) * self.num_kernels]
            x = sum(block(x) for block in blocks) / self.num_kernels
        x = self.conv_post(F.leaky_relu(x, 0.01)).float()
        bins = self.istft_n_fft // 2 + 1
        magnitude = x[:, :bins].exp().clamp(max=100.0)
        waveform = self._inverse_stft(magnitude, torch.sin(x[:, bins:]))
        return waveform.clamp(-self.audio_limit, self.audio_limit)

    def _source_spectrum(self, source: Tensor) -> Tensor:
        """[B, N] -> [B, n_fft + 2, N / hop + 1]: real parts, then imaginary parts."""
        spectrum = torch.stft(
            source.float(),
            self.istft_n_fft,
            self.istft_hop,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return torch.cat([spectrum.real, spectrum.imag], dim=1)

    def _inverse_stft(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        spectrum = torch.polar(magnitude, phase)
        return torch.istft(spectrum, self.istft_n_fft, self.istft_hop, window=self.window, center=True)

    @torch.no_grad()
    def synthesize(self, mel: Tensor, lengths: Tensor) -> list[Tensor]:
        """Speak a padded batch, each clip on its own so that padding changes nothing.

        Args:
            mel: [B, T, mel_bins], natural log.
            lengths: [B] frames.

        Returns:
            one waveform [samples_per_frame * length] per clip; an empty one for length 0.
        """
        waveforms = []
        for clip, length in zip(mel, lengths.tolist(), strict=True):
            clip = clip[:length].transpose(0, 1).unsqueeze(0)
            waveforms.append(self(clip)[0].squeeze(0) if length else clip.new_zeros(0))
        return waveforms
