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


def front_end_case(tensors: dict[str, Tensor], case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Waveform [1, N], log-mel [n_mels, F] and [frames, encoder length, tokens] of a case."""
    if case == "wav":
        return tensors["out.waveform_16k"], tensors["out.log_mel"], tensors["out.frames"]
    return tensors[f"in.{case}.waveform"], tensors[f"out.{case}.log_mel"], tensors[f"out.{case}.frames"]


@pytest.mark.parametrize("case", ["wav", "synthetic", "minimal"])
def test_log_mel_agrees(features: WhisperLogMel, tensors: dict[str, Tensor], case: str) -> None:
    waveform, expected, frames = front_end_case(tensors, case)
    mel, lengths = features(waveform, torch.tensor([waveform.shape[1]]))
    assert lengths.item() == frames[0]
    torch.testing.assert_close(mel[0], expected, atol=1e-4, rtol=0)


def test_log_mel_of_a_padded_batch_agrees(features: WhisperLogMel, tensors: dict[str, Tensor]) -> None:
    cases = [front_end_case(tensors, case) for case in ("wav", "synthetic", "minimal")]
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


def test_encoder_length_table_agrees(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    c = description["config"]
    encoder = WhisperEncoder(1, 4, 0, 1, 4, c["kernel_size"], c["stride_size"], 8)
    frames, expected, expected_tokens = tensors["out.length_table"].unbind(1)
    assert torch.equal(encoder.output_lengths(frames), expected)
    assert torch.equal(encoder.output_lengths(frames) // c["avg_pooler"], expected_tokens)


def test_decoder_length_table_agrees(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    c = description["config"]
    decoder = AudioDecoder(4, 0, 1, 4, c["avg_pooler"], c["kernel_size"], c["stride_size"], 2, [2])
    tokens, first, second, mel = tensors["out.decoder_length_table"].unbind(1)
    assert torch.equal(decoder.dconv1.output_lengths(tokens), first)
    assert torch.equal(decoder.dconv2.output_lengths(first), second)
    assert torch.equal(decoder.mel_lengths(second), mel)


def test_split_table_agrees(description: dict[str, Any]) -> None:
    rate, n_fft = description["config"]["sampling_rate"], description["config"]["n_fft"]
    splits = description["meta"]["splits"]
    assert len(splits) >= 5
    for split in splits:
        max_samples, overlap = split["max_audio_seconds"] * rate, int(split["split_overlap"] * rate)
        assert split_chunks(split["samples"], max_samples, overlap, n_fft) == [tuple(chunk) for chunk in split["chunks"]]
