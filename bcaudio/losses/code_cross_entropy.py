"""Cross-entropy of audio codes, level by level."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bcaudio.losses.token_cross_entropy import IGNORE_INDEX


def code_losses(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy of every code.

    Args:
        logits: K tensors [M, K_i + 1]; the last class ends an audio segment.
        targets: [M, K] int64; -100 is ignored.

    Returns:
        [M, K] fp32, 0 where ignored.
    """
    levels = [
        F.cross_entropy(level_logits.float(), targets[:, level], ignore_index=IGNORE_INDEX, reduction="none")
        for level, level_logits in enumerate(logits)
    ]
    return torch.stack(levels, dim=1)


def join_levels(per_level: Tensor, level_weights: Sequence[float]) -> Tensor:
    """Weighted mean over levels: [..., K] -> [...]; the weights are normalised by their sum."""
    return per_level @ per_level.new_tensor(level_weights) / sum(level_weights)


def code_cross_entropy(
    logits: Sequence[Tensor], targets: Tensor, level_weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted mean over codebook levels of each level's mean cross-entropy (the paper gives no weights).

    Args:
        logits: K tensors [M, K_i + 1]; the last class ends an audio segment.
        targets: [M, K] int64; -100 is ignored, per level.
        level_weights: K weights, normalised by their sum; equal by default.

    Returns:
        (loss, per_level): fp32 scalar and [K] detached means. A level without targets counts 0.

    Raises:
        ValueError: if the numbers of levels differ or the weights sum to 0.
    """
    num_levels = targets.shape[-1]
    weights = [1.0] * num_levels if level_weights is None else [float(weight) for weight in level_weights]
    if not len(logits) == len(weights) == num_levels:
        raise ValueError(f"code_cross_entropy: {len(logits)} logits, {num_levels} target levels, {len(weights)} level_weights")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"code_cross_entropy: level_weights {weights} must be 0 or more, with a sum above 0")
    losses = code_losses(logits, targets)
    per_level = losses.sum(dim=0) / (targets != IGNORE_INDEX).sum(dim=0).clamp(min=1)
    return join_levels(per_level, weights), per_level.detach()
