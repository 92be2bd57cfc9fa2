"""GAN losses on numbers worked out by hand."""

from __future__ import annotations

import torch

from bcaudio.losses.adversarial import discriminator_loss, feature_matching_loss, generator_loss


def test_discriminator_and_generator_losses_by_hand() -> None:
    real = [(torch.tensor([1.0, 0.0]), []), (torch.tensor([0.5]), [])]
    fake = [(torch.tensor([0.0, 2.0]), []), (torch.tensor([0.5]), [])]
    # first: mean(0, 1) + mean(0, 4) = 2.5; second: 0.25 + 0.25
    torch.testing.assert_close(discriminator_loss(real, fake), torch.tensor(1.5))
    # first: mean(1, 1) = 1; second: 0.25
    torch.testing.assert_close(generator_loss(fake), torch.tensor(0.625))


def test_feature_matching_is_the_mean_over_layers_and_sends_no_gradient_to_the_real_side() -> None:
    real_features = [torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)]
    fake_features = [torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)]
    loss = feature_matching_loss([(torch.zeros(1), real_features)], [(torch.zeros(1), fake_features)])
    torch.testing.assert_close(loss.detach(), torch.tensor(1.25))
    loss.backward()
    assert all(feature.grad is None for feature in real_features)
    torch.testing.assert_close(fake_features[1].grad, torch.tensor([0.5]))
