"""The encoder against transformers' Whisper encoder, and its independence of padding."""

import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Reference

from bcaudio.nn.whisper_encoder import WhisperEncoder


def tiny() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(num_mels=6, dim=8, num_layers=2, num_heads=2, ffn_dim=12, max_positions=50).eval()


@torch.no_grad()
def test_encoder_equals_that_of_transformers() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        num_mel_bins=6, d_model=8, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=12, max_source_positions=50
    )
    reference = Reference(config).eval()
    encoder = tiny()
    weights = {name: value for name, value in reference.state_dict().items() if name != "embed_positions.weight"}
    encoder.load_state_dict(weights | {"positional_embedding": reference.embed_positions.weight.detach()})
    mel = torch.randn(2, 6, 100)
    hidden, lengths = encoder(mel, torch.tensor([100, 100]))
    assert lengths.tolist() == [50, 50]
    torch.testing.assert_close(hidden, reference(mel).last_hidden_state, atol=1e-5, rtol=0)


@torch.no_grad()
def test_odd_clip_depends_on_padding_only_in_upstream_mode() -> None:
    encoder = tiny()
    mel = torch.randn(2, 6, 41)
    lengths = torch.tensor([41, 23])
    mel[1, :, 23:] = 0.0
    alone, alone_lengths = encoder(mel[1:, :, :23], lengths[1:])
    assert alone_lengths.tolist() == [12]
    together, _ = encoder(mel, lengths)
    torch.testing.assert_close(together[1, :12], alone[0], atol=1e-6, rtol=0)
    assert together[1, 12:].count_nonzero() == 0
    upstream, _ = encoder(mel, lengths, upstream_batching=True)
    assert (upstream[1, :12] - alone[0]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_every_clip_of_a_batch_is_encoded_as_alone(stride: int, kernel_size: int) -> None:
    torch.manual_seed(0)
    encoder = WhisperEncoder(6, 8, 2, 2, 12, kernel_size, stride, max_positions=50).eval()
    lengths = torch.tensor([11, 24, 7, 1])
    mel = torch.randn(4, 6, 24) * (torch.arange(24) < lengths[:, None])[:, None]
    together, states = encoder(mel, lengths)
    assert states.tolist() == [(length - 1) // stride + 1 for length in lengths.tolist()]
    for clip, (length, count) in enumerate(zip(lengths.tolist(), states.tolist(), strict=True)):
        alone, _ = encoder(mel[clip : clip + 1, :, :length], lengths[clip : clip + 1])
        torch.testing.assert_close(together[clip, :count], alone[0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_no_layer_computes_on_padding() -> None:
    encoder = tiny()
    rows: dict[str, int] = {}

    def count(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows[name] = output.numel() // 8

        return hook

    for name, part in {
        "fc2": encoder.layers[0].fc2,
        "out_proj": encoder.layers[1].self_attn.out_proj,
        "conv2": encoder.conv2,
    }.items():
        part.register_forward_hook(count(name))
    encoder(torch.randn(3, 6, 100), torch.tensor([100, 9, 3]))
    # 50 + 5 + 2 states; the convolution also writes the gaps: (102 + 10 + 4) / 2
    assert rows == {"fc2": 57, "out_proj": 57, "conv2": 58}


def test_a_clip_beyond_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="51 frames, but there are positions for 50"):
        tiny()(torch.zeros(1, 6, 101), torch.tensor([101]))
