"""The transformer layer against transformers' Whisper layer, and the position table by hand."""

import math

import pytest
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from bcaudio.nn.transformer import TransformerLayer, add_positions, sinusoidal_positions


def test_layer_equals_the_whisper_layer_of_transformers() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(d_model=16, encoder_attention_heads=4, encoder_ffn_dim=24, attn_implementation="eager")
    reference = WhisperEncoderLayer(config).eval()
    layer = TransformerLayer(16, 4, 24)
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(2, 9, 16)
    expected = reference(x, None)
    torch.testing.assert_close(layer(x), expected if isinstance(expected, torch.Tensor) else expected[0], atol=1e-5, rtol=0)


def test_causal_layer_does_not_look_ahead() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(8, 2, 16)
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] = torch.randn(1, 2, 8)
    torch.testing.assert_close(layer(x, causal=True)[:, :4], layer(changed, causal=True)[:, :4])
    assert not torch.allclose(layer(x)[:, :4], layer(changed)[:, :4], atol=1e-3)


def test_positions_hold_sines_then_cosines() -> None:
    table = sinusoidal_positions(3, 4)
    slow = 2 * math.exp(-math.log(10000.0))
    expected = torch.tensor([math.sin(2.0), math.sin(slow), math.cos(2.0), math.cos(slow)])
    torch.testing.assert_close(table[2], expected)


def test_too_many_frames_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="5 frames, but there are positions for 4"):
        add_positions(torch.zeros(1, 5, 4), sinusoidal_positions(4, 4), "here")


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads 3"):
        TransformerLayer(8, 3, 8)
