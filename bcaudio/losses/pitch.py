"""Loss of a predicted fundamental frequency."""

from __future__ import annotations

from torch import Tensor


def f0_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error in Hz over all frames; unvoiced frames have target 0 (the vocoder calls f0 under 10 Hz unvoiced).

    Args:
        predicted, target: [B, T] in Hz.

    Returns:
        scalar in Hz.

    Raises:
        ValueError: if the shapes differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"f0_loss: predicted f0 has shape {tuple(predicted.shape)}, target {tuple(target.shape)}; use one hop length for both"
        )
    return (predicted - target).abs().mean()
