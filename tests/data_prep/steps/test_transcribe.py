from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from data_prep.steps import recognisers
from data_prep.steps.recognisers import HttpRecogniser, HuggingFaceCTC, Whisper
from data_prep.steps.transcribe import Transcribe
from data_prep.utterance import Clip, Drops, Part, Utterance

RATE = 16_000


class Length:
    """Hears how many samples there are."""

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        return [f"{len(waveform)} in {language}" for waveform in waveforms]


def _clip(num_samples: int, text: str) -> Clip:
    return Clip(Utterance("k", "c", "train", "zh", (Part(text, "user"),), text), np.zeros(num_samples, np.float32), RATE)


def test_the_transcript_is_a_measure_and_the_text_of_clips_without_one() -> None:
    drops = Drops()
    clips = [_clip(5, ""), _clip(7, "known"), _clip(0, "only text")]
    heard, known, silent = Transcribe(Length(), name="t2", as_text=True)(iter(clips), drops)
    assert (heard.utterance.text, heard.measures) == ("5 in zh", {"t2": "5 in zh"})
    assert heard.utterance.parts == (Part("5 in zh", "user"),)
    assert (known.utterance.text, known.measures) == ("known", {"t2": "7 in zh"})
    assert silent is clips[2]
    [left] = Transcribe(Length())(iter(clips[:1]), drops)
    assert left.utterance.text == ""
    assert not drops


class _Server(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, str]]] = []
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(recognisers.time, "sleep", lambda seconds: None)
    _Server.bodies = []
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/audio/transcriptions"
    server.shutdown()
    server.server_close()


def test_http_sends_a_wav_and_tries_again_after_a_failure(url: str) -> None:
    _Server.answers = [(503, "busy"), (200, json.dumps({"text": " hello "}))]
    assert HttpRecogniser(url, "small").transcribe([np.zeros(1600, np.float32)], RATE, "en") == ["hello"]
    assert len(_Server.bodies) == 2
    body = _Server.bodies[1]
    assert body == _Server.bodies[0]
    assert b'name="model"\r\n\r\nsmall' in body
    wav = body[body.index(b"RIFF") :]
    assert int.from_bytes(wav[24:28], "little") == RATE
    assert int.from_bytes(wav[40:44], "little") == 3200


def test_http_gives_up_where_it_must(url: str) -> None:
    _Server.answers = [(404, "no such model")]
    with pytest.raises(ConnectionError, match="404 no such model"):
        HttpRecogniser(url, "x").transcribe([np.zeros(9, np.float32)], RATE, "en")
    _Server.answers = [(500, "a"), (500, "b")]
    with pytest.raises(ConnectionError, match="500 b"):
        HttpRecogniser(url, "x", num_tries=2).transcribe([np.zeros(9, np.float32)], RATE, "en")
    _Server.answers = [(200, "[]")]
    with pytest.raises(ConnectionError, match="no JSON with 'text'"):
        HttpRecogniser(url, "x").transcribe([np.zeros(9, np.float32)], RATE, "en")


def _tiny_wav2vec2(folder: Path) -> None:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    names = ["A", "<pad>", "|", "<unk>", "B", "C"]  # the blank is not the first: it must be moved
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=6, pad_token_id=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(160, 2), conv_kernel=(400, 2), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=2,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)


def test_a_hugging_face_ctc_folder_gives_emissions_with_the_blank_first(tmp_path: Path) -> None:
    import torch
    from transformers import Wav2Vec2ForCTC

    _tiny_wav2vec2(tmp_path)
    model = HuggingFaceCTC(str(tmp_path))
    waveform = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    log_probs, frame_s = model.emissions(waveform, RATE)
    assert frame_s == 0.02
    normal = torch.from_numpy((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7))[None]
    with torch.inference_mode():
        expected = Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()(normal).logits[0].log_softmax(-1).numpy()
    blank = np.log(np.exp(expected[:, 1]) + np.exp(expected[:, 2]))  # padding, and the mark between words
    np.testing.assert_allclose(log_probs, np.column_stack([blank, expected[:, [0, 2, 3, 4, 5]]]), atol=1e-5)
    assert model.tokens("Cab,", "en") == [5, 1, 4]
    assert model.tokens("xyz", "en") is None
    best = [["A", "", " ", "<unk>", "B", "C"][i] for i in expected.argmax(-1)]
    merged = "".join(b for a, b in zip([None, *best], best, strict=False) if a != b)
    assert model.transcribe([waveform, waveform[:0]], RATE, "en") == [" ".join(merged.split()), ""]


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"Whisper: /nowhere/config\.json"):
        Whisper("/nowhere").transcribe([np.zeros(9, np.float32)], RATE, "en")
    with pytest.raises(FileNotFoundError, match="HuggingFaceCTC"):
        HuggingFaceCTC("/nowhere").emissions(np.zeros(9, np.float32), RATE)
