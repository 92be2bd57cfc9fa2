"""The whole tokenizer at toy size: shapes, independence of the batch, schedule, long audio."""

import pytest
import torch
from torch import Tensor

from bcaudio.audio.mel import WhisperLogMel
from bcaudio.models.audio_tokenizer import AudioDecoder, AudioTokenizer, VQBridge, split_chunks
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.nn.whisper_encoder import WhisperEncoder


def tiny(max_audio_s: float = 2.0, upstream_batching: bool = False, **vq: object) -> AudioTokenizer:
    torch.manual_seed(0)
    return AudioTokenizer(
        WhisperLogMel(n_mels=12, max_audio_s=max_audio_s),
        WhisperEncoder(num_mels=12, dim=8, num_layers=2, num_heads=2, ffn_dim=16, max_positions=int(50 * max_audio_s)),
        VQBridge(ResidualVQ([16, 8, 8], 32, **{"kmeans_init": False, **vq}), dim=8),
        AudioDecoder(dim=8, num_layers=2, num_heads=2, ffn_dim=16, num_mels=10, refiner_channels=[6, 6], max_positions=200),
        upstream_batching,
    ).eval()


def batch() -> tuple[Tensor, Tensor]:
    """Three clips, mel frames 151, 91 and 76; what lies beyond a clip is rubbish."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 24000, generator=generator) * 0.1, torch.tensor([24000, 14500, 12000])


@torch.no_grad()
def test_lengths_follow_the_specification() -> None:
    tokenizer = tiny()
    waveform, lengths = batch()
    codes, num_codes = tokenizer.encode(waveform, lengths)
    # 24000 samples: 151 frames -> 76 -> 19 tokens -> 75 states -> 150 -> 93 mel frames
    assert num_codes.tolist() == [19, 11, 9]
    assert torch.equal(tokenizer.num_codes(lengths), num_codes)
    assert codes.shape == (3, 19, 3)
    assert codes[1, 11:].count_nonzero() == 0
    output = tokenizer.decode(codes, num_codes)
    assert output.hidden.shape == (3, 75, 8)
    assert output.hidden_lengths.tolist() == [75, 43, 35]
    assert output.mel_lengths.tolist() == [93, 53, 43]
    assert output.refined_mel.shape == output.coarse_mel.shape == (3, 93, 10)
    assert tokenizer.code_rate == 12.5


@torch.no_grad()
def test_the_batch_mates_of_a_clip_change_nothing() -> None:
    tokenizer = tiny()
    waveform, lengths = batch()
    together = tokenizer(waveform, lengths)
    for clip, length in enumerate(lengths.tolist()):
        alone = tokenizer(waveform[clip : clip + 1, :length], lengths[clip : clip + 1])
        for name in ("features", "quantized", "codes", "commitment", "hidden", "coarse_mel", "refined_mel"):
            mine, theirs = getattr(together, name)[clip], getattr(alone, name)[0]
            torch.testing.assert_close(mine[: len(theirs)], theirs, atol=1e-5, rtol=0, msg=name)
            assert mine[len(theirs) :].count_nonzero() == 0, name


@torch.no_grad()
def test_encoding_computes_nothing_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny()
    rows: list[int] = []
    tokenizer.bridge.down_proj.register_forward_hook(lambda module, inputs, output: rows.append(output.numel() // 32))
    encode = tokenizer.quantizer.encode
    monkeypatch.setattr(tokenizer.quantizer, "encode", lambda h: rows.append(h.numel() // 32) or encode(h))
    tokenizer.encode(*batch())
    assert rows == [19 + 11 + 9] * 2


@torch.no_grad()
def test_a_clip_too_short_for_a_token_gets_none_beside_others_and_alone() -> None:
    tokenizer = tiny()
    codes, num_codes = tokenizer.encode(torch.randn(2, 16000) * 0.1, torch.tensor([16000, 800]))
    assert num_codes.tolist() == [12, 0]
    assert codes[1].count_nonzero() == 0
    codes, num_codes = tokenizer.encode(torch.randn(1, 800) * 0.1, torch.tensor([800]))
    assert (codes.shape, num_codes.tolist()) == ((1, 0, 3), [0])


@torch.no_grad()
def test_upstream_batching_lets_padding_in() -> None:
    waveform, lengths = batch()
    codes, num_codes = tiny().encode(waveform, lengths)
    alone = tiny(upstream_batching=True).decode(codes[2:, :9], num_codes[2:])
    together = tiny(upstream_batching=True).decode(codes, num_codes)
    assert (together.hidden[2, :35] - alone.hidden[0]).abs().max() > 1e-2


def test_forward_decodes_its_own_codes_and_carries_gradients_to_the_encoder() -> None:
    tokenizer = tiny()
    waveform, lengths = batch()
    output = tokenizer(waveform, lengths)
    decoded = tokenizer.decode(output.codes, output.num_codes)
    torch.testing.assert_close(output.refined_mel, decoded.refined_mel, atol=1e-4, rtol=0)
    hidden, _ = tokenizer.decode_hidden(output.codes, output.num_codes)
    torch.testing.assert_close(output.hidden, hidden, atol=1e-4, rtol=0)
    output.refined_mel.square().mean().backward()
    unused = [name for name, parameter in tokenizer.named_parameters() if parameter.grad is None]
    assert unused == []
    assert tokenizer.encoder.conv1.weight.grad.abs().max() > 0


@torch.no_grad()
def test_vq_share_replaces_whole_clips() -> None:
    tokenizer = tiny()
    waveform, lengths = batch()
    waveform, lengths = waveform.repeat(20, 1), lengths.repeat(20)
    torch.manual_seed(1)
    output = tokenizer(waveform, lengths, vq_share=0.3)
    quantized = tokenizer(waveform, lengths).quantized
    from_codes = [torch.equal(z, q) for z, q in zip(output.quantized, quantized, strict=True)]
    from_features = [torch.equal(z, h) for z, h in zip(output.quantized, output.features, strict=True)]
    assert all(a != b for a, b in zip(from_codes, from_features, strict=True))
    # 60 clips, 18 expected, standard deviation 3.5
    assert 7 < sum(from_codes) < 30
    assert torch.equal(tokenizer(waveform, lengths, vq_share=0.0).quantized, output.features)
    with pytest.raises(ValueError, match=r"vq_share is 1.5"):
        tokenizer(waveform, lengths, vq_share=1.5)


@torch.no_grad()
def test_label_lengths_set_the_mel_lengths() -> None:
    waveform, lengths = batch()
    output = tiny()(waveform, lengths, mel_lengths=torch.tensor([94, 57, 47]))
    assert output.refined_mel.shape == (3, 94, 10)
    assert output.refined_mel[1, 57:].count_nonzero() == 0
    assert output.refined_mel[1, 56].count_nonzero() == 10


@torch.no_grad()
def test_only_training_moves_the_codebooks() -> None:
    tokenizer = tiny(ema_decay=0.5)
    waveform, lengths = batch()
    before = tokenizer.quantizer.codebooks[0].embed.clone()
    tokenizer(waveform, lengths)
    assert torch.equal(tokenizer.quantizer.codebooks[0].embed, before)
    tokenizer.train()(waveform, lengths)
    assert not torch.equal(tokenizer.quantizer.codebooks[0].embed, before)


@torch.no_grad()
def test_long_audio_is_the_codes_of_its_chunks_in_order() -> None:
    tokenizer = tiny(max_audio_s=1.0)
    waveform = batch()[0].flatten()[:40300]
    codes = tokenizer.encode_long(waveform, batch_size=2)
    expected = [tokenizer.encode(chunk[None], torch.tensor([len(chunk)]))[0][0] for chunk in waveform.split(16000)]
    # 1 s: 100 frames -> 50 -> 12 tokens; 0.51875 s: 52 -> 26 -> 6
    assert [len(chunk) for chunk in expected] == [12, 12, 6]
    assert torch.equal(codes, torch.cat(expected))


@torch.no_grad()
def test_clips_too_long_or_too_short_are_named() -> None:
    tokenizer = tiny()
    with pytest.raises(ValueError, match=r"2\.5 s, but at most 2 s fit; use encode_long"):
        tokenizer.encode(torch.zeros(1, 40000), torch.tensor([40000]))
    codes, num_codes = tokenizer.encode(torch.zeros(1, 400), torch.tensor([400]))
    assert codes.shape == (1, 0, 3)
    assert num_codes.tolist() == [0]
    with pytest.raises(ValueError, match="without any token"):
        tokenizer(torch.zeros(1, 400), torch.tensor([400]))


def test_a_remainder_shorter_than_a_spectrum_is_dropped_and_overlap_reaches_back() -> None:
    assert split_chunks(2399, 1000, 0, 400) == [(0, 1000), (1000, 2000)]
    assert split_chunks(2400, 1000, 0, 400) == [(0, 1000), (1000, 2000), (2000, 2400)]
    assert split_chunks(1500, 1000, 100, 400) == [(0, 1000), (900, 1500)]
    assert split_chunks(1500, 1000, -1, 400) == [(0, 1500)]
    with pytest.raises(ValueError, match="overlap"):
        split_chunks(1500, 1000, 1000, 400)


def test_parts_that_do_not_fit_are_refused() -> None:
    good = tiny()
    with pytest.raises(ValueError, match="12 bins"):
        AudioTokenizer(good.frontend, WhisperEncoder(80, 8, 1, 2, 8), good.bridge, good.decoder)
    with pytest.raises(ValueError, match="30 wide"):
        VQBridge(ResidualVQ([4], 30), dim=8)
