from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from bcaudio.audio.io import write_audio
from data_prep import tts
from data_prep.utterance import Rejected


def _wav(level: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(800, level), 8000, format="WAV", subtype="PCM_16")
    return file.getvalue()


class _Server(BaseHTTPRequestHandler):
    asked: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"" if self.asked[-1]["input"] == "nothing" else _wav(0.5))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/audio/speech"
    server.shutdown()
    server.server_close()


def test_http_asks_as_openai_does_and_reads_the_wav(url: str) -> None:
    engine = tts.HttpTTS(url, "tts-1", ["alloy", "nova"])
    assert engine.voices("zh") == ("alloy", "nova")
    spoken = engine.speak("你好", "zh", "nova")
    assert _Server.asked[-1] == {"model": "tts-1", "input": "你好", "voice": "nova", "response_format": "wav"}
    assert (spoken.sample_rate, len(spoken.waveform), spoken.words) == (8000, 800, ())
    np.testing.assert_allclose(spoken.waveform, 0.5, atol=1e-4)
    with pytest.raises(Rejected, match="synthesis failed"):
        engine.speak("nothing", "en", "nova")


def test_precomputed_files_are_found_by_voice_and_text(tmp_path: Path) -> None:
    # sha256("hello") = 2cf24dba5fb0a30e26e83b2ac5b9e29e...
    write_audio(tmp_path / "ann" / "2cf24dba5fb0a30e26e83b2ac5b9e29e.flac", np.full(1600, 0.25), 16_000)
    engine = tts.Precomputed(str(tmp_path))
    assert engine.voices("en") == ["ann"]
    spoken = engine.speak("hello", "en", "ann")
    assert (spoken.sample_rate, len(spoken.waveform)) == (16_000, 1600)
    with pytest.raises(Rejected, match="not precomputed: ann/"):
        engine.speak("Hello", "en", "ann")
    with pytest.raises(ValueError, match="no folder per voice"):
        tts.Precomputed(str(tmp_path / "none")).voices("en")


def test_espeak_has_over_ten_thousand_timbres_and_speaks_the_one_it_is_told() -> None:
    engine = tts.Espeak()
    voices = engine.voices("en")
    assert len(set(voices)) == len(voices) > 10_000
    pytest.importorskip("espeakng_loader")
    slow, fast = engine.speak("seven apples", "en", "Hugo-p42-r165"), engine.speak("seven apples", "en", "Hugo-p42-r220")
    assert len(slow.waveform) > 1.15 * len(fast.waveform)
    assert [word.text for word in slow.words] == ["seven", "apples"]
    with pytest.raises(ValueError, match="'de'"):
        engine.voices("de")


def test_flite_is_run_with_the_text_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "flite"
    (tmp_path / "said.wav").write_bytes(_wav(0.5))
    program.write_text(f'#!/bin/sh\ntest "$(cat $4)" = "-version" || exit 3\ncp {tmp_path}/said.wav $6\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert len(tts.Flite().speak("-version", "en", "slt").waveform) == 800
    with pytest.raises(Rejected, match="synthesis failed"):
        tts.Flite().speak("other", "en", "slt")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match="apt-get install flite"):
        tts.Flite().speak("a", "en", "slt")


def test_piper_lists_voices_of_a_language_and_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("en_US-amy-low", "en_GB-alan-low", "zh_CN-huayan-low"):
        (tmp_path / f"{name}.onnx").touch()
    engine = tts.Piper(str(tmp_path))
    assert engine.voices("en") == ["en_GB-alan-low", "en_US-amy-low"]
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[piper\]"):
        engine.speak("a", "en", "en_US-amy-low")


def test_engines_are_found_by_name_ours_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        name = "other"

        @staticmethod
        def load() -> type:
            return dict

    monkeypatch.setattr(tts, "entry_points", lambda group: [Other] if group == "bcaudio.tts" else [])
    assert isinstance(tts.engine("precomputed", folder="x"), tts.Precomputed)
    assert tts.engine("other", a=1) == {"a": 1}
    with pytest.raises(ValueError, match="'nobody'; known are espeak, flite, piper, http, precomputed, other"):
        tts.engine("nobody")
