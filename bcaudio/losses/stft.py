"""Spectral distances between waveforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MultiResolutionSTFTLoss(nn.Module):
    """Spectral convergence plus L1 of log magnitudes, averaged over resolutions (Yamamoto et al. 2020, arXiv 1910.11480, eq.
    4-6).

    Args:
        resolutions: (n_fft, hop_length) pairs; the Hann window is as long as n_fft.
        floor: power added under the root, so that silence has a gradient and a finite logarithm.
    """

    def __init__(
        self, resolutions: Sequence[Sequence[int]] = ((512, 128), (1024, 256), (2048, 512)), floor: float = 1e-7
    ) -> None:
        super().__init__()
        self.resolutions = [(int(n_fft), int(hop)) for n_fft, hop in resolutions]
        self.floor = floor

    def forward(self, waveform: Tensor, target: Tensor) -> Tensor:
        """waveform, target [B, N] -> scalar.

        Raises:
            ValueError: if the shapes differ or N is too short for the longest window.
        """
        longest = max(n_fft for n_fft, _ in self.resolutions)
        if waveform.shape != target.shape or waveform.shape[-1] <= longest // 2:
            raise ValueError(
                f"MultiResolutionSTFTLoss: waveforms {tuple(waveform.shape)} and {tuple(target.shape)} must be equal "
                f"in shape and longer than {longest // 2} samples; lengthen the segments (crop_s) "
                f"or drop the resolution n_fft={longest}"
            )
        total = waveform.new_zeros(())
        for n_fft, hop in self.resolutions:
            ours, theirs = self._magnitude(waveform, n_fft, hop), self._magnitude(target, n_fft, hop)
            convergence = (theirs - ours).norm() / theirs.norm().clamp(min=1e-4)
            total = total + convergence + (theirs.log() - ours.log()).abs().mean()
        return total / len(self.resolutions)

    def _magnitude(self, waveform: Tensor, n_fft: int, hop: int) -> Tensor:
        window = torch.hann_window(n_fft, device=waveform.device)
        spectrum = torch.stft(waveform.float(), n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + self.floor).sqrt()
