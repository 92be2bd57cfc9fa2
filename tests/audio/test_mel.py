"""Mel features against transformers' Whisper front end and against torch.stft written out for one clip."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from bcaudio.audio.mel import AuxiliaryMel, DecoderMel, WhisperLogMel, slaney_mel_filters


def speech_like(num_samples: int, seed: int = 0) -> Tensor:
    """Noise with a slow envelope, [num_samples]."""
    generator = torch.Generator().manual_seed(seed)
    envelope = torch.linspace(0, 9, num_samples).sin().abs()
    return torch.randn(num_samples, generator=generator) * envelope * 0.1


def loud_end(num_samples: int) -> Tensor:
    """Near silence, then 60 loud samples: the maximum lies in a window whose frame is already cut off."""
    waveform = speech_like(num_samples) * 1e-3
    waveform[-60:] = 0.9
    return waveform


@pytest.mark.parametrize(
    ("waveform", "why"),
    [
        (speech_like(20800), "a common clip"),
        (loud_end(16159), "the loudest window lies beyond the last frame"),
        (speech_like(479900), "the last windows are reflected at 30 s"),
        (speech_like(490000), "cut to 30 s"),
        (torch.zeros(4000), "silence"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whisper_log_mel_equals_transformers(waveform: Tensor, why: str) -> None:
    reference = WhisperFeatureExtractor(feature_size=80)(waveform.numpy(), sampling_rate=16000, return_tensors="np")
    mel, lengths = WhisperLogMel(n_mels=80)(waveform[None], torch.tensor([len(waveform)]))
    frames = min(3000, len(waveform) // 160 + 1)
    assert lengths.tolist() == [frames]
    assert mel.shape == (1, 80, frames)
    np.testing.assert_allclose(mel[0].numpy(), reference["input_features"][0, :, :frames], atol=1e-4)


@pytest.mark.parametrize("features", [WhisperLogMel(), DecoderMel(), AuxiliaryMel()], ids=lambda f: type(f).__name__)
def test_padding_a_clip_in_a_batch_changes_nothing(features: torch.nn.Module) -> None:
    clips = [speech_like(9123, 1), speech_like(24000, 2), loud_end(3999)]
    batch = torch.full((3, 24000), 7.0)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    mel, lengths = features(batch, torch.tensor([len(clip) for clip in clips]))
    for row, length, clip in zip(mel, lengths, clips, strict=True):
        alone, alone_length = features(clip[None], torch.tensor([len(clip)]))
        assert length == alone_length
        torch.testing.assert_close(row[:, :length], alone[0], atol=1e-5, rtol=0)
        assert row[:, length:].count_nonzero() == 0


@pytest.mark.parametrize(("features", "pad"), [(DecoderMel(), 720), (AuxiliaryMel(), 512)], ids=["decoder", "auxiliary"])
def test_natural_log_mel_is_a_reflected_stft_through_slaney_filters(features: DecoderMel | AuxiliaryMel, pad: int) -> None:
    waveform = speech_like(12345)
    padded = torch.from_numpy(np.pad(waveform.double().numpy(), pad, mode="reflect"))
    window = torch.hann_window(features.n_fft, dtype=torch.float64)
    spectrum = torch.stft(padded, features.n_fft, features.hop_length, window=window, center=False, return_complex=True)
    filters = mel_filter_bank(features.n_fft // 2 + 1, 80, 0.0, 8000.0, features.sample_rate, norm="slaney", mel_scale="slaney")
    magnitude = (spectrum.abs().square() + features.magnitude_eps).sqrt()
    expected = (torch.from_numpy(filters).T @ magnitude).clamp(min=features.eps).log()
    mel, lengths = features(waveform[None], torch.tensor([12345]))
    assert lengths.tolist() == [expected.shape[1]] == [{720: 12345 // 480, 512: 12345 // 256 + 1}[pad]]
    torch.testing.assert_close(mel[0].double(), expected, atol=1e-3, rtol=0)


def test_auxiliary_mel_of_silence_is_its_floor() -> None:
    mel, _ = AuxiliaryMel()(torch.zeros(1, 4000), torch.tensor([4000]))
    torch.testing.assert_close(mel, torch.full_like(mel, float(np.log(1e-6))))


def test_filters_equal_those_of_transformers() -> None:
    expected = mel_filter_bank(201, 128, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(slaney_mel_filters(16000, 400, 128).numpy(), expected, atol=1e-6)


def test_mel_refuses_what_it_cannot_frame() -> None:
    with pytest.raises(ValueError, match="lengths run from 399"):
        WhisperLogMel()(torch.zeros(1, 500), torch.tensor([399]))
    with pytest.raises(ValueError, match="to 600 samples"):
        WhisperLogMel()(torch.zeros(1, 500), torch.tensor([600]))
    with pytest.raises(ValueError, match=r"waveform\[None\]"):
        WhisperLogMel()(torch.zeros(500), torch.tensor([500]))
    with pytest.raises(ValueError, match="lower fmax"):
        slaney_mel_filters(16000, 400, 80, 0.0, 9000.0)
