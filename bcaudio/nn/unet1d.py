"""The velocity network of the flow-matching decoder: a causal 1-D U-Net with chunked attention (arXiv 2502.17239, section 3.2).

The released network keeps one time resolution throughout (one level), so "down" and "up" are names of blocks joined by a skip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def chunk_causal_bias(mask: Tensor, chunk_size: int) -> Tensor:
    """Additive attention bias: frame i sees the real frames of its own chunk and of all chunks before.

    Args:
        mask: [B, 1, T], 1 at real frames.
        chunk_size: frames per chunk (100 = 2 s in the released model).

    Returns:
        [B, 1, T, T] of mask's dtype, 0 where seen and the dtype's least number elsewhere.
    """
    position = torch.arange(mask.shape[-1], device=mask.device)
    seen = position[None, :] < (position[:, None] // chunk_size + 1) * chunk_size
    seen = seen & (mask > 0.5)
    bias = torch.zeros(seen.shape, dtype=mask.dtype, device=mask.device)
    return bias.masked_fill(~seen, torch.finfo(mask.dtype).min).unsqueeze(1)


class SinusoidalTime(nn.Module):
    """Sines and cosines of 1000 t at `dim` / 2 frequencies falling from 1 to 1/10000."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"SinusoidalTime: dim is {dim}, but it must be even and at least 4")
        half = dim // 2
        frequencies = torch.exp(-torch.arange(half, dtype=torch.float32) * math.log(10000.0) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        """time [B] in [0, 1] -> [B, dim]."""
        angle = 1000.0 * time.float()[:, None] * self.frequencies.float()
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeMLP(nn.Module):
    """Two linear maps with SiLU between them; nothing after the second."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, out_dim)
        self.linear_2 = nn.Linear(out_dim, out_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, in_dim] -> [B, out_dim]."""
        return self.linear_2(F.silu(self.linear_1(embedding)))


class CausalConv1d(nn.Conv1d):
    """Stride-1 convolution that sees the present and the past only (zeros before the start)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, T] -> [B, C_out, T]."""
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class CausalBlock(nn.Module):
    """Mish(LayerNorm(conv(x * mask))) * mask."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            CausalConv1d(in_channels, out_channels, 3), nn.Identity(), ChannelNorm(out_channels), nn.Mish()
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, C_in, T], mask [B, 1, T] -> [B, C_out, T]."""
        return self.block(x * mask) * mask


class ResnetBlock(nn.Module):
    """Two causal blocks with the time embedding added between them, and a 1x1 shortcut."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, out_channels))
        self.block1 = CausalBlock(in_channels, out_channels)
        self.block2 = CausalBlock(out_channels, out_channels)
        self.res_conv = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """x [B, C_in, T], mask [B, 1, T], time [B, time_dim] -> [B, C_out, T]."""
        hidden = self.block1(x, mask) + self.mlp(time).unsqueeze(-1)
        return self.block2(hidden, mask) + self.res_conv(x * mask)


class ChunkAttention(nn.Module):
    """Multi-head self-attention whose reach is given by an additive bias; no bias on queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, dim], bias [B, 1, T, T] -> [B, T, dim]."""
        batch, time, _ = x.shape
        query, key, value = (
            project(x).view(batch, time, self.num_heads, -1).transpose(1, 2) for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.to_out(mixed.transpose(1, 2).reshape(batch, time, -1))


class GELUProjection(nn.Module):
    """Linear map followed by the exact (erf) GELU."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] -> [..., out_dim]."""
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """dim -> 4 dim -> dim with GELU; parameter names `net.0.proj` and `net.2`."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(GELUProjection(dim, 4 * dim), nn.Dropout(dropout), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward (`norm1`, `norm3`; the released block has no second norm and no time input)."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = ChunkAttention(dim, num_heads, head_dim, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, dim], bias [B, 1, T, T] -> [B, T, dim]."""
        x = x + self.attn1(self.norm1(x), bias)
        return x + self.ff(self.norm3(x))


@torch.no_grad()
def present_frame_only(conv: nn.Conv1d) -> None:
    """Set a causal convolution to an orthogonal map of the present frame, blind to the past."""
    nn.init.zeros_(conv.weight)
    nn.init.orthogonal_(conv.weight[..., -1])


