"""Commitment loss: keeps the encoder near its codebooks (arXiv 2502.17239, eq. 2)."""

from torch import Tensor


def commitment_loss(distances: Tensor, mask: Tensor) -> Tensor:
    """Mean of ||z - quantize(z)||^2 over real positions and over levels.

    Args:
        distances: [B, T, K], `VQOutput.commitment`: squared distance (mean over the width) to the sum of the levels so far.
        mask: [B, T], True at real positions.

    Returns:
        A scalar; 0 when there is no real position.
    """
    masked = distances.masked_fill(~mask[..., None].bool(), 0.0)
    return masked.sum() / (mask.sum() * distances.shape[-1]).clamp(min=1)
