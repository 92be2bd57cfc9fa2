"""What the velocity network may see."""

from __future__ import annotations

import pytest
import torch

from bcaudio.nn.unet1d import VelocityUNet, chunk_causal_bias


def small(chunk_size: int = 4) -> VelocityUNet:
    torch.manual_seed(0)
    net = VelocityUNet(
        mel_bins=6, channels=(8,), n_blocks=1, num_mid_blocks=1, num_heads=2, attention_head_dim=4, chunk_size=chunk_size
    )
    for parameter in net.parameters():  # as after training; a fresh network keeps its residual branches closed
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def test_chunk_bias_by_hand() -> None:
    seen = chunk_causal_bias(torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]]), chunk_size=2)[0, 0] == 0
    expected = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    assert seen.int().tolist() == expected


@torch.no_grad()
def test_a_change_reaches_its_own_chunk_and_later_ones_only() -> None:
    net = small()
    x, mu, mask = torch.randn(1, 6, 12), torch.randn(1, 6, 12), torch.ones(1, 1, 12)
    changed = x.clone()
    changed[..., 6] += 1.0  # in the second chunk, frames 4..7
    difference = (net(changed, mu, mask, torch.tensor(0.5)) - net(x, mu, mask, torch.tensor(0.5))).abs().amax(dim=(0, 1))
    assert (difference[:4] == 0).all()
    assert (difference[4:] > 0).all()


@torch.no_grad()
def test_padding_does_not_change_a_clip_and_stays_zero() -> None:
    net = small()
    x, mu = torch.randn(1, 6, 10), torch.randn(1, 6, 10)
    mask = (torch.arange(10) < 7).float().view(1, 1, 10)
    alone = net(x[..., :7], mu[..., :7], torch.ones(1, 1, 7), torch.tensor([0.3]))
    padded = net(x, mu * mask, mask, torch.tensor([0.3]))
    torch.testing.assert_close(padded[..., :7], alone, atol=1e-5, rtol=0)
    assert (padded[..., 7:] == 0).all()


def test_several_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="one level"):
        VelocityUNet(channels=(64, 128))


def test_a_fresh_network_passes_the_noise_of_a_frame_unmixed() -> None:
    torch.manual_seed(0)
    net = VelocityUNet(mel_bins=6, channels=(24,), n_blocks=1, num_mid_blocks=2, num_heads=2, attention_head_dim=4).double()
    x, mu, mask = torch.randn(1, 6, 8).double(), torch.randn(1, 6, 8).double(), torch.ones(1, 1, 8).double()
    jacobian = torch.autograd.functional.jacobian(lambda state: net(state, mu, mask, torch.tensor(0.5)), x)[0, :, :, 0]
    own, other = jacobian[:, 5, :, 5], jacobian[:, 5, :, :5]  # what frame 5 makes of its own noise and of the frames before
    assert (other == 0).all()
    assert torch.linalg.matrix_rank(own) == 6
