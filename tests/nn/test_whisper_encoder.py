"""The encoder against transformers' Whisper encoder, and its independence of padding."""

import torch
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
