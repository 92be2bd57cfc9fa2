"""One seam for all Whisper-type attention, through torch's scaled dot-product attention; and what padded batches need."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention, scale 1 / sqrt(D), in which a clip sees only its own positions.

    Args:
        q, k, v: [B, T, H, D], clips padded on the right.
        lengths: [B] valid positions per clip; None when every clip is full. Causal attention never needs them: no valid query
            looks beyond itself. So no mask is built when `lengths` is None, when all are full, or when `causal`.
        causal: position i sees only positions <= i.

    Returns:
        [B, T, H, D]; rows beyond a clip's length are finite and without meaning.
    """
    mask = None
    if lengths is not None and not causal:
        # a row without any visible key would be NaN
        mask = (torch.arange(k.shape[1], device=k.device) < lengths.clamp(min=1)[:, None])[:, None, None, :]
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=causal
    )
    return attended.transpose(1, 2)


def ragged_lengths(lengths: Tensor, num_positions: int) -> Tensor | None:
    """`lengths`, or None when every clip fills all positions; asks the device once, so that no layer has to."""
    return lengths if bool((lengths < num_positions).any()) else None


def zero_beyond(x: Tensor, lengths: Tensor, dim: int = 1) -> Tensor:
    """x with 0.0 from each clip's length on; `dim` is the axis of time, axis 0 the batch."""
    shape = [1] * x.dim()
    shape[dim] = -1
    valid = torch.arange(x.shape[dim], device=x.device).view(shape) < lengths.view(-1, *[1] * (x.dim() - 1))
    return x.masked_fill(~valid, 0.0)
