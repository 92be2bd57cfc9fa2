"""The audio tokenizer against the published implementation, on stored tensors.

A case of several clips holds the published code's dependence on padding and so agrees with `upstream_batching` alone; a case of
one clip must agree with and without that switch.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.audio.mel import WhisperLogMel
from bcaudio.models.audio_tokenizer import AudioDecoder, AudioTokenizer, VQBridge
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.nn.whisper_encoder import WhisperEncoder

OURS = {"audio_model": "encoder", "audio_bridge_model": "bridge", "audio_decoder": "decoder"}
ENCODE = pytest.mark.cases("tokenizer_encode", "in.*.mel_length")
DECODE = pytest.mark.cases("tokenizer_decode", "in.*.bridge_length")


def build(folder: Path, name: str) -> AudioTokenizer:
    """A tokenizer of the sizes in NAME.json with the weights of NAME.safetensors; what the file lacks stays as drawn."""
    config = json.loads((folder / f"{name}.json").read_text())["config"]
    a, v = config["audio_config"], config["vocoder_config"]
    seconds, rate = a["max_audio_seconds"], a["sampling_rate"]
    frame_rate = rate / a["hop_length"]
    quantizer = ResidualVQ(a["vq_config"]["codebook_sizes"], a["d_model"] * a["avg_pooler"])
    tokenizer = AudioTokenizer(
        WhisperLogMel(a["num_mel_bins"], rate, a["n_fft"], a["hop_length"], seconds),
        WhisperEncoder(
            num_mels=a["num_mel_bins"],
            dim=a["d_model"],
            num_layers=a["encoder_layers"],
            num_heads=a["encoder_attention_heads"],
            ffn_dim=a["encoder_ffn_dim"],
            kernel_size=a["kernel_size"],
            stride=a["stride_size"],
            max_positions=int(seconds * frame_rate) // a["stride_size"],
        ),
        VQBridge(quantizer, a["d_model"], a["avg_pooler"]),
        AudioDecoder(
            dim=a["d_model"],
            num_layers=a["decoder_layers"],
            num_heads=a["decoder_attention_heads"],
            ffn_dim=a["decoder_ffn_dim"],
            pooling=a["avg_pooler"],
            kernel_size=a["decoder_kernel_size"],
            stride=a["decoder_stride_size"],
            num_mels=v["num_mel_bins"],
            refiner_channels=v["channels"][:-1],
            frame_rate=frame_rate,
            mel_frame_rate=v["sampling_rate"] / v["hop_length"],
            max_positions=int(seconds * frame_rate),
        ),
    )
    weights = {}
    for key, value in load_file(folder / f"{name}.safetensors").items():
        if key.startswith("weights.audio_tokenizer."):
            part, rest = key.removeprefix("weights.audio_tokenizer.").split(".", 1)
            weights[f"{OURS[part]}.{rest}"] = value
    missing, unexpected = tokenizer.load_state_dict(weights, strict=False)
    assert not unexpected
    prefixes = ("decoder.",) if name == "tokenizer_encode" else ("encoder.", "bridge.")
    assert [key for key in missing if not key.startswith(prefixes)] == []
    return tokenizer.eval()


def unpack(rows: Tensor, lengths: Tensor) -> Tensor:
    """[sum(lengths), C] -> [B, max(lengths), C]."""
    return torch.nn.utils.rnn.pad_sequence(list(rows.split(lengths.tolist())), batch_first=True)


def pack(padded: Tensor, lengths: Tensor) -> Tensor:
    """[B, T, C] -> [sum(lengths), C]."""
    return torch.cat([clip[:length] for clip, length in zip(padded, lengths, strict=True)])


def margins(quantizer: ResidualVQ, h: Tensor, codes: Tensor) -> Tensor:
    """h [N, D], codes [N, K] -> by how much the second nearest entry of each level is farther than the chosen one [N, K]."""
    leads = []
    for codebook, chosen in zip(quantizer.codebooks, codes.unbind(1), strict=True):
        distances = torch.cdist(h, codebook.embed)
        own = distances.gather(1, chosen[:, None])
        leads.append(distances.scatter(1, chosen[:, None], torch.inf).amin(dim=1) - own[:, 0])
        h = h - codebook.embed[chosen]
    return torch.stack(leads, dim=1)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def switches(lengths: Tensor) -> tuple[bool, ...]:
    """Values of `upstream_batching` with which a case of clips of these lengths [B] must agree."""
    return (True, False) if len(lengths) == 1 else (True,)


@ENCODE
@torch.no_grad()
def test_encoding_agrees(fixtures: Path, name: str) -> None:
    tokenizer = build(fixtures, "tokenizer_encode")
    tensors = load_file(fixtures / "tokenizer_encode.safetensors")
    mel, mel_lengths = tensors[f"in.{name}.input_features"], tensors[f"in.{name}.mel_length"]
    for upstream_batching in switches(mel_lengths):
        hidden, lengths = tokenizer.encoder(mel, mel_lengths, upstream_batching)
        assert torch.equal(lengths, tensors[f"in.{name}.encoder_length"])
        close(hidden, tensors[f"out.{name}.encoder_hidden"])

        h, num_codes = tokenizer.bridge.features(hidden, lengths)
        assert torch.equal(num_codes, tensors[f"in.{name}.bridge_length"])
        close(pack(h, num_codes), pack(tensors[f"out.{name}.bridge_features"], num_codes))

        codes = tokenizer.quantizer.encode(h)
        assert torch.equal(pack(codes, num_codes), tensors[f"out.{name}.codes"])
        close(margins(tokenizer.quantizer, pack(h, num_codes), pack(codes, num_codes)), tensors[f"out.{name}.code_margin"])
        recovered = tokenizer.quantizer.decode(codes)
        close(pack(recovered, num_codes), tensors[f"out.{name}.recovered"])
        close(pack(tokenizer.bridge.project(recovered, num_codes), num_codes), tensors[f"out.{name}.decoder_embedding"])


@ENCODE
@torch.no_grad()
def test_default_batch_gives_the_features_of_each_clip_alone(fixtures: Path, name: str) -> None:
    tokenizer = build(fixtures, "tokenizer_encode")
    tensors = load_file(fixtures / "tokenizer_encode.safetensors")
    mel, mel_lengths = tensors[f"in.{name}.input_features"], tensors[f"in.{name}.mel_length"]
    h, num_codes = tokenizer.bridge.features(*tokenizer.encoder(mel, mel_lengths))
    for clip, length in enumerate(mel_lengths.tolist()):
        alone, _ = tokenizer.bridge.features(*tokenizer.encoder(mel[clip : clip + 1, :, :length], mel_lengths[clip : clip + 1]))
        close(h[clip, : num_codes[clip]], alone[0, : num_codes[clip]])


@DECODE
@torch.no_grad()
def test_decoding_agrees(fixtures: Path, name: str) -> None:
    tokenizer = build(fixtures, "tokenizer_decode")
    tensors = load_file(fixtures / "tokenizer_decode.safetensors")
    num_codes = tensors[f"in.{name}.bridge_length"]
    codes = unpack(tensors[f"in.{name}.codes"], num_codes)
    for upstream_batching in switches(num_codes):
        tokenizer.upstream_batching = upstream_batching
        embedded = tokenizer.bridge.project(tokenizer.quantizer.decode(codes), num_codes)
        close(pack(embedded, num_codes), tensors[f"out.{name}.decoder_embedding"])
        first, first_lengths = tokenizer.decoder.dconv1(embedded, num_codes, per_clip=not upstream_batching)
        assert torch.equal(first_lengths, tensors[f"out.{name}.dconv1_length"])
        close(first, tensors[f"out.{name}.dconv1"])

        decoded = tokenizer.decode(codes, num_codes)
        assert torch.equal(decoded.hidden_lengths, tensors[f"out.{name}.output_length_before_dconv2"])
        close(pack(decoded.hidden, decoded.hidden_lengths), tensors[f"out.{name}.hidden_states_before_dconv2"])
        hidden, _ = tokenizer.decode_hidden(codes, num_codes)
        close(hidden, decoded.hidden)

        second, second_lengths = tokenizer.decoder.dconv2(decoded.hidden, decoded.hidden_lengths, per_clip=not upstream_batching)
        assert torch.equal(second_lengths, tensors[f"out.{name}.dconv2_length"])
        close(second, tensors[f"out.{name}.dconv2"])
        assert torch.equal(decoded.mel_lengths, tensors[f"out.{name}.mel_length"])
        close(decoded.coarse_mel, tensors[f"out.{name}.coarse_mel"])
        close(decoded.refined_mel, tensors[f"out.{name}.refined_mel"])


@DECODE
@torch.no_grad()
def test_default_batch_decodes_each_clip_as_alone(fixtures: Path, name: str) -> None:
    tokenizer = build(fixtures, "tokenizer_decode")
    tensors = load_file(fixtures / "tokenizer_decode.safetensors")
    num_codes = tensors[f"in.{name}.bridge_length"]
    codes = unpack(tensors[f"in.{name}.codes"], num_codes)
    together = tokenizer.decode(codes, num_codes)
    for clip, length in enumerate(num_codes.tolist()):
        alone = tokenizer.decode(codes[clip : clip + 1, :length], num_codes[clip : clip + 1])
        close(together.hidden[clip, : alone.hidden.shape[1]], alone.hidden[0])
        close(together.coarse_mel[clip, : alone.coarse_mel.shape[1]], alone.coarse_mel[0])
        close(together.refined_mel[clip, : alone.refined_mel.shape[1]], alone.refined_mel[0])
