"""HiFT against the published implementation, on stored tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bcaudio.models.vocoder import Vocoder

CASES = pytest.mark.cases("hift_vocoder", "in.*.mel")


@pytest.fixture(scope="module")
def tensors(fixtures: Path) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "hift_vocoder.safetensors")


@pytest.fixture(scope="module")
def vocoder(fixtures: Path, tensors: dict[str, torch.Tensor]) -> Vocoder:
    config = json.loads((fixtures / "hift_vocoder.json").read_text())["config"]
    model = Vocoder(
        mel_bins=config["in_channels"],
        base_channels=config["base_channels"],
        sample_rate=config["sampling_rate"],
        num_harmonics=config["nb_harmonics"],
        source_amplitude=config["nsf_alpha"],
        source_noise_std=config["nsf_sigma"],
        voiced_threshold=config["nsf_voiced_threshold"],
        upsample_rates=config["upsample_rates"],
        upsample_kernel_sizes=config["upsample_kernel_sizes"],
        istft_n_fft=config["istft_params"]["n_fft"],
        istft_hop=config["istft_params"]["hop_len"],
        resblock_kernel_sizes=config["resblock_kernel_sizes"],
        resblock_dilations=config["resblock_dilation_sizes"],
        source_resblock_kernel_sizes=config["source_resblock_kernel_sizes"],
        source_resblock_dilations=config["source_resblock_dilation_sizes"],
        lrelu_slope=config["lrelu_slope"],
        audio_limit=config["audio_limit"],
        f0_channels=config["f0_predictor"]["cond_channels"],
    )
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    model.load_state_dict(weights, strict=True)
    return model.eval()


@CASES
@torch.no_grad()
def test_f0_and_source_agree(vocoder: Vocoder, tensors: dict[str, torch.Tensor], name: str) -> None:
    f0 = vocoder.f0_predictor(tensors[f"in.{name}.mel"])
    torch.testing.assert_close(f0, tensors[f"out.{name}.f0"], atol=1e-3, rtol=0)
    source = vocoder.m_source(tensors[f"out.{name}.f0"], tensors[f"in.{name}.phase"], tensors[f"in.{name}.noise"])
    torch.testing.assert_close(source, tensors[f"out.{name}.source"], atol=1e-4, rtol=0)


@CASES
@torch.no_grad()
def test_filter_agrees_on_the_stored_source(vocoder: Vocoder, tensors: dict[str, torch.Tensor], name: str) -> None:
    waveform = vocoder.filter(tensors[f"in.{name}.mel"], tensors[f"out.{name}.source"])
    torch.testing.assert_close(waveform, tensors[f"out.{name}.waveform"], atol=1e-4, rtol=0)


@CASES
@torch.no_grad()
def test_full_path_agrees_with_own_f0(vocoder: Vocoder, tensors: dict[str, torch.Tensor], name: str) -> None:
    waveform, _ = vocoder(tensors[f"in.{name}.mel"], phase=tensors[f"in.{name}.phase"], noise=tensors[f"in.{name}.noise"])
    torch.testing.assert_close(waveform, tensors[f"out.{name}.waveform"], atol=1e-3, rtol=0)
