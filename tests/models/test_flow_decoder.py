"""The flow decoder learns, and its affine scale is undone."""

from __future__ import annotations

import pytest
import torch

from bcaudio.models.flow_decoder import FlowDecoder, FlowPrenet, frame_mask
from bcaudio.nn.unet1d import VelocityUNet


def small(width: int = 16, **kwargs: float) -> FlowDecoder:
    torch.manual_seed(0)
    prenet = FlowPrenet(in_dim=8, d_model=16, num_heads=2, ffn_dim=32, num_layers=1, mel_bins=6, max_source_positions=8)
    return FlowDecoder(
        prenet, VelocityUNet(6, (width,), n_blocks=1, num_mid_blocks=1, num_heads=2, attention_head_dim=8), **kwargs
    )


def test_prenet_is_causal_and_zero_beyond_the_length() -> None:
    decoder = small().eval()
    hidden = torch.randn(1, 10, 8)
    changed = hidden.clone()
    changed[:, 6] += 1.0
    lengths = torch.tensor([8])
    before, after = decoder(hidden, lengths), decoder(changed, lengths)
    difference = (after - before).abs().amax(dim=-1)[0]
    assert (difference[:6] == 0).all()
    assert (difference[6:8] > 0).all()
    assert (before[:, 8:] == 0).all()


def test_both_losses_go_down_and_the_sample_comes_near_a_toy_target() -> None:
    decoder = small(width=32, mel_mean=-5.0, mel_std=2.0, diffusion_steps=4)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    project = torch.randn(8, 6)
    curve = []
    for _ in range(200):
        hidden, lengths = torch.randn(8, 12, 8), torch.randint(6, 13, (8,))
        mel = torch.tanh(hidden @ project) * 2.0 - 5.0
        terms = decoder.loss(hidden, lengths, mel)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        curve.append([float(terms[name].detach()) for name in ("flow", "prior")])
    flow, prior = torch.tensor(curve).split(1, dim=1)
    assert flow[-10:].mean() < 0.7 * flow[:5].mean()
    assert prior[-10:].mean() < 0.5 * prior[:5].mean()

    hidden, lengths = torch.randn(4, 12, 8), torch.tensor([12, 12, 9, 6])
    mel = torch.tanh(hidden @ project) * 2.0 - 5.0
    sampled = decoder.eval().sample(hidden, lengths)
    mask = frame_mask(lengths, 12)
    error = (sampled - mel).abs()[mask].mean()
    assert error < 0.6 * (mel[mask] - mel[mask].mean()).abs().mean()


def test_sample_of_no_temperature_does_not_depend_on_the_generator() -> None:
    decoder = small().eval()
    hidden, lengths = torch.randn(1, 7, 8), torch.tensor([7])
    first, second = (decoder.sample(hidden, lengths, temperature=0.0, steps=2) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_a_spread_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="mel_std"):
        small(mel_std=0.0)