class VelocityUNet(nn.Module):
    """Velocity v(x, t | mu) of the conditional flow (arXiv 2502.17239, section 3.2; geometry of the released model).

    One down block, `num_mid_blocks` middle blocks, one up block with a skip, each a ResNet block followed by `n_blocks`
    Transformer blocks; convolutions are causal, attention is causal between chunks of `chunk_size` frames and full inside a
    chunk.

    Args:
        mel_bins: bins of the mel, and of the condition mu.
        channels: width per level; the released model has one level, and only one is supported.
        n_blocks: Transformer blocks behind each ResNet block (released: 4).
        num_mid_blocks: middle blocks (released: 12).
        num_heads, attention_head_dim: attention geometry (released: 8 x 64).
        dropout: in attention output and feed-forward.
        chunk_size: frames per attention chunk (released: 100).

    Raises:
        ValueError: with more or fewer than one level.
    """

    def __init__(
        self,
        mel_bins: int = 80,
        channels: Sequence[int] = (256,),
        n_blocks: int = 4,
        num_mid_blocks: int = 12,
        num_heads: int = 8,
        attention_head_dim: int = 64,
        dropout: float = 0.0,
        chunk_size: int = 100,
    ) -> None:
        super().__init__()
        if len(channels) != 1:
            raise ValueError(f"VelocityUNet: channels is {list(channels)}, but exactly one level is supported; give one width")
        width = channels[0]
        self.mel_bins = mel_bins
        self.chunk_size = chunk_size
        time_dim = 4 * width
        self.time_embedding = SinusoidalTime(2 * mel_bins)
        self.time_mlp = TimeMLP(2 * mel_bins, time_dim)

        def stage(in_channels: int, *tail: nn.Module) -> nn.ModuleList:
            blocks = nn.ModuleList(TransformerBlock(width, num_heads, attention_head_dim, dropout) for _ in range(n_blocks))
            return nn.ModuleList([ResnetBlock(in_channels, width, time_dim), blocks, *tail])

        self.down_blocks = nn.ModuleList([stage(2 * mel_bins, CausalConv1d(width, width, 3))])
        self.mid_blocks = nn.ModuleList(stage(width) for _ in range(num_mid_blocks))
        self.up_blocks = nn.ModuleList([stage(2 * width, CausalConv1d(width, width, 3))])
        self.final_block = CausalBlock(width, width)
        self.final_proj = nn.Conv1d(width, mel_bins, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Start as an orthogonal linear map of each frame, every residual branch closed.

        The velocity needs the noise of each frame and bin to pass the whole network unmixed; from random convolutions it has to
        unmix them first. After 300 steps of the micro recipe the validation loss was 1.13, that of a network blind to its noise,
        and 0.41 from this start.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                present_frame_only(module.res_conv)
                nn.init.zeros_(module.block2.block[2].weight)
            elif isinstance(module, TransformerBlock):
                nn.init.zeros_(module.attn1.to_out[0].weight)
                nn.init.zeros_(module.ff.net[2].weight)
        for conv in (self.down_blocks[0][2], self.up_blocks[0][2], self.final_block.block[0], self.final_proj):
            present_frame_only(conv)

    def forward(self, x: Tensor, mu: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """Velocity at one time.

        Args:
            x: state [B, mel_bins, T].
            mu: condition [B, mel_bins, T], zeros for the unconditional velocity.
            mask: [B, 1, T], 1 at real frames, 0 in the padding.
            time: scalar or [B], in [0, 1].

        Returns:
            [B, mel_bins, T], zero in the padding.
        """
        mask = mask.to(x.dtype)
        time = self.time_mlp(self.time_embedding(time.expand(x.shape[0]) if time.dim() == 0 else time).to(x.dtype))
        bias = chunk_causal_bias(mask, self.chunk_size)

        resnet, blocks, conv = self.down_blocks[0]
        skip = self._stage(resnet, blocks, torch.cat([x, mu], dim=1), mask, time, bias)
        hidden = conv(skip * mask)
        for resnet, blocks in self.mid_blocks:
            hidden = self._stage(resnet, blocks, hidden, mask, time, bias)
        resnet, blocks, conv = self.up_blocks[0]
        hidden = conv(self._stage(resnet, blocks, torch.cat([hidden, skip], dim=1), mask, time, bias) * mask)
        return self.final_proj(self.final_block(hidden, mask) * mask) * mask

    @staticmethod
    def _stage(resnet: ResnetBlock, blocks: nn.ModuleList, x: Tensor, mask: Tensor, time: Tensor, bias: Tensor) -> Tensor:
        hidden = resnet(x, mask, time).transpose(1, 2)
        for block in blocks:
            hidden = block(hidden, bias)
        return hidden.transpose(1, 2)
