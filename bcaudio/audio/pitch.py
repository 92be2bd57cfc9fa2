"""Fundamental frequency by normalised cross-correlation, batched in torch: the teacher of the vocoder's f0 predictor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PitchEstimator(nn.Module):
    """f0 per mel frame, 0 where unvoiced.

    Frame t is centred on sample (t + 1/2) * hop_length, as the frames of `DecoderMel` are. For every lag the correlation of a
    window with its shifted copy is divided by the geometric mean of both energies (the normalised cross-correlation of RAPT,
    Talkin 1995), so a decaying or growing tone still scores 1. The shortest lag that is a peak and nearly as good as the best one
    wins, which avoids reporting half the true frequency.

    Args:
        sample_rate: Hz.
        hop_length: samples per frame.
        fmin, fmax: Hz, range of f0.
        voiced_threshold: correlation from which a frame counts as voiced.
        peak_share: a peak at a shorter lag is taken when it reaches this share of the best one.
        min_level: root mean square of a window under which a frame is unvoiced (digital near-silence).
        max_jump: a voiced frame needs a neighbour whose f0 differs by at most this share.

    Raises:
        ValueError: if 0 < fmin < fmax < sample_rate / 4 does not hold.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        hop_length: int = 480,
        fmin: float = 60.0,
        fmax: float = 500.0,
        voiced_threshold: float = 0.6,
        peak_share: float = 0.9,
        min_level: float = 1e-3,
        max_jump: float = 0.2,
    ) -> None:
        super().__init__()
        if not 0 < fmin < fmax < sample_rate / 4:
            raise ValueError(
                f"PitchEstimator: fmin {fmin} and fmax {fmax} Hz must satisfy 0 < fmin < fmax < sample_rate / 4 = "
                f"{sample_rate / 4}"
            )
        self.sample_rate = sample_rate
        self.hop_length = hop_length
        self.min_lag = int(sample_rate / fmax)
        self.max_lag = -int(-sample_rate // fmin)
        self.window = self.max_lag + hop_length // 2
        self.voiced_threshold = voiced_threshold
        self.peak_share = peak_share
        self.min_level = min_level
        self.max_jump = max_jump

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """waveform [B, N] in [-1, 1] -> f0 [B, N // hop_length] in Hz, 0 where unvoiced."""
        frames = self._frames(waveform.float())
        correlation, level = self._correlate(frames)

        inner = correlation[..., 1:-1]
        is_peak = (inner >= correlation[..., :-2]) & (inner > correlation[..., 2:])
        score = torch.where(is_peak, inner, torch.full_like(inner, -1.0))
        best = score.amax(dim=-1, keepdim=True)
        first = (score >= self.peak_share * best).float().argmax(dim=-1, keepdim=True)

        left, centre, right = (correlation.gather(-1, first + shift).squeeze(-1) for shift in range(3))
        curvature = (left - 2.0 * centre + right).clamp(max=-1e-9)
        lag = self.min_lag + first.squeeze(-1) + (0.5 * (left - right) / curvature).clamp(-0.5, 0.5)
        voiced = (best.squeeze(-1) >= self.voiced_threshold) & (level >= self.min_level)
        return self._drop_lonely(torch.where(voiced, self.sample_rate / lag, torch.zeros_like(lag)))

    def _drop_lonely(self, f0: Tensor) -> Tensor:
        """Unvoice frames with no neighbour within `max_jump`: a burst rings for one frame at some formant, a voice goes on."""
        near = F.pad((f0[:, 1:] - f0[:, :-1]).abs() <= self.max_jump * torch.minimum(f0[:, 1:], f0[:, :-1]), (1, 1))
        return f0 * (near[:, 1:] | near[:, :-1])

    def _frames(self, waveform: Tensor) -> Tensor:
        """[B, N] -> [B, F, window + max_lag + 1], each centred on its mel frame."""
        num_frames = waveform.shape[-1] // self.hop_length
        size = self.window + self.max_lag + 1
        before = (size - self.hop_length) // 2
        after = max(0, (num_frames - 1) * self.hop_length + size - before - waveform.shape[-1])
        return F.pad(waveform, (before, after)).unfold(-1, size, self.hop_length)[:, :num_frames]

    def _correlate(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised correlation at lags min_lag - 1 .. max_lag + 1 [B, F, lags], and the root mean square level [B, F]."""
        frames = frames - frames.mean(dim=-1, keepdim=True)
        head = frames[..., : self.window]
        size = 1 << (frames.shape[-1] - 1).bit_length()
        product = torch.fft.irfft(torch.fft.rfft(frames, size) * torch.fft.rfft(head, size).conj(), size)
        lags = slice(self.min_lag - 1, self.max_lag + 2)

        running = F.pad(frames.double().square().cumsum(dim=-1), (1, 0))
        energy = (running[..., self.window :] - running[..., : -self.window]).float()
        norm = (energy[..., :1] * energy[..., lags]).clamp(min=0.0).sqrt()
        return product[..., lags] / norm.clamp(min=1e-6), frames.square().mean(dim=-1).sqrt()
