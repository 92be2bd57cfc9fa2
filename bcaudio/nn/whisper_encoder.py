"""Whisper-style audio encoder (arXiv 2502.17239, section 3.1; specification, section 4)."""

import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.nn.attention import ragged_lengths, zero_beyond
from bcaudio.nn.transformer import TransformerLayer, add_positions, sinusoidal_positions


class WhisperEncoder(nn.Module):
    """Two convolutions, sinusoidal positions, bidirectional transformer layers, final norm.

    Args:
        num_mels: bins of the input.
        dim: width.
        num_layers, num_heads, ffn_dim: the transformer.
        kernel_size: of both convolutions, odd.
        stride: of the second convolution.
        max_positions: the longest clip, in output frames (1500 = 30 s).
    """

    positional_embedding: Tensor

    def __init__(
        self,
        num_mels: int = 128,
        dim: int = 1280,
        num_layers: int = 32,
        num_heads: int = 20,
        ffn_dim: int = 5120,
        kernel_size: int = 3,
        stride: int = 2,
        max_positions: int = 1500,
    ) -> None:
        super().__init__()
        self.dim, self.kernel_size, self.stride = dim, kernel_size, stride
        self.conv1 = nn.Conv1d(num_mels, dim, kernel_size, padding=kernel_size // 2)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size, stride=stride, padding=kernel_size // 2)
        self.register_buffer("positional_embedding", sinusoidal_positions(max_positions, dim))
        self.layers = nn.ModuleList(TransformerLayer(dim, num_heads, ffn_dim) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Mel frames -> output frames: (lengths - 1) // stride + 1."""
        return (lengths - 1) // self.stride + 1

    def forward(self, mel: Tensor, lengths: Tensor, upstream_batching: bool = False) -> tuple[Tensor, Tensor]:
        """Encode a padded batch.

        Args:
            mel: [B, num_mels, F], 0.0 beyond each length.
            lengths: [B] frames.
            upstream_batching: leave what the first convolution writes beyond a clip's end, as the published code does; a clip of
                odd length then depends on whether it was padded.

        Returns:
            hidden [B, T, dim], zero beyond the lengths, and lengths [B].
        """
        x = F.gelu(self.conv1(mel))
        if not upstream_batching:
            x = zero_beyond(x, lengths, dim=2)
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = add_positions(x, self.positional_embedding, "WhisperEncoder")
        lengths = self.output_lengths(lengths)
        ragged = ragged_lengths(lengths, x.shape[1])
        for layer in self.layers:
            x = layer(x, ragged)
        x = self.layer_norm(x)
        return (x if ragged is None else zero_beyond(x, lengths)), lengths
