"""A real OpenAI-style server on 127.0.0.1 for tests: `with OpenAIServer(answer) as server: Client(server.url, "model")`.

`from tests.evaluation.openai_server import OpenAIServer`
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile


def decode_wav(data: bytes) -> tuple[np.ndarray, int]:
    """(float32 [N], sample rate in Hz) of a mono WAV."""
    return soundfile.read(io.BytesIO(data), dtype="float32")


def encode_wav(waveform: np.ndarray, sample_rate: int) -> bytes:
    """A mono 16 bit WAV."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def is_equal_tone(text: str) -> tuple[np.ndarray, int]:
    """How `speak` says a text unless a test says otherwise: 10 ms of 0.5 per character at 24 kHz."""
    return np.full(240 * max(len(text), 1), 0.5, dtype=np.float32), 24_000


@dataclass(frozen=True)
class Asked:
    """One request, as the server understood it.

    Args:
        path: `/chat/completions`, `/audio/speech` or `/audio/transcriptions`.
        text: the text of all messages, by blank lines; for speech what is to be said; for transcriptions the prompt.
        audio: every `input_audio` (or the file to be transcribed) as (float32 [N], sample rate in Hz).
        body: the JSON, or the form's text fields.
        headers: names in lower case.
    """

    path: str
    text: str
    audio: list[tuple[np.ndarray, int]]
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class OpenAIServer:
    """Serves while the `with` block lasts.

    Args:
        answer: gives the text of a chat's answer or of a transcription.
        speak: gives the sound of a text, for `/audio/speech` and for chats whose `modalities` hold `audio`.
        failures: what the next requests get in place of an answer, in order; each entry is a status (429, 500, ...),
            `(429, {"Retry-After": "1"})`, `(400, {}, "the server's words")`, `"hang"` (no answer until the block ends),
            `"cut"` (half an answer), or `"nonsense"` (200, but not JSON).
        delay_s: how long every answer takes.

    Attributes:
        url: what a client is given, `http://127.0.0.1:PORT/v1`.
        asked: all requests that arrived, failed ones too, in the order of arrival; `times` when (time.monotonic()).
        most_at_once: the largest number of requests that were being answered at the same time.
    """

    answer: Callable[[Asked], str] = lambda asked: "yes"
    speak: Callable[[str], tuple[np.ndarray, int]] = is_equal_tone
    failures: deque[Any] = field(default_factory=deque)
    delay_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0

    def __enter__(self) -> OpenAIServer:
        self._lock, self._closed, self._running = threading.Lock(), threading.Event(), 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner._serve(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.failures = deque(self.failures)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, http: BaseHTTPRequestHandler) -> None:
        asked = read_request(http)
        with self._lock:
            self.asked.append(asked)
            self.times.append(time.monotonic())
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            failure = self.failures.popleft() if self.failures else None
        try:
            self._closed.wait(self.delay_s)
            self._reply(http, asked, failure)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up, as some tests want
        finally:
            with self._lock:
                self._running -= 1

    def _reply(self, http: BaseHTTPRequestHandler, asked: Asked, failure: Any) -> None:
        if failure == "hang":
            self._closed.wait()
        elif failure == "nonsense":
            send(http, 200, b"<html>a proxy's page</html>")
        elif failure is not None and failure != "cut":
            status, headers, words = (*failure, {}, "")[:3] if isinstance(failure, tuple) else (failure, {}, "")
            send(http, status, json.dumps({"error": {"message": words or "planted failure"}}).encode(), headers)
        else:
            body = self._answer(asked)
            send(http, 200, body[: len(body) // 2] if failure == "cut" else body, {"Content-Length": str(len(body))})

    def _answer(self, asked: Asked) -> bytes:
        if asked.path == "/audio/speech":
            return encode_wav(*self.speak(asked.text))
        text = self.answer(asked)
        if asked.path == "/audio/transcriptions":
            return json.dumps({"text": text}).encode()
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if "audio" in asked.body.get("modalities", ()):
            sound = base64.b64encode(encode_wav(*self.speak(text))).decode()
            message |= {"content": None, "audio": {"id": "audio-1", "data": sound, "transcript": text}}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"object": "chat.completion", "model": asked.body.get("model"), "choices": [choice]}).encode()


def send(http: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Answers with a whole body."""
    http.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(body)


def read_request(http: BaseHTTPRequestHandler) -> Asked:
    """What a client wants, with its sounds decoded."""
    headers = {name.lower(): value for name, value in http.headers.items()}
    data = http.rfile.read(int(headers["content-length"]))
    path = http.path.removeprefix("/v1")
    if path == "/audio/transcriptions":
        form = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + data)
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in form.get_payload()
        }
        sound = decode_wav(parts.pop("file"))
        fields = {name: value.decode() for name, value in parts.items()}
        return Asked(path, fields.get("prompt", ""), [sound], fields, headers)
    body = json.loads(data)
    texts, sounds = [body["input"]] if "input" in body else [], []
    for message in body.get("messages", ()):
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                sounds.append(decode_wav(base64.b64decode(part["input_audio"]["data"])))
    return Asked(path, "\n\n".join(texts), sounds, body, headers)
