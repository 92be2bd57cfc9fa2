"""Distances between mel spectrograms, over real frames only."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor

from bcaudio.metrics.counting import CountingMetric, divide

NAMES = {"l1": "mel_mae", "l2": "mel_rmse", "lsd": "log_spectral_distance"}
SUMS = {"l1": "absolute_error", "l2": "squared_error", "lsd": "distance"}


class MelDistance(CountingMetric):
    """How far predicted log mels are from the true ones, in their own units; every frame weighs the same, however long its clip.

    Args:
        kind: `l1`, the mean of |prediction - target| over the bins of all frames (`mel_mae`; arXiv 2502.17239, table 1);
            `l2`, the root of the mean square over them (`mel_rmse`);
            `lsd`, the root of the mean square over the bins of a frame, averaged over frames (`log_spectral_distance`).

    Raises:
        ValueError: another kind.
    """

    higher_is_better = False
    counted = "frame"
    statistics = ("error", "values", "frames")

    def __init__(self, kind: Literal["l1", "l2", "lsd"] = "l1") -> None:
        super().__init__()
        if kind not in NAMES:
            raise ValueError(f"MelDistance: kind is {kind!r}; it must be one of {', '.join(NAMES)}")
        self.kind = kind

    @property
    def name(self) -> str:
        """`mel_mae`, `mel_rmse` or `log_spectral_distance`."""
        return NAMES[self.kind]

    def update(self, prediction: Tensor, target: Tensor, lengths: Tensor, ids: list[str] | None = None) -> None:
        """prediction and target [B, n_mels, F], lengths [B] in frames: frames beyond a clip's length are left out."""
        if prediction.shape != target.shape or prediction.ndim != 3 or lengths.shape != prediction.shape[:1]:
            raise ValueError(
                f"MelDistance: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must both be "
                f"[B, n_mels, F] and lengths {tuple(lengths.shape)} [B]"
            )
        if lengths.numel() and lengths.max() > prediction.shape[2]:
            raise ValueError(
                f"MelDistance: a length of {int(lengths.max())} frames exceeds the {prediction.shape[2]} frames given"
            )
        rows = []
        for ours, theirs, frames in zip(prediction.detach().cpu(), target.detach().cpu(), lengths.tolist(), strict=True):
            # a copy without padding, so that a clip's row does not depend on the batch it came in
            difference = (ours[:, :frames].double() - theirs[:, :frames].double()).contiguous()
            rows.append([self._error(difference), difference.numel(), frames])
        self.add_rows(np.array(rows, np.float64), ids)

    def _error(self, difference: Tensor) -> float:
        if self.kind == "l1":
            return float(difference.abs().sum())
        squares = difference.square()
        return float(squares.sum() if self.kind == "l2" else squares.mean(dim=0).sqrt().sum())

    def add(self, error: float, num_frames: int, num_mels: int, id: str | None = None) -> None:
        """Adds an item by its sum of absolute errors (`l1`), of squares (`l2`) or of the frames' distances (`lsd`), taken over
        `num_frames` frames of `num_mels` bins.
        """
        self._update_count += 1
        self.add_rows([[float(error), num_frames * num_mels, num_frames]], None if id is None else [id])

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """The distance in the units of the mel."""
        mean = divide(sums[..., 0], sums[..., 2 if self.kind == "lsd" else 1])
        return np.sqrt(mean) if self.kind == "l2" else mean

    def count(self) -> int:
        """Frames."""
        return int(self.sum_of("frames"))

    def counts(self) -> dict[str, Any]:
        """The sum of errors, the values it was taken over, and frames."""
        return {
            SUMS[self.kind]: float(self.sum_of("error")),
            "values": int(self.sum_of("values")),
            "frames": self.count(),
        }
