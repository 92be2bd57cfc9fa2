"""Flow-matching decoder against the published implementation, on stored tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.models.flow_decoder import FlowDecoder, FlowPrenet
from bcaudio.nn.flow_matching import cosine_times, cosine_warp, flow_matching_loss, interpolate
from bcaudio.nn.unet1d import VelocityUNet

PREFIX = "weights.audio_tokenizer.audio_flow_matching_decoder."
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}


def load(fixtures: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((fixtures / f"{name}.json").read_text())["config"]["flow_matching_config"]
    return config, load_file(fixtures / f"{name}.safetensors")


def weights(tensors: dict[str, Tensor], part: str = "") -> dict[str, Tensor]:
    prefix = PREFIX + part
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def prenet_of(config: dict[str, Any]) -> FlowPrenet:
    return FlowPrenet(
        in_dim=config["prenet_in_dim"],
        d_model=config["prenet_d_model"],
        num_heads=config["prenet_attention_heads"],
        ffn_dim=config["prenet_ffn_dim"],
        num_layers=config["prenet_nlayers"],
        mel_bins=config["prenet_out_dim"],
        max_source_positions=config["prenet_max_source_positions"],
    )


def estimator_of(config: dict[str, Any]) -> VelocityUNet:
    return VelocityUNet(
        mel_bins=config["in_channels"],
        channels=config["channels"],
        n_blocks=config["n_blocks"],
        num_mid_blocks=config["num_mid_blocks"],
        num_heads=config["num_heads"],
        attention_head_dim=config["attention_head_dim"],
        dropout=config["dropout"],
    )


def decoder_of(config: dict[str, Any]) -> FlowDecoder:
    return FlowDecoder(
        prenet_of(config),
        estimator_of(config),
        sigma_min=config["cfm_params"]["sigma_min"],
        training_cfg_rate=config["cfm_params"]["training_cfg_rate"],
        inference_cfg_rate=config["cfm_params"]["inference_cfg_rate"],
        diffusion_steps=config["diffusion_steps"],
    )


@pytest.mark.cases("flow_prenet", "in.*.hidden")
@torch.no_grad()
def test_prenet_agrees(fixtures: Path, name: str) -> None:
    config, tensors = load(fixtures, "flow_prenet")
    prenet = prenet_of(config).eval()
    prenet.load_state_dict(weights(tensors, "prenet."), strict=True)
    lengths = tensors[f"in.{name}.length"]
    mu = prenet(tensors[f"in.{name}.hidden"], lengths)
    assert torch.equal(lengths, tensors[f"out.{name}.length"])  # the pre-net keeps the time axis
    torch.testing.assert_close(mu, tensors[f"out.{name}.mel"], **CLOSE)


@torch.no_grad()
def test_velocity_agrees_with_scalar_and_batched_time_and_without_condition(fixtures: Path) -> None:
    config, tensors = load(fixtures, "flow_estimator")
    estimator = estimator_of(config).eval()
    estimator.load_state_dict(weights(tensors, "conditional_decoder."), strict=True)
    x, mu, mask = tensors["in.x"], tensors["in.mu"], tensors["in.mask"]
    for name, condition, time in (
        ("velocity_scalar_t", mu, tensors["in.t_scalar"]),
        ("velocity_batch_t", mu, tensors["in.t_batch"]),
        ("velocity_uncond_scalar_t", torch.zeros_like(mu), tensors["in.t_scalar"]),
    ):
        torch.testing.assert_close(estimator(x, condition, mask, time), tensors[f"out.{name}"], **CLOSE)


@torch.no_grad()
def test_training_loss_agrees_on_the_stored_draws(fixtures: Path) -> None:
    config, tensors = load(fixtures, "flow_estimator")
    estimator = estimator_of(config).eval()
    estimator.load_state_dict(weights(tensors, "conditional_decoder."), strict=True)
    uniform_time, sigma_min = tensors["in.loss.uniform_t"].view(-1), config["cfm_params"]["sigma_min"]
    state, _ = interpolate(tensors["in.loss.x1"], tensors["in.loss.noise"], cosine_warp(uniform_time), sigma_min)
    torch.testing.assert_close(state, tensors["out.loss.y"], **CLOSE)
    loss = flow_matching_loss(
        estimator,
        tensors["in.loss.x1"],
        tensors["in.mu"],
        tensors["in.mask"],
        sigma_min=sigma_min,
        drop_rate=config["cfm_params"]["training_cfg_rate"],
        noise=tensors["in.loss.noise"],
        uniform_time=uniform_time,
        uniform_drop=tensors["in.loss.uniform_drop"],
    )
    torch.testing.assert_close(loss.view(1), tensors["out.loss.value"], **CLOSE)


@pytest.mark.cases("flow_sampling", "in.*.hidden")
@torch.no_grad()
def test_whole_flow_decoder_agrees_given_the_noise(fixtures: Path, name: str) -> None:
    config, tensors = load(fixtures, "flow_sampling")
    decoder = decoder_of(config).eval()
    decoder.load_state_dict(weights(tensors), strict=True)
    hidden, lengths = tensors[f"in.{name}.hidden"], tensors[f"in.{name}.length"]
    assert torch.equal(lengths, tensors[f"out.{name}.mel_length"])
    torch.testing.assert_close(cosine_times(config["diffusion_steps"]), tensors["out.t_span"], **CLOSE)
    torch.testing.assert_close(decoder(hidden, lengths), tensors[f"out.{name}.mu"], **CLOSE)
    mel = decoder.sample(hidden, lengths, noise=tensors[f"in.{name}.noise"].transpose(1, 2))
    torch.testing.assert_close(mel, tensors[f"out.{name}.mel"], **CLOSE)
