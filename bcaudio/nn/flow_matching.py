"""Optimal-transport conditional flow matching: times, training loss and Euler sampling (arXiv 2502.17239, section 3.2; Matcha-
TTS form).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""velocity(x [B, C, T], mu [B, C, T], mask [B, 1, T], time [B] or scalar) -> [B, C, T]."""


def cosine_warp(uniform: Tensor) -> Tensor:
    """Times 1 - cos(pi u / 2): small steps near the noise, larger ones near the data."""
    return 1.0 - torch.cos(uniform * 0.5 * math.pi)


def cosine_times(steps: int, device: torch.device | None = None) -> Tensor:
    """The steps + 1 warped times from 0 to 1 of an Euler walk, float32.

    Raises:
        ValueError: if steps is under 1.
    """
    if steps < 1:
        raise ValueError(f"cosine_times: steps is {steps}, but an Euler walk needs at least 1; raise diffusion_steps")
    return cosine_warp(torch.linspace(0.0, 1.0, steps + 1, device=device))


def interpolate(target: Tensor, noise: Tensor, time: Tensor, sigma_min: float) -> tuple[Tensor, Tensor]:
    """State on the straight path from noise to target, and the path's constant velocity.

    Args:
        target, noise: [B, C, T].
        time: [B] in [0, 1].
        sigma_min: spread left at time 1.

    Returns:
        state and velocity, both [B, C, T].
    """
    time = time[:, None, None]
    state = (1.0 - (1.0 - sigma_min) * time) * noise + time * target
    return state, target - (1.0 - sigma_min) * noise


def flow_matching_loss(
    velocity: Velocity,
    target: Tensor,
    mu: Tensor,
    mask: Tensor,
    sigma_min: float = 1e-6,
    drop_rate: float = 0.2,
    noise: Tensor | None = None,
    uniform_time: Tensor | None = None,
    uniform_drop: Tensor | None = None,
) -> Tensor:
    """Masked mean square error of the velocity; the condition is dropped for a share of the clips (classifier-free guidance).

    Args:
        velocity: the network.
        target, mu: [B, C, T].
        mask: [B, 1, T].
        sigma_min: spread left at time 1.
        drop_rate: share of clips whose mu is set to zero.
        noise: [B, C, T]; uniform_time, uniform_drop: [B] draws of U(0, 1). Drawn from torch's global generator when not given.

    Returns:
        scalar float32: sum of squares over real frames / (real frames * C).
    """
    batch = target.shape[0]
    noise = torch.randn_like(target) if noise is None else noise
    uniform_time = torch.rand(batch, device=target.device) if uniform_time is None else uniform_time
    uniform_drop = torch.rand(batch, device=target.device) if uniform_drop is None else uniform_drop

    time = cosine_warp(uniform_time)
    state, wanted = interpolate(target, noise, time, sigma_min)
    keep = (uniform_drop > drop_rate).to(mu.dtype)[:, None, None]
    error = (velocity(state, mu * keep, mask, time) - wanted).float() * mask
    return error.square().sum() / (mask.sum() * target.shape[1])


def euler_sample(velocity: Velocity, noise: Tensor, mu: Tensor, mask: Tensor, steps: int = 10, guidance: float = 0.7) -> Tensor:
    """Walk from noise to data in `steps` Euler steps with classifier-free guidance.

    Each step uses (1 + guidance) v(x | mu) - guidance v(x | 0). The padding of the result keeps the initial noise.

    Args:
        velocity: the network.
        noise, mu: [B, C, T].
        mask: [B, 1, T].
        steps: Euler steps at cosine times.
        guidance: weight of the guidance; 0 saves the second evaluation.

    Returns:
        [B, C, T].
    """
    times = cosine_times(steps, noise.device)
    nothing = torch.zeros_like(mu)
    state = noise
    for now, then in itertools.pairwise(times):
        slope = velocity(state, mu, mask, now)
        if guidance:
            slope = (1.0 + guidance) * slope - guidance * velocity(state, nothing, mask, now)
        state = state + (then - now) * slope
    return state
