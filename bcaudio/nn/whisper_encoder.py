"""Whisper-style audio encoder (arXiv 2502.17239, section 3.1; specification, section 4)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.nn.attention import Packing
from bcaudio.nn.transformer import TransformerLayer, sinusoidal_positions


class WhisperEncoder(nn.Module):
    """Two convolutions, sinusoidal positions, bidirectional transformer layers, final norm.

    The clips of a batch are joined into one row, so that nothing is computed on padding.

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
            hidden [B, T, dim], zero beyond the lengths, T = (F - 1) // stride + 1, and lengths [B].

        Raises:
            ValueError: the batch is longer than the table of positions.
        """
        num_positions = (mel.shape[2] - 1) // self.stride + 1
        if num_positions > len(self.positional_embedding):
            raise ValueError(
                f"WhisperEncoder: {num_positions} frames, but there are positions for {len(self.positional_embedding)}; "
                "cut the audio into shorter pieces or raise max_positions"
            )
        output_lengths = self.output_lengths(lengths)
        packing = Packing.of(output_lengths, mel.device)
        x = packing.pack(self._convolve(mel)) if upstream_batching else self._convolve_packed(mel, lengths.tolist(), packing)
        # added in float32, cast back
        positions = torch.cat([self.positional_embedding[:length] for length in packing.lengths])
        x = (x.float() + positions.float()).to(x.dtype)
        for layer in self.layers:
            x = layer(x, packing)
        return packing.unpack(self.layer_norm(x), num_positions), output_lengths

    def _convolve(self, mel: Tensor) -> Tensor:
        """mel [B, num_mels, F] -> [B, T, dim], as the published code does it: on the padded batch."""
        return F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)

    def _convolve_packed(self, mel: Tensor, lengths: list[int], packing: Packing) -> Tensor:
        """mel [B, num_mels, F], frames per clip -> [N, dim]: the clips in one row, apart by zeros that no kernel spans."""
        gap = self.kernel_size // 2
        slots = [-(-(length + gap) // self.stride) * self.stride for length in lengths]
        x = F.gelu(self.conv1(_spaced(mel, lengths, slots)))
        # the first convolution writes into the gaps, where a clip alone would have the padding of the second
        x = F.gelu(self.conv2(_spaced(x.split(slots, dim=1), lengths, slots))).transpose(0, 1)
        parts = x.split([slot // self.stride for slot in slots])
        return torch.cat([part[:length] for part, length in zip(parts, packing.lengths, strict=True)])


def _spaced(clips: Iterable[Tensor], lengths: list[int], slots: list[int]) -> Tensor:
    """Clips [C, >= length] -> one row [C, sum(slots)], each clip cut to its length and followed by zeros up to its slot."""
    return torch.cat([F.pad(clip[:, :n], (0, slot - n)) for clip, n, slot in zip(clips, lengths, slots, strict=True)], dim=1)
