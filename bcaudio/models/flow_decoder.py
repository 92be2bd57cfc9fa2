"""Flow-matching decoder: hidden states of the audio tokenizer's decoder -> 80-bin mel of 24 kHz sound (arXiv 2502.17239, section
3.2).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bcaudio.nn.flow_matching import euler_sample, flow_matching_loss
from bcaudio.nn.transformer import TransformerLayer, sinusoidal_positions
from bcaudio.nn.unet1d import VelocityUNet


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """lengths [B] -> [B, num_frames] bool, True at real frames."""
    return torch.arange(num_frames, device=lengths.device)[None, :] < lengths[:, None]


class FlowPrenet(nn.Module):
    """Hidden states -> prior mel: an MLP, causal Transformer layers with RMSNorm, a linear map; no positions are added.

    Args:
        in_dim: width of the hidden states (released: 1280).
        d_model, num_heads, ffn_dim, num_layers: of the Transformer (released: 512, 8, 2048, 12).
        mel_bins: bins of the mel.
        max_source_positions: rows of `positional_embedding`, which the released file holds and the released model never uses.
    """

    def __init__(
        self,
        in_dim: int = 1280,
        d_model: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        num_layers: int = 12,
        mel_bins: int = 80,
        max_source_positions: int = 5000,
    ) -> None:
        super().__init__()
        norm = partial(nn.RMSNorm, eps=1e-6)
        self.in_mlp = nn.Sequential(nn.Linear(in_dim, 4 * d_model), nn.SiLU(), nn.Linear(4 * d_model, d_model))
        self.transformer_layers = nn.ModuleList(TransformerLayer(d_model, num_heads, ffn_dim, norm) for _ in range(num_layers))
        self.final_norm = norm(d_model)
        self.out_proj = nn.Linear(d_model, mel_bins, bias=False)
        self.register_buffer("positional_embedding", sinusoidal_positions(max_source_positions, d_model))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """hidden [B, T, in_dim], lengths [B] -> mu [B, T, mel_bins], zero beyond each length."""
        x = self.in_mlp(hidden)
        for layer in self.transformer_layers:
            x = layer(x, lengths, causal=True)
        mu = self.out_proj(self.final_norm(x))
        return mu.masked_fill(~frame_mask(lengths, mu.shape[1]).unsqueeze(-1), 0.0)


class FlowDecoder(nn.Module):
    """Prenet (prior mel mu) and velocity network (from noise to mel, given mu), with the published names `prenet` and
    `conditional_decoder`.

    The flow runs on (mel - mel_mean) / mel_std. The default 0 and 1 is the released behaviour; a model trained from scratch
    learns much faster when its target has the noise's mean and spread (natural-log speech mels: about -5 and 2.5). mu lives on
    that scale too.

    Args:
        prenet: hidden states -> mu.
        estimator: the velocity network.
        sigma_min: spread left at time 1.
        training_cfg_rate: share of clips trained without condition.
        inference_cfg_rate: guidance weight in sampling.
        diffusion_steps: Euler steps.
        mel_mean, mel_std: of the target mel.

    Raises:
        ValueError: if mel_std is not positive.
    """

    def __init__(
        self,
        prenet: FlowPrenet,
        estimator: VelocityUNet,
        sigma_min: float = 1e-6,
        training_cfg_rate: float = 0.2,
        inference_cfg_rate: float = 0.7,
        diffusion_steps: int = 10,
        mel_mean: float = 0.0,
        mel_std: float = 1.0,
    ) -> None:
        super().__init__()
        if mel_std <= 0:
            raise ValueError(f"FlowDecoder: mel_std is {mel_std}, but a spread is positive; use 1.0 to leave the mel as it is")
        self.prenet = prenet
        self.conditional_decoder = estimator
        self.sigma_min = sigma_min
        self.training_cfg_rate = training_cfg_rate
        self.inference_cfg_rate = inference_cfg_rate
        self.diffusion_steps = diffusion_steps
        self.mel_mean, self.mel_std = mel_mean, mel_std

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """hidden [B, T, d], lengths [B] in frames -> mu [B, T, mel_bins], zero beyond each length."""
        return self.prenet(hidden, lengths)

    def loss(self, hidden: Tensor, lengths: Tensor, mel: Tensor) -> dict[str, Tensor]:
        """Loss terms; noise, times and dropped conditions come from torch's global generator.

        Args:
            hidden: [B, T, d].
            lengths: [B] frames.
            mel: target [B, T, mel_bins], natural log.

        Returns:
            `flow`: masked mean square error of the velocity; `prior`: masked L1 of mu. Both scalars, on the scale of the flow.
        """
        mu = self(hidden, lengths)
        mask = frame_mask(lengths, mel.shape[1]).to(mu.dtype)
        target = (mel - self.mel_mean) / self.mel_std
        prior = ((mu - target).abs() * mask.unsqueeze(-1)).sum() / (mask.sum() * mel.shape[-1])
        flow = flow_matching_loss(
            self.conditional_decoder,
            target.transpose(1, 2),
            mu.transpose(1, 2),
            mask.unsqueeze(1),
            sigma_min=self.sigma_min,
            drop_rate=self.training_cfg_rate,
        )
        return {"flow": flow, "prior": prior}

    @torch.no_grad()
    def sample(
        self,
        hidden: Tensor,
        lengths: Tensor,
        noise: Tensor | None = None,
        temperature: float = 1.0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Speak: Euler walk from noise to mel.

        Args:
            hidden: [B, T, d].
            lengths: [B] frames.
            noise: [B, T, mel_bins] standard normal; drawn from torch's global generator when not given.
            temperature: scale of the noise.
            steps: Euler steps in place of `diffusion_steps`.
            guidance: classifier-free guidance in place of `inference_cfg_rate`.

        Returns:
            mel [B, T, mel_bins], natural log; frames beyond a length are leftover noise, cut them off.
        """
        mu = self(hidden, lengths)
        noise = torch.randn_like(mu) if noise is None else noise
        mel = euler_sample(
            self.conditional_decoder,
            temperature * noise.transpose(1, 2),
            mu.transpose(1, 2),
            frame_mask(lengths, mu.shape[1]).unsqueeze(1).to(mu.dtype),
            steps=self.diffusion_steps if steps is None else steps,
            guidance=self.inference_cfg_rate if guidance is None else guidance,
        )
        return mel.transpose(1, 2) * self.mel_std + self.mel_mean
