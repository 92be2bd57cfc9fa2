"""The auditor: a small CTC recogniser of a closed vocabulary, the independent ear of the evaluation.

It takes the place that a large ASR model has in the paper (arXiv 2502.17239, section 4: ASR-WER of synthesised speech), and
learns only
from the ground-truth audio of the corpus, never from anything the system says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.audio.mel import WhisperLogMel

BLANK = 0


class ConvBlock(nn.Module):
    """Residual block of a dilated convolution and a pointwise layer; frames beyond a clip's length stay zero."""

    def __init__(self, dim: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv1d(dim, dim, kernel_size, dilation=dilation, padding=dilation * (kernel_size // 2))
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, dim], mask [B, T, 1] -> [B, T, dim]."""
        hidden = self.conv((self.norm(x) * mask).transpose(1, 2)).transpose(1, 2)
        return (x + self.dropout(self.out(F.gelu(hidden)))) * mask


class CTCRecognizer(nn.Module):
    """Log-mel at 100 Hz -> frames at 25 Hz -> CTC over words (en) and hanzi (zh).

    Args:
        units: the vocabulary; index 0 of the output is the blank, unit i is output i + 1.
        units_file: a JSON list of the units, instead of `units`.
        n_mels: mel bins of the front end.
        dim: hidden width.
        num_layers: residual blocks, of dilation 1, 2, 4, 1, 2, 4, ...
        kernel_size: odd kernel of the blocks.
        dropout: after each block, in training.
        max_speed_change: in training `vary_speed` resamples every clip by a factor of 1 -+ this, which moves pitch and formants
            to timbres not in the data.
        num_freq_masks, max_freq_mask: SpecAugment masks over mel bins, and their greatest width.
        num_time_masks, max_time_mask: SpecAugment masks over 10 ms frames, and their greatest width.
    """

    def __init__(
        self,
        units: Sequence[str] | None = None,
        units_file: str | None = None,
        n_mels: int = 80,
        dim: int = 128,
        num_layers: int = 6,
        kernel_size: int = 5,
        dropout: float = 0.1,
        max_speed_change: float = 0.15,
        num_freq_masks: int = 2,
        max_freq_mask: int = 12,
        num_time_masks: int = 2,
        max_time_mask: int = 8,
    ) -> None:
        super().__init__()
        if (units is None) == (units_file is None):
            raise ValueError("CTCRecognizer: give either units or units_file")
        self.units = list(units) if units is not None else _read_units(str(units_file))
        if len(set(self.units)) != len(self.units) or not self.units:
            raise ValueError(f"CTCRecognizer: the {len(self.units)} units must be distinct and not none")
        self.index = {unit: i + 1 for i, unit in enumerate(self.units)}
        self.max_speed_change = max_speed_change
        self.freq_masks = (num_freq_masks, max_freq_mask)
        self.time_masks = (num_time_masks, max_time_mask)
        self.front_end = WhisperLogMel(n_mels=n_mels)
        self.stem = nn.ModuleList([nn.Conv1d(n_mels, dim, 5, stride=2, padding=2), nn.Conv1d(dim, dim, 5, stride=2, padding=2)])
        self.blocks = nn.ModuleList(ConvBlock(dim, kernel_size, 2 ** (i % 3), dropout) for i in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, len(self.units) + 1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveforms [B, N] at 16 kHz, lengths [B] in samples -> log-probabilities [B, T, 1 + units] at 25 Hz, lengths [B] in
        frames.
        """
        mel, frames = self.front_end(waveforms, lengths)
        x = normalise_bins(mel, frames)
        if self.training:
            x = spec_augment(x, frames, self.freq_masks, self.time_masks)
        for conv in self.stem:
            frames = (frames + 1) // 2
            x = F.gelu(conv(x))
            x = x * _mask(frames, x.shape[2])[:, None, :]
        x, mask = x.transpose(1, 2), _mask(frames, x.shape[2])[:, :, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x)).float().log_softmax(dim=-1), frames

    @property
    def samples_per_frame(self) -> int:
        """Samples at 16 kHz from one frame to the next."""
        return 4 * self.front_end.hop_length

    def vary_speed(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`change_speed` in training, for whoever trains the model to call before it; else the same waveforms and lengths."""
        if self.training and self.max_speed_change:
            return change_speed(waveforms, lengths, self.max_speed_change)
        return waveforms, lengths

    def encode(self, words: Sequence[str], where: str) -> list[int]:
        """Units -> output indices; ValueError naming `where` and the first unit that is not in the vocabulary."""
        for word in words:
            if word not in self.index:
                raise ValueError(
                    f"{where}: {word!r} is not among the recogniser's {len(self.units)} units; "
                    "write the units file anew from this corpus"
                )
        return [self.index[word] for word in words]

    @torch.no_grad()
    def transcribe(self, waveforms: Tensor, lengths: Tensor) -> list[list[str]]:
        """waveforms [B, N] at 16 kHz, lengths [B] in samples -> the greedy units of each clip."""
        was_training = self.training
        self.eval()
        try:
            log_probs, frames = self(waveforms, lengths)
        finally:
            self.train(was_training)
        best = log_probs.argmax(dim=-1)
        return [
            [self.units[i - 1] for i in torch.unique_consecutive(row[:length]).tolist() if i != BLANK]
            for row, length in zip(best, frames.tolist(), strict=True)
        ]


def change_speed(waveforms: Tensor, lengths: Tensor, max_change: float) -> tuple[Tensor, Tensor]:
    """Resamples each clip by its own factor from 1 -+ `max_change` (linear): waveforms [B, N], lengths [B] -> the same, of
    new lengths.
    """
    factors = 1.0 + (2.0 * torch.rand(len(lengths)) - 1.0) * max_change
    clips = []
    for waveform, length, factor in zip(waveforms, lengths.tolist(), factors.tolist(), strict=True):
        size = max(1, round(length * factor))
        clips.append(F.interpolate(waveform[None, None, :length], size=size, mode="linear", align_corners=False)[0, 0])
    return nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips], device=lengths.device)


def normalise_bins(mel: Tensor, lengths: Tensor) -> Tensor:
    """Takes each clip's mean per bin away, over its real frames: mel [B, n_mels, F], lengths [B] -> [B, n_mels, F], zero
    beyond them.
    """
    mask = _mask(lengths, mel.shape[2])[:, None, :]
    mean = (mel * mask).sum(dim=2, keepdim=True) / lengths.clamp(min=1)[:, None, None]
    return (mel - mean) * mask


def spec_augment(mel: Tensor, lengths: Tensor, freq_masks: tuple[int, int], time_masks: tuple[int, int]) -> Tensor:
    """SpecAugment (arXiv 1904.08779): zeroes (count, greatest width) bands of bins and stretches of frames of mel [B, n_mels,
    F].
    """
    batch, n_mels, num_frames = mel.shape
    keep = torch.ones_like(mel, dtype=torch.bool)
    bins = torch.arange(n_mels, device=mel.device)[None, :]
    frames = torch.arange(num_frames, device=mel.device)[None, :]
    for _ in range(freq_masks[0]):
        width = torch.randint(0, freq_masks[1] + 1, (batch, 1), device=mel.device)
        start = (torch.rand(batch, 1, device=mel.device) * (n_mels - width + 1)).long()
        keep &= ((bins < start) | (bins >= start + width))[:, :, None]
    for _ in range(time_masks[0]):
        width = torch.randint(0, time_masks[1] + 1, (batch, 1), device=mel.device)
        start = (torch.rand(batch, 1, device=mel.device) * (lengths[:, None] - width).clamp(min=1)).long()
        keep &= ((frames < start) | (frames >= start + width))[:, None, :]
    return mel * keep


def _mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def _read_units(path: str) -> list[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"units_file {path}: no such file; the prepare step writes it beside the shards")
    units = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
        raise ValueError(f"units_file {path}: must be a JSON list of strings")
    return units
