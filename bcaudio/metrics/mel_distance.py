"""Mean absolute error between mel spectrograms, over real frames only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bcaudio.metrics.counting import CountingMetric


class MelDistance(CountingMetric):
    """Mean |prediction - target| over the bins of all real frames (arXiv 2502.17239, table 1, `mel MAE`).

    Every frame weighs the same, however long its clip is.
    """

    higher_is_better = False
    name = "mel_mae"

    def __init__(self) -> None:
        super().__init__()
        self.add_count("absolute_error", dtype=torch.float64)
        self.add_count("values")
        self.add_count("frames")

    def update(self, prediction: Tensor, target: Tensor, lengths: Tensor) -> None:
        """prediction and target [B, n_mels, F], lengths [B] in frames: frames beyond a clip's length are left out."""
        if prediction.shape != target.shape or prediction.ndim != 3 or lengths.shape != prediction.shape[:1]:
            raise ValueError(
                f"MelDistance: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must both be "
                f"[B, n_mels, F] and lengths {tuple(lengths.shape)} [B]"
            )
        if lengths.max() > prediction.shape[2]:
            raise ValueError(
                f"MelDistance: a length of {int(lengths.max())} frames exceeds the {prediction.shape[2]} frames given"
            )
        mask = torch.arange(prediction.shape[2], device=prediction.device)[None, :] < lengths.to(prediction.device)[:, None]
        per_frame = (prediction.double() - target.double()).abs().sum(dim=1)
        self.add(per_frame.masked_fill(~mask, 0.0).sum().item(), int(lengths.sum()), prediction.shape[1])

    def add(self, absolute_error: float, num_frames: int, num_mels: int) -> None:
        """Adds a sum of absolute errors that was taken over `num_frames` frames of `num_mels` bins."""
        self._update_count += 1
        self.absolute_error += absolute_error
        self.frames += num_frames
        self.values += num_frames * num_mels

    def value(self) -> Tensor:
        """The mean absolute error in the units of the mel, float64."""
        if self.count() == 0:
            raise ValueError("MelDistance: no frame was scored")
        return self.absolute_error / self.values

    def count(self) -> int:
        """Frames."""
        return int(self.frames)

    def counts(self) -> dict[str, Any]:
        """The sum of absolute errors, the values it was taken over, and frames."""
        return {"absolute_error": float(self.absolute_error), "values": int(self.values), "frames": int(self.frames)}
