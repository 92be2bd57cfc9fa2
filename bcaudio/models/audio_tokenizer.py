"""The audio tokenizer: waveform -> codes at 12.5 Hz -> decoder states and mel (arXiv 2502.17239, section 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcaudio.audio.mel import WhisperLogMel
from bcaudio.nn.attention import Packing, zero_beyond
from bcaudio.nn.mel_refiner import MelRefiner
from bcaudio.nn.resample_conv import CausalUpsample, GatedDownsample
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.nn.transformer import TransformerLayer, add_positions, sinusoidal_positions
from bcaudio.nn.whisper_encoder import WhisperEncoder


class DecoderOutput(NamedTuple):
    """What codes become; everything is zero beyond its lengths.

    Attributes:
        hidden: [B, 4 T - 1, dim] decoder states at 50 Hz, the input of the flow decoder.
        hidden_lengths: [B].
        coarse_mel, refined_mel: [B, F, num_mels] log-mel at 62.5 Hz before and after the refine network.
        mel_lengths: [B].
    """

    hidden: Tensor
    hidden_lengths: Tensor
    coarse_mel: Tensor
    refined_mel: Tensor
    mel_lengths: Tensor


class TokenizerOutput(NamedTuple):
    """What one training step needs; see `VQOutput` and `DecoderOutput` for the shared fields.

    Attributes:
        features: [B, T, D] h, the input of the quantiser.
        quantized: [B, T, D] z: the quantised features (straight-through), or h itself for clips left out by `vq_share`.
        codes: [B, T, K] int64.
        num_codes: [B] tokens per clip.
        commitment: [B, T, K] squared distance per level, for `commitment_loss`.
        usage: per level, uses of every entry.
        hidden, hidden_lengths, coarse_mel, refined_mel, mel_lengths: of the decoder.
    """

    features: Tensor
    quantized: Tensor
    codes: Tensor
    num_codes: Tensor
    commitment: Tensor
    usage: tuple[Tensor, ...]
    hidden: Tensor
    hidden_lengths: Tensor
    coarse_mel: Tensor
    refined_mel: Tensor
    mel_lengths: Tensor


class VQBridge(GatedDownsample):
    """Down-sampling, quantiser and the projection back to the decoder's width (specification, section 5).

    Args:
        quantizer: of width dim * pooling; kept as `vq_list`, the published name.
        dim: width of encoder and decoder.
        pooling: encoder frames per token.
    """

    def __init__(self, quantizer: ResidualVQ, dim: int = 1280, pooling: int = 4) -> None:
        super().__init__(dim, pooling)
        if quantizer.dim != dim * pooling:
            raise ValueError(f"VQBridge: the quantiser is {quantizer.dim} wide, but must be dim {dim} * pooling {pooling}")
        self.dim, self.vq_list = dim, quantizer
        self.proj_decoder = nn.Linear(dim * pooling, dim)

    def features(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [B, T', dim] and lengths [B] -> h [B, T, dim * pooling], zero beyond num_codes [B], and num_codes."""
        num_codes = lengths // self.pooling
        # the clips are joined into one row: nothing is computed on padding
        row = Packing.of(num_codes * self.pooling).pack(hidden)
        return Packing.of(num_codes).unpack(self.downsample(row[None])[0], hidden.shape[1] // self.pooling), num_codes

    def project(self, quantized: Tensor, num_codes: Tensor) -> Tensor:
        """z [B, T, dim * pooling] -> decoder embeddings [B, T, dim], zero beyond num_codes [B]."""
        return zero_beyond(self.proj_decoder(quantized.to(self.proj_decoder.weight.dtype)), num_codes)


class AudioDecoder(nn.Module):
    """Up-sampling, causal transformer, up-sampling to a coarse mel, refine network (specification, section 6).

    Args:
        dim: width.
        num_layers, num_heads, ffn_dim: the transformer.
        pooling: factor of the first up-sampling, the encoder frames per token.
        kernel_size: of both transposed convolutions.
        stride: factor of the second up-sampling.
        num_mels: bins of the mel.
        refiner_channels, refiner_kernel_size: the refine network; without the entry the published config never uses.
        frame_rate: Hz after both up-samplings (16000 / 160).
        mel_frame_rate: Hz of the mel (16000 / 256).
        max_positions: the longest clip, in decoder states.
        mel_mean, mel_std: where the coarse mel starts in training, the level of the log-mel it is to meet; no part of the
            architecture.
    """

    positional_embedding: Tensor

    def __init__(
        self,
        dim: int = 1280,
        num_layers: int = 8,
        num_heads: int = 20,
        ffn_dim: int = 5120,
        pooling: int = 4,
        kernel_size: int = 3,
        stride: int = 2,
        num_mels: int = 80,
        refiner_channels: Sequence[int] = (256, 256, 256, 256),
        refiner_kernel_size: int = 5,
        frame_rate: float = 100.0,
        mel_frame_rate: float = 62.5,
        max_positions: int = 3000,
        mel_mean: float = 0.0,
        mel_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.mel_ratio = mel_frame_rate / frame_rate
        self.dconv1 = CausalUpsample(dim, dim, kernel_size, pooling)
        self.register_buffer("positional_embedding", sinusoidal_positions(max_positions, dim))
        self.layers = nn.ModuleList(TransformerLayer(dim, num_heads, ffn_dim) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(dim)
        self.dconv2 = CausalUpsample(dim, num_mels, kernel_size, stride)
        nn.init.constant_(self.dconv2.norm.weight, mel_std)
        nn.init.constant_(self.dconv2.norm.bias, mel_mean)
        self.post_net = MelRefiner(num_mels, refiner_channels, refiner_kernel_size)

    def hidden(self, x: Tensor, num_codes: Tensor, per_clip: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, dim], zero beyond num_codes [B] -> states [B, 4 T - 1, dim] and their lengths [B]."""
        x, lengths = self.dconv1(x, num_codes, per_clip)
        x = add_positions(x, self.positional_embedding, "AudioDecoder")
        for layer in self.layers:
            x = layer(x, causal=True)
        return zero_beyond(self.layer_norm(x), lengths), lengths

    def mel_lengths(self, lengths: Tensor) -> Tensor:
        """Frames after both up-samplings -> mel frames, truncated in float32 as published."""
        return (lengths.float() * self.mel_ratio).long()

    def forward(self, x: Tensor, num_codes: Tensor, mel_lengths: Tensor | None = None, per_clip: bool = True) -> DecoderOutput:
        """Decode embeddings.

        Args:
            x: [B, T, dim], zero beyond num_codes; T = max(num_codes).
            num_codes: [B], at least 1.
            mel_lengths: [B] frames of the labels, in training; computed unless given.
            per_clip: see `CausalUpsample` and `MelRefiner`.
        """
        hidden, hidden_lengths = self.hidden(x, num_codes, per_clip)
        mel, lengths = self.dconv2(hidden, hidden_lengths, per_clip)
        targets = self.mel_lengths(lengths) if mel_lengths is None else mel_lengths
        coarse, refined = self.post_net(mel, lengths, targets, per_clip)
        return DecoderOutput(hidden, hidden_lengths, coarse, refined, targets)


class AudioTokenizer(nn.Module):
    """Front end, encoder, VQ bridge and decoder in one.

    A clip's result does not depend on the clips beside it, in contrast to the published code, where a convolution reads and group
    norms and the resampling count the padding.

    Args:
        frontend: waveform -> log-mel.
        encoder, bridge, decoder: the parts; the mel bins and widths must agree.
        upstream_batching: reproduce the published code's dependence on padding.
    """

    def __init__(
        self,
        frontend: WhisperLogMel,
        encoder: WhisperEncoder,
        bridge: VQBridge,
        decoder: AudioDecoder,
        upstream_batching: bool = False,
    ) -> None:
        super().__init__()
        widths = {"encoder": encoder.dim, "bridge": bridge.dim, "decoder": decoder.dim}
        if len(set(widths.values())) > 1 or frontend.n_mels != encoder.conv1.in_channels:
            raise ValueError(
                f"AudioTokenizer: widths {widths} must agree, and the front end's {frontend.n_mels} bins with the encoder's "
                f"{encoder.conv1.in_channels}"
            )
        self.frontend, self.encoder, self.bridge, self.decoder = frontend, encoder, bridge, decoder
        self.upstream_batching = upstream_batching

    @property
    def quantizer(self) -> ResidualVQ:
        """The residual quantiser."""
        return self.bridge.vq_list

    @property
    def samples_per_code(self) -> int:
        """Samples of the front end's rate per token (1280 at 16 kHz: 12.5 Hz)."""
        return self.frontend.hop_length * self.encoder.stride * self.bridge.pooling

    @property
    def code_rate(self) -> float:
        """Tokens per second."""
        return self.frontend.sample_rate / self.samples_per_code

    def num_codes(self, lengths: Tensor) -> Tensor:
        """Samples [B] -> tokens [B]; 0 for clips below 7 mel frames."""
        return self.encoder.output_lengths(self.frontend.frames(lengths)) // self.bridge.pooling

    def features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, N] at the front end's rate, lengths [B] -> h [B, T, D], zero beyond num_codes [B], and num_codes."""
        with torch.no_grad():
            mel, mel_lengths = self.frontend(waveform, lengths)
        hidden, hidden_lengths = self.encoder(mel.to(self.encoder.conv1.weight.dtype), mel_lengths, self.upstream_batching)
        return self.bridge.features(hidden, hidden_lengths)

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, N] in [-1, 1], lengths [B] samples, at most 30 s -> codes [B, T, K] padded with 0, and num_codes [B].

        Raises:
            ValueError: a clip is longer than the front end's window (use `encode_long`) or shorter than one spectrum.
        """
        longest = int(lengths.max())
        if longest > self.frontend.max_samples:
            raise ValueError(
                f"AudioTokenizer.encode: a clip of {longest / self.frontend.sample_rate:.1f} s, but at most "
                f"{self.frontend.max_audio_s:g} s fit; use encode_long"
            )
        features, num_codes = self.features(waveform, lengths)
        packing = Packing.of(num_codes)
        return packing.unpack(self.quantizer.encode(packing.pack(features)), features.shape[1]), num_codes

    @torch.no_grad()
    def encode_long(self, waveform: Tensor, split_overlap_s: float = 0.0, batch_size: int = 8) -> Tensor:
        """Waveform [N] of any length -> codes [T, K], chunk by chunk (specification, section 3.2).

        Args:
            waveform: [N] in [-1, 1] at the front end's rate.
            split_overlap_s: how far each chunk after the first reaches back; 0.0 as released, negative: one chunk.
            batch_size: chunks encoded at once.
        """
        frontend = self.frontend
        chunks = split_chunks(len(waveform), frontend.max_samples, int(frontend.sample_rate * split_overlap_s), frontend.n_fft)
        if self.upstream_batching:
            batch_size = 1
        parts = []
        for first in range(0, len(chunks), batch_size):
            group = [waveform[start:end] for start, end in chunks[first : first + batch_size]]
            lengths = torch.tensor([len(chunk) for chunk in group], device=waveform.device)
            codes, num_codes = self.encode(nn.utils.rnn.pad_sequence(group, batch_first=True), lengths)
            parts += [clip[:count] for clip, count in zip(codes, num_codes.tolist(), strict=True)]
        return torch.cat(parts)

    def decode(self, codes: Tensor, num_codes: Tensor, num_levels: int | None = None) -> DecoderOutput:
        """Codes [B, T, K], num_codes [B] -> decoder states and mel, from the first `num_levels` levels (None: all)."""
        return self.decoder(*self._embed(codes, num_codes, num_levels), per_clip=not self.upstream_batching)

    def decode_hidden(self, codes: Tensor, num_codes: Tensor, num_levels: int | None = None) -> tuple[Tensor, Tensor]:
        """Codes [B, T, K], num_codes [B] -> decoder states [B, 4 T - 1, dim] and lengths [B], without the mel."""
        return self.decoder.hidden(*self._embed(codes, num_codes, num_levels), per_clip=not self.upstream_batching)

    def forward(
        self, waveform: Tensor, lengths: Tensor, vq_share: float = 1.0, mel_lengths: Tensor | None = None
    ) -> TokenizerOutput:
        """Encode, quantise and decode for training; in `train()` mode the codebooks learn.

        Args:
            waveform: [B, N] in [-1, 1] at the front end's rate.
            lengths: [B] samples.
            vq_share: probability that a clip is decoded from its quantised features; the others, whole clips, are decoded from
                the features themselves (the progressive schedule of section 3.1).
            mel_lengths: [B] frames of the mel labels; computed from the tokens unless given.

        Raises:
            ValueError: a clip is too short for one token, or `vq_share` is not in 0..1.
        """
        if not 0 <= vq_share <= 1:
            raise ValueError(f"AudioTokenizer: vq_share is {vq_share}, but must lie in 0..1")
        h, num_codes = self.features(waveform, lengths)
        _check_num_codes(num_codes)
        mask = torch.arange(h.shape[1], device=h.device) < num_codes[:, None]
        vq = self.quantizer(h, mask)
        z = vq.quantized
        if vq_share < 1:
            replaced = torch.rand(len(z), device=z.device) < vq_share
            z = torch.where(replaced[:, None, None], z, h)
        decoded = self.decoder(self.bridge.project(z, num_codes), num_codes, mel_lengths, per_clip=not self.upstream_batching)
        return TokenizerOutput(h, z, vq.codes, num_codes, vq.commitment, vq.usage, *decoded)

    def _embed(self, codes: Tensor, num_codes: Tensor, num_levels: int | None) -> tuple[Tensor, Tensor]:
        """Codes -> decoder embeddings [B, max(num_codes), dim] and num_codes."""
        _check_num_codes(num_codes)
        codes = codes[:, : int(num_codes.max())]
        return self.bridge.project(self.quantizer.decode(codes, num_levels), num_codes), num_codes


def _check_num_codes(num_codes: Tensor) -> None:
    if int(num_codes.min()) < 1:
        raise ValueError("AudioTokenizer: a clip without any token (under 7 mel frames, 60 ms); drop clips that short")


def split_chunks(num_samples: int, max_samples: int, overlap: int, min_samples: int) -> list[tuple[int, int]]:
    """Where long audio is cut: [start, end) in samples, in order (specification, section 3.2).

    Args:
        num_samples: length of the audio.
        max_samples: length of a chunk.
        overlap: a chunk after the first starts this much earlier; negative: do not cut.
        min_samples: shorter chunks are dropped, unless the audio is one chunk.

    Raises:
        ValueError: the overlap is as long as a chunk.
    """
    if overlap >= max_samples:
        raise ValueError(f"split_chunks: an overlap of {overlap} samples, but chunks have {max_samples}; lower split_overlap_s")
    if num_samples <= max_samples or overlap < 0:
        return [(0, num_samples)]
    chunks, start = [], 0
    while start < num_samples:
        if start > overlap:
            start -= overlap
        end = min(start + max_samples, num_samples)
        if end - start >= min_samples:
            chunks.append((start, end))
        start = end
    return chunks
