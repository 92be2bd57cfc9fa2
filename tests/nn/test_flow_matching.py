"""Flow matching on problems with a known answer."""

from __future__ import annotations

import math

import pytest
import torch

from bcaudio.nn.flow_matching import cosine_times, euler_sample, flow_matching_loss, interpolate


def test_times_by_hand() -> None:
    torch.testing.assert_close(cosine_times(2), torch.tensor([0.0, 1 - math.sqrt(0.5), 1.0]))
    with pytest.raises(ValueError, match="diffusion_steps"):
        cosine_times(0)


def test_path_starts_at_the_noise_and_ends_at_the_target() -> None:
    target, noise = torch.full((2, 1, 1), 5.0), torch.full((2, 1, 1), 1.0)
    state, velocity = interpolate(target, noise, torch.tensor([0.0, 1.0]), sigma_min=0.1)
    torch.testing.assert_close(state.flatten(), torch.tensor([1.0, 5.1]))  # sigma_min of the noise is left at the end
    torch.testing.assert_close(velocity.flatten(), torch.tensor([4.1, 4.1]))


def test_euler_with_the_true_velocity_of_one_point_lands_on_it() -> None:
    target = torch.tensor([[[1.0, -2.0, 3.0]]])
    sampled = euler_sample(
        lambda x, mu, mask, t: (target - x) / (1.0 - t), torch.randn(1, 1, 3), target, torch.ones(1, 1, 3), steps=3, guidance=0.0
    )
    torch.testing.assert_close(sampled, target, atol=1e-5, rtol=0)


def test_guidance_extrapolates_from_the_unconditional_velocity() -> None:
    sampled = euler_sample(
        lambda x, mu, mask, t: mu + 1.0,
        torch.zeros(1, 1, 1),
        torch.full((1, 1, 1), 2.0),
        torch.ones(1, 1, 1),
        steps=4,
        guidance=0.7,
    )
    torch.testing.assert_close(sampled.flatten(), torch.tensor([1.7 * 3.0 - 0.7 * 1.0]))


def test_loss_counts_real_frames_only_and_drops_the_condition_at_its_rate() -> None:
    target, mu = torch.ones(2, 1, 4), torch.full((2, 1, 4), 3.0)
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]])
    # noise 0, sigma_min 0: the wanted velocity is 1; the network answers mu: error 2 where mu is kept, 1 where it is dropped
    loss = flow_matching_loss(
        lambda x, mu, mask, t: mu, target, mu, mask, 0.0, 0.2, torch.zeros(2, 1, 4), torch.rand(2), torch.tensor([0.5, 0.1])
    )
    torch.testing.assert_close(loss, torch.tensor((2 * 4.0 + 4 * 1.0) / 6))
