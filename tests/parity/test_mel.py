"""Mel features, resampler and length tables against the published front end, on stored tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.audio.mel import DecoderMel, WhisperLogMel
from bcaudio.audio.resample_sinc import resample_sinc
from bcaudio.models.audio_tokenizer import AudioDecoder, split_chunks
from bcaudio.nn.whisper_encoder import WhisperEncoder


@pytest.fixture(scope="module")
def tensors(fixtures: Path) -> dict[str, Tensor]:
    return load_file(fixtures / "mel_features.safetensors")


@pytest.fixture(scope="module")
def description(fixtures: Path) -> dict[str, Any]:
    return json.loads((fixtures / "mel_features.json").read_text())


@pytest.fixture(scope="module")
def features(description: dict[str, Any]) -> WhisperLogMel:
    c = description["config"]
    return WhisperLogMel(c["num_mel_bins"], c["sampling_rate"], c["n_fft"], c["hop_length"], c["max_audio_seconds"])


@pytest.fixture(scope="module")
def encoder(description: dict[str, Any]) -> WhisperEncoder:
    """The smallest encoder with the described convolutions: only its lengths are asked for."""
    c = description["config"]
    return WhisperEncoder(1, 4, 0, 1, 4, c["kernel_size"], c["stride_size"], 8)


def front_end_cases(tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Waveform [1, N], log-mel [n_mels, F] and [frames, encoder length, tokens] of every case, the resampled file first."""
    cases = [(tensors["out.waveform_16k"], tensors["out.log_mel"], tensors["out.frames"])]
    names = [key.split(".")[1] for key in tensors if key.startswith("in.") and key.endswith(".waveform")]
    assert names
    return cases + [
        (tensors[f"in.{name}.waveform"], tensors[f"out.{name}.log_mel"], tensors[f"out.{name}.frames"]) for name in names
    ]


def test_log_mel_and_its_lengths_agree(
    features: WhisperLogMel, encoder: WhisperEncoder, tensors: dict[str, Tensor], description: dict[str, Any]
) -> None:
    for waveform, expected, frames in front_end_cases(tensors):
        mel, lengths = features(waveform, torch.tensor([waveform.shape[1]]))
        hidden_lengths = encoder.output_lengths(lengths)
        tokens = hidden_lengths // description["config"]["avg_pooler"]
        assert torch.equal(torch.cat([lengths, hidden_lengths, tokens]), frames)
        torch.testing.assert_close(mel[0], expected, atol=1e-4, rtol=0)


def test_log_mel_of_a_padded_batch_agrees(features: WhisperLogMel, tensors: dict[str, Tensor]) -> None:
    cases = front_end_cases(tensors)
    waveforms = torch.nn.utils.rnn.pad_sequence([waveform[0] for waveform, _, _ in cases], batch_first=True)
    mel, lengths = features(waveforms, torch.tensor([waveform.shape[1] for waveform, _, _ in cases]))
    assert lengths.tolist() == [int(frames[0]) for _, _, frames in cases]
    for clip, length, (_, expected, _) in zip(mel, lengths, cases, strict=True):
        torch.testing.assert_close(clip[:, :length], expected, atol=1e-4, rtol=0)
        assert clip[:, length:].count_nonzero() == 0


def test_mel_filters_agree(features: WhisperLogMel, tensors: dict[str, Tensor]) -> None:
    if "out.mel_filters" not in tensors:
        pytest.skip("this set of fixtures holds no filters")
    torch.testing.assert_close(features.filters, tensors["out.mel_filters"], atol=1e-6, rtol=0)


def test_resampled_and_mixed_waveform_agrees(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    channels = tensors["in.wav_int16"].T.float() / 32768
    rate = int(tensors["in.wav_sampling_rate"])
    resampled = resample_sinc(channels, rate, description["config"]["sampling_rate"]).mean(dim=0, keepdim=True)
    torch.testing.assert_close(resampled, tensors["out.waveform_16k"], atol=1e-4, rtol=0)


def test_flow_target_mel_agrees(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    p = description["meta"]["flow_target_params"]
    assert p["win_size"] == p["n_fft"]
    mel = DecoderMel(p["sampling_rate"], p["n_fft"], p["hop_size"], p["num_mels"], p["fmin"], p["fmax"])
    waveform, expected = tensors["in.synthetic.waveform"], tensors["out.flow_target.log_mel"]
    computed, lengths = mel(waveform, torch.tensor([waveform.shape[1]]))
    assert lengths.item() == expected.shape[2]
    torch.testing.assert_close(computed, expected, atol=1e-4, rtol=0)


def test_encoder_length_table_agrees(encoder: WhisperEncoder, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    frames, expected, expected_tokens = tensors["out.length_table"].unbind(1)
    assert torch.equal(encoder.output_lengths(frames), expected)
    assert torch.equal(encoder.output_lengths(frames) // description["config"]["avg_pooler"], expected_tokens)


def test_decoder_length_table_agrees(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    c = description["config"]
    # a description without convolutions of the decoder means the encoder's, mirrored, as in the released configuration
    kernel_size, stride = c.get("decoder_kernel_size", c["kernel_size"]), c.get("decoder_stride_size", c["stride_size"])
    frame_rate = c["sampling_rate"] / c["hop_length"]
    decoder = AudioDecoder(4, 0, 1, 4, c["avg_pooler"], kernel_size, stride, 2, [2], frame_rate=frame_rate)
    tokens, first, second, mel = tensors["out.decoder_length_table"].unbind(1)
    assert torch.equal(decoder.dconv1.output_lengths(tokens), first)
    assert torch.equal(decoder.dconv2.output_lengths(first), second)
    assert torch.equal(decoder.mel_lengths(second), mel)


def test_split_table_agrees(description: dict[str, Any]) -> None:
    rate, n_fft = description["config"]["sampling_rate"], description["config"]["n_fft"]
    splits = description["meta"]["splits"]
    assert splits
    for split in splits:
        max_samples, overlap = int(split["max_audio_seconds"] * rate), int(split["split_overlap"] * rate)
        assert split_chunks(split["samples"], max_samples, overlap, n_fft) == [tuple(chunk) for chunk in split["chunks"]]
