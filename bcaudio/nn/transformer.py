"""The Whisper-type transformer layer shared by encoder, audio decoder and flow pre-net (specification, sections 4, 6 and 7.1)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.nn.attention import Packing, attend, attend_packed


class SelfAttention(nn.Module):
    """Multi-head self-attention; the key projection has no bias.

    Args:
        dim: width.
        num_heads: heads of width dim / num_heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"SelfAttention: dim {dim} is not a multiple of num_heads {num_heads}; change one of them")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, lengths: Tensor | Packing | None, causal: bool) -> Tensor:
        """x [B, T, dim] with lengths [B] or None, or x [N, dim] with its Packing -> the shape of x."""
        heads = (*x.shape[:-1], self.num_heads, -1)
        q, k, v = self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)
        attended = attend_packed(q, k, v, lengths, causal) if isinstance(lengths, Packing) else attend(q, k, v, lengths, causal)
        return self.out_proj(attended.reshape(x.shape))


class TransformerLayer(nn.Module):
    """Pre-norm layer: x += attention(norm(x)); x += fc2(GELU(fc1(norm(x)))), with the exact (erf) GELU.

    Args:
        dim: width.
        num_heads: attention heads.
        ffn_dim: width of the feed-forward part.
        norm: makes a norm of a width, e.g. `nn.LayerNorm` (encoder, decoder) or `partial(nn.RMSNorm, eps=1e-6)` (flow pre-net).
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.self_attn_layer_norm = norm(dim)
        self.self_attn = SelfAttention(dim, num_heads)
        self.final_layer_norm = norm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor, lengths: Tensor | Packing | None = None, causal: bool = False) -> Tensor:
        """x [B, T, dim] with lengths [B] (None: all full), or a packed row x [N, dim] with its Packing -> the shape of x.

        In a padded batch, rows beyond a length have no meaning.
        """
        x = x + self.self_attn(self.self_attn_layer_norm(x), lengths, causal)
        x = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        if x.dtype == torch.float16:
            # float16 overflows in the deep layers of Whisper; inf would turn into NaN in the next norm
            limit = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-limit, limit)
        return x


def sinusoidal_positions(num_positions: int, dim: int) -> Tensor:
    """[num_positions, dim] float32: sin in the first half of the width, cos in the second; wavelengths 2 pi to 20,000 pi."""
    inverse = torch.exp(-math.log(10000.0) / (dim // 2 - 1) * torch.arange(dim // 2, dtype=torch.float32))
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * inverse
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def add_positions(x: Tensor, positions: Tensor, owner: str) -> Tensor:
    """x [B, T, dim] + positions [:T], added in float32 and cast back to the dtype of x.

    Raises:
        ValueError: x is longer than the table of `owner`.
    """
    if x.shape[1] > positions.shape[0]:
        raise ValueError(
            f"{owner}: {x.shape[1]} frames, but there are positions for {positions.shape[0]}; cut the audio into shorter pieces "
            "or raise max_positions"
        )
    return (x.float() + positions[: x.shape[1]].float()).to(x.dtype)
