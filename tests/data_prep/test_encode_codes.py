"""Audio becomes codes once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bcaudio.audio.mel import WhisperLogMel
from bcaudio.checkpoint import save_model
from bcaudio.data.index import ShardIndex
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.inference.encoding import span_bounds
from bcaudio.models.audio_tokenizer import AudioDecoder, AudioTokenizer, VQBridge
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.nn.whisper_encoder import WhisperEncoder
from data_prep.encode_codes import EncodeCodes

MODEL = """
model:
  _target_: bcaudio.models.audio_tokenizer.AudioTokenizer
  frontend: {_target_: bcaudio.audio.mel.WhisperLogMel, n_mels: 20}
  encoder: {_target_: bcaudio.nn.whisper_encoder.WhisperEncoder, num_mels: 20, dim: 16, num_layers: 1, num_heads: 2, ffn_dim: 32}
  bridge:
    _target_: bcaudio.models.audio_tokenizer.VQBridge
    dim: 16
    quantizer: {_target_: bcaudio.nn.residual_vq.ResidualVQ, codebook_sizes: [8, 4], dim: 64, kmeans_init: false}
  decoder:
    _target_: bcaudio.models.audio_tokenizer.AudioDecoder
    dim: 16
    num_layers: 1
    num_heads: 2
    ffn_dim: 32
    refiner_channels: [8]
"""


class Steps:
    def step(self, n: int, **numbers: object) -> None:
        self.last = n


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two shards (one of text only) and an untrained tokenizer."""
    torch.manual_seed(0)
    tokenizer = AudioTokenizer(
        WhisperLogMel(20),
        WhisperEncoder(20, 16, 1, 2, 32),
        VQBridge(ResidualVQ([8, 4], 64, kmeans_init=False), 16),
        AudioDecoder(16, 1, 2, 32, refiner_channels=[8]),
    )
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "recipe.yaml").write_text(MODEL)
    save_model(tmp_path / "tokenizer", tokenizer, {"codebook_sizes": [8, 4]})
    noise = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    spans = (Span("one", 0.1, 0.4, "user"), Span("two", 0.6, 0.9, "assistant"))
    clips = [
        (Sample("a-0", "dialogue", "train", "en", "m1", "one two", spans, duration_s=1.0), noise),
        (Sample("a-1", "dialogue", "train", "en", "m1", "one", spans[:1], duration_s=0.5), noise[:12000]),
    ]
    write_shards(clips, tmp_path / "shards", "dialogue-train", 8, {"format": 1})
    text = Sample("t-0", "text_sums", "train", "en", "", "one", (Span("one", 0.0, 0.0, "user"),))
    write_shards([(text, None)], tmp_path / "shards", "text_sums-train", 8, {"format": 1})
    return tmp_path


def encode(world: Path) -> dict:
    return EncodeCodes(str(world / "shards"), str(world / "tokenizer")).run(world / "codes", 0, Steps())


def test_every_span_gets_its_own_codes_and_text_only_shards_are_left_out(world: Path) -> None:
    counts = encode(world)
    index = ShardIndex([world / "codes" / "shards" / "*.tar"])
    assert (counts["num_shards"], counts["num_samples"], len(index)) == (1, 2, 2)
    two_spans = index.sample(0)
    # 0.42 s of span plus margins inside the pauses: 43 frames, 22 encoder frames, 5 tokens
    assert two_spans.span_num_codes == (5, 5)
    assert two_spans.codes.shape == (10, 2)
    assert index.sample(1).span_num_codes == (6,)  # the whole half second of a single span
    assert index.fingerprint["codebook_sizes"] == [8, 4]


def test_a_second_run_keeps_what_is_whole_and_remakes_what_is_cut(world: Path) -> None:
    encode(world)
    tar = next((world / "codes" / "shards").glob("*.tar"))
    before = tar.read_bytes()
    assert encode(world)["num_kept_shards"] == 1
    tar.write_bytes(before[: len(before) // 2])
    assert encode(world)["num_kept_shards"] == 0
    assert tar.read_bytes() == before


def test_span_bounds_never_reach_into_a_neighbour() -> None:
    spans = (Span("one", 0.0, 0.5, "user"), Span("two", 0.52, 0.9, "assistant"))
    sample = Sample("a-0", "dialogue", "train", "en", "m1", "one two", spans, duration_s=1.0)
    np.testing.assert_allclose(span_bounds(sample), [(0.0, 0.52), (0.5, 0.96)])


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no shard with audio"):
        EncodeCodes(str(tmp_path), "nowhere").run(tmp_path / "out", 0, Steps())
