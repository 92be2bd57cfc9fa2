"""Depth transformer: the audio head that turns one hidden state of the language model into one code per codebook."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthLinear(nn.Module):
    """One weight matrix per depth position, stored side by side as the released checkpoint does.

    `weight` [out_dim, num_positions * in_dim]: columns [j * in_dim, (j + 1) * in_dim) belong to position j. `bias` [out_dim] is
    in the checkpoint but never used, so it is a buffer: kept when saving, without gradient or weight decay.

    Args:
        in_dim: width of the input at every position.
        out_dim: width of the output at every position.
        num_positions: depth positions, the number of codebooks.
    """

    def __init__(self, in_dim: int, out_dim: int, num_positions: int) -> None:
        super().__init__()
        self.num_positions = num_positions
        self.weight = nn.Parameter(torch.empty(out_dim, num_positions * in_dim))
        self.register_buffer("bias", torch.zeros(out_dim))
        nn.init.normal_(self.weight, std=in_dim**-0.5)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x [M, J, in_dim] at depth positions first..first+J-1 -> [M, J, out_dim]."""
        per_position = self.weight.view(self.weight.shape[0], self.num_positions, -1)[:, first : first + x.shape[1]]
        return torch.bmm(x.transpose(0, 1), per_position.permute(1, 2, 0)).transpose(0, 1)


class DepthAttention(nn.Module):
    """Causal multi-head attention over depth with packed query, key and value weights (names of `nn.MultiheadAttention`)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)
        nn.init.normal_(self.out_proj.weight, std=dim**-0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [M, J, dim] and earlier keys and values [M, heads, P, head_dim] -> (output [M, J, dim], joined keys and values).

        With `past`, x must be a single position (J = 1): it sees everything in `past`.
        """
        num_rows, num_new, dim = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(
            num_rows, num_new, 3, self.num_heads, dim // self.num_heads
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if past is not None:
            assert num_new == 1, "depth cache advances one position at a time"
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        return self.out_proj(attended.transpose(1, 2).reshape(num_rows, num_new, dim)), (key, value)


class DepthLayer(nn.Module):
    """r = RMS2(s + Attention(RMS1(s))); output r + FFN_j(r): the residual is taken after the second norm."""

    def __init__(self, dim: int, num_heads: int, num_positions: int) -> None:
        super().__init__()
        self.self_attention = DepthAttention(dim, num_heads)
        self.layernorm1 = nn.RMSNorm(dim, eps=1e-6)
        self.layernorm2 = nn.RMSNorm(dim, eps=1e-6)
        self.linear1 = DepthLinear(dim, 2 * dim, num_positions)
        self.linear2 = DepthLinear(2 * dim, dim, num_positions)

    def forward(
        self, x: Tensor, first: int = 0, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [M, J, dim] at depth positions first..first+J-1 -> (output [M, J, dim], keys and values so far)."""
        attended, present = self.self_attention(self.layernorm1(x), past)
        normed = self.layernorm2(x + attended)
        return normed + self.linear2(F.gelu(self.linear1(normed, first)), first), present


@dataclass
class DepthCache:
    """Progress of level-by-level decoding: the running sum of code embeddings and each layer's keys and values."""

    running_sum: Tensor | None = None
    layers: list[tuple[Tensor, Tensor] | None] = field(default_factory=list)
    level: int = 0


class DepthTransformer(nn.Module):
    """Audio head (arXiv 2502.17239, section 3.3): transformer layers over the codebook axis, then one classifier per codebook.

    Position 0 is the hidden state of the language model, position j the sum of the embeddings of codes 0..j-1 (the hidden state
    is not part of it). There is no positional embedding; every position has its own feed-forward weights.

    Args:
        dim: hidden width of the language model, a multiple of `head_dim`.
        codebook_sizes: entries per codebook; each classifier has one class more, which ends an audio segment.
        num_layers: transformer layers (3 in the paper).
        head_dim: width of an attention head (128 in the released model).

    Raises:
        ValueError: if `dim` is no multiple of `head_dim`.
    """

    def __init__(self, dim: int, codebook_sizes: Sequence[int], num_layers: int = 3, head_dim: int = 128) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(
                f"DepthTransformer: dim {dim} is no multiple of head_dim {head_dim}; choose a head_dim that divides it"
            )
        self.codebook_sizes = tuple(codebook_sizes)
        num_codebooks = len(self.codebook_sizes)
        self.transformer_layers = nn.ModuleList(DepthLayer(dim, dim // head_dim, num_codebooks) for _ in range(num_layers))
        self.headnorm = nn.RMSNorm(dim, eps=1e-6)
        self.heads = nn.ModuleList(nn.Linear(dim, size + 1) for size in self.codebook_sizes)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    @property
    def num_codebooks(self) -> int:
        """Codebooks, which is also the number of depth positions."""
        return len(self.codebook_sizes)

    def forward(self, hidden: Tensor, code_embeddings: Tensor) -> list[Tensor]:
        """Logits of all levels under teacher forcing.

        Args:
            hidden: [M, dim] states of the language model that predict a frame.
            code_embeddings: [M, K - 1, dim] embeddings of the true codes of levels 0..K-2, not yet summed.

        Returns:
            K tensors [M, K_i + 1].
        """
        x = torch.cat([hidden.unsqueeze(1), code_embeddings.cumsum(dim=1)], dim=1)
        for layer in self.transformer_layers:
            x, _ = layer(x)
        x = self.headnorm(x)
        return [head(x[:, level]) for level, head in enumerate(self.heads)]

    def start(self) -> DepthCache:
        """A fresh cache for `step`: one per frame."""
        return DepthCache(layers=[None] * len(self.transformer_layers))

    def step(self, x: Tensor, cache: DepthCache) -> Tensor:
        """Logits of the next level; nothing of the earlier levels is computed again.

        Args:
            x: [M, dim]; for the first level the hidden state, later the embedding of the code just chosen.
            cache: from `start`, advanced in place.

        Returns:
            [M, K_level + 1].
        """
        level = cache.level
        if level > 0:
            x = cache.running_sum = x if cache.running_sum is None else cache.running_sum + x
        x = x.unsqueeze(1)
        for index, layer in enumerate(self.transformer_layers):
            x, cache.layers[index] = layer(x, level, cache.layers[index])
        cache.level += 1
        return self.heads[level](self.headnorm(x[:, 0]))

    def greedy(self, hidden: Tensor, tables: Sequence[nn.Module]) -> Tensor:
        """Most likely codes, level by level; only level 0 may choose its last class, the end of the segment.

        Args:
            hidden: [M, dim].
            tables: the K code embeddings, each [M] -> [M, dim].

        Returns:
            codes [M, K] int64.
        """
        cache, codes, x = self.start(), [], hidden
        for level, size in enumerate(self.codebook_sizes):
            logits = self.step(x, cache)
            codes.append((logits if level == 0 else logits[:, :size]).argmax(dim=-1))
            if level + 1 < self.num_codebooks:
                x = tables[level](codes[-1])
        return torch.stack(codes, dim=1)
