"""What goes to and comes from an OpenAI-style endpoint, as bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

_MAX_WORDS = 300  # characters of a server's message that an error shows


class NoAnswerError(Exception):
    """An answer came, but not what was asked for; `again`: whether asking again may help."""

    def __init__(self, what: str, again: bool = True, status: int = 200) -> None:
        super().__init__(what)
        self.again, self.status = again, status


def text_of(response: Mapping[str, Any]) -> str:
    """The text of a chat's answer, or the transcript of a spoken one; empty where there is none."""
    message = response["choices"][0]["message"]
    content = message.get("content")
    if isinstance(content, list):  # content parts
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or (message.get("audio") or {}).get("transcript") or ""


def json_bytes(body: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same content, UTF-8; ValueError for NaN."""
    return json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def form(fields: Mapping[str, str], wav: bytes) -> tuple[bytes, str]:
    """A multipart form and its content type; the boundary follows from the content, so that equal requests are equal bytes."""
    mark = "bcaudio-" + hashlib.sha256(wav + json_bytes(fields)).hexdigest()
    head = f"--{mark}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in sorted(fields.items())]
    parts += [
        f'{head}"file"; filename="audio.wav"\r\nContent-Type: audio/wav\r\n\r\n'.encode(),
        wav,
        f"\r\n--{mark}--\r\n".encode(),
    ]
    return b"".join(parts), f"multipart/form-data; boundary={mark}"


def json_object(data: bytes) -> dict[str, Any]:
    """A JSON object; NoAnswerError for anything else."""
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NoAnswerError(f"status 200, but not with a JSON object: {words_of(data)!r}")
    return found


def chat_answer(data: bytes) -> dict[str, Any]:
    """An answer of `/chat/completions`; NoAnswerError for anything else."""
    found = json_object(data)
    choices = found.get("choices")
    if not (
        isinstance(choices, list) and choices and isinstance(choices[0], dict) and isinstance(choices[0].get("message"), dict)
    ):
        raise NoAnswerError(f"status 200, but without choices[0].message: {words_of(data)!r}")
    return found


def transcript(data: bytes) -> dict[str, Any]:
    """An answer of `/audio/transcriptions`; NoAnswerError for anything else."""
    found = json_object(data)
    if not isinstance(found.get("text"), str):
        raise NoAnswerError(f"status 200, but without a text: {words_of(data)!r}")
    return found


def sound(data: bytes) -> dict[str, Any]:
    """A WAV as {"base64": ...}; NoAnswerError for anything else."""
    if data[:4] != b"RIFF":
        raise NoAnswerError(f"status 200, but not with a WAV: {words_of(data)!r}")
    return {"base64": base64.b64encode(data).decode()}


def words_of(data: bytes) -> str:
    """The server's message, or the start of whatever it sent, on one line."""
    try:
        error = json.loads(data)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        text = data[: 4 * _MAX_WORDS].decode("utf-8", "replace")
    text = " ".join(text.split())
    return text if len(text) <= _MAX_WORDS else text[:_MAX_WORDS] + "..."
