"""The vocoder: geometry, names and that it learns one clip."""

from __future__ import annotations

import math

import pytest
import torch

from bcaudio.audio.mel import DecoderMel
from bcaudio.audio.pitch import PitchEstimator
from bcaudio.losses.pitch import f0_loss
from bcaudio.losses.stft import MultiResolutionSTFTLoss
from bcaudio.models.vocoder import Vocoder


def small(**kwargs: int) -> Vocoder:
    torch.manual_seed(0)
    return Vocoder(
        **({"base_channels": 32, "f0_channels": 16, "resblock_kernel_sizes": (3,), "resblock_dilations": ((1, 3),)} | kwargs)
    )


def test_released_sizes_give_the_published_number_of_tensors_and_parameters() -> None:
    model = Vocoder()
    assert len(model.state_dict()) == 328
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 20_821_295


def test_every_frame_gives_480_samples_and_clips_do_not_disturb_each_other() -> None:
    vocoder = small().eval()
    mel = torch.randn(2, 9, 80) - 5.0
    waveforms = vocoder.synthesize(mel, torch.tensor([9, 0]))
    assert [len(waveform) for waveform in waveforms] == [9 * 480, 0]
    torch.manual_seed(3)
    alone = vocoder.synthesize(mel[:1, :5], torch.tensor([5]))[0]
    torch.manual_seed(3)
    padded = vocoder.synthesize(mel[:1], torch.tensor([5]))[0]
    torch.testing.assert_close(alone, padded)


def test_fresh_vocoder_is_quiet_and_far_from_its_limits() -> None:
    waveform, _ = small()(torch.randn(2, 80, 20) * 2.5 - 5.0)
    assert 1e-4 < float(waveform.detach().square().mean().sqrt()) < 0.3
    assert float(waveform.detach().abs().max()) < 0.9


def test_given_f0_drives_the_source_while_the_predicted_one_is_returned() -> None:
    vocoder = small().eval()
    mel, phase, noise = torch.randn(1, 80, 6) - 5.0, torch.zeros(1, 9, 1), torch.zeros(1, 9, 2880)
    low, predicted = vocoder(mel, f0=torch.full((1, 6), 100.0), phase=phase, noise=noise)
    high, again = vocoder(mel, f0=torch.full((1, 6), 300.0), phase=phase, noise=noise)
    assert (low - high).abs().max() > 1e-5
    torch.testing.assert_close(predicted, again)
    torch.testing.assert_close(predicted, vocoder.f0_predictor(mel))


def test_uneven_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        small(base_channels=36)
    with pytest.raises(ValueError, match="3 upsample_rates"):
        Vocoder(upsample_kernel_sizes=(16, 11))


def test_vocoder_overfits_a_clip_of_a_tone_with_harmonics() -> None:
    vocoder, mel_of, stft = small(), DecoderMel(), MultiResolutionSTFTLoss(((512, 128), (1024, 256)))
    time = torch.arange(7200) / 24000
    clip = sum(0.2 / h * torch.sin(2 * math.pi * 180 * h * time) for h in range(1, 9))[None]
    lengths = torch.tensor([7200])
    mel, f0 = mel_of(clip, lengths)[0], PitchEstimator()(clip)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=2e-3, betas=(0.8, 0.99))
    curve = []
    for _ in range(60):
        made, predicted = vocoder(mel, f0=f0)
        mel_loss = (mel_of(made, lengths)[0] - mel).abs().mean()
        optimizer.zero_grad()
        (mel_loss + stft(made, clip) + 0.01 * f0_loss(predicted, f0)).backward()
        optimizer.step()
        curve.append((float(mel_loss.detach()), float(f0_loss(predicted, f0).detach())))
    assert curve[-1][0] < 0.5 * curve[0][0], curve[::10]
    assert curve[-1][1] < 10.0, curve[::10]
