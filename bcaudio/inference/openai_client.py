"""A client of OpenAI-style endpoints: cached on disk, paced, retried; the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bcaudio.inference.openai_answers import NoAnswerError, chat_answer, form, json_bytes, sound, text_of, transcript, words_of

__all__ = ["Client", "EndpointError", "text_of"]

T = TypeVar("T")
R = TypeVar("R")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PERMANENT = (501, 505)  # of the 5xx: asking again does not help
_AGAIN = (408, 425, 429)  # of the 4xx: asking again may help
_MAX_PAUSE_S = 60.0


class EndpointError(RuntimeError):
    """An endpoint did not answer, or not usably. One line: URL, what happened, attempts, remedy.

    Args:
        status: of the last answer; None where none came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks one model behind one URL. Safe to use from many threads.

    Args:
        url: up to and with the version, `https://api.openai.com/v1`; http or https, without a key in it.
        model: as the endpoint names it.
        api_key_env: the environment variable that holds the key; without it requests go out without one. The key is read when a
            request is sent, and is neither written nor shown.
        cache: folder of answers, one JSON file per request under the SHA-256 of (URL, model, body); None keeps none.
        requests_per_minute: requests leave at least 60 / this many seconds apart; None does not limit.
        max_retries: how often a request is sent again after 408, 425, 429, 5xx, a timeout, a lost connection, or an answer that
            is no answer. `Retry-After` is honoured, for all threads; else pauses double from `first_pause_s`.
        timeout_s: for one answer, from the first byte sent to the last one read.
        max_total_s: for one request with all its retries and pauses.
        max_parallel: requests under way at a time.
        max_response_bytes: larger answers are refused.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        requests_per_minute: float | None = None,
        max_retries: int = 5,
        timeout_s: float = 120.0,
        max_parallel: int = 4,
        max_total_s: float = 600.0,
        first_pause_s: float = 1.0,
        max_response_bytes: int = 64 * 2**20,
    ) -> None:
        parts = urlsplit(url)
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                f"endpoint {parts.scheme}://{parts.hostname}: the URL carries a user, a query or a fragment; give it without "
                f"and put the key into the environment variable {api_key_env}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint {url!r}: is no http or https URL; give one such as https://api.openai.com/v1")
        if not model:
            raise ValueError(f"endpoint {url}: model is empty; name the model as the endpoint does")
        limits = {"timeout_s": timeout_s, "max_total_s": max_total_s, "max_parallel": max_parallel}
        limits |= {"max_response_bytes": max_response_bytes, "requests_per_minute": requests_per_minute or 1}
        for name, value in limits.items():
            if value <= 0:
                raise ValueError(f"endpoint {url}: {name} is {value}; it must be positive")
        if max_retries < 0 or first_pause_s < 0:
            raise ValueError(f"endpoint {url}: max_retries is {max_retries}, first_pause_s {first_pause_s}; none may be negative")
        self.url, self.model, self.api_key_env = url.rstrip("/"), model, api_key_env
        self.cache = None if cache is None else Path(cache)
        self.max_retries, self.timeout_s, self.max_total_s = max_retries, timeout_s, max_total_s
        self.max_parallel, self.first_pause_s, self.max_response_bytes = max_parallel, first_pause_s, max_response_bytes
        self._pace = _Pace(60.0 / requests_per_minute if requests_per_minute else 0.0)
        self._slots = threading.BoundedSemaphore(max_parallel)
        handlers: list[Any] = [_NoRedirect()]
        if parts.hostname in _LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def stamp(self) -> dict[str, str]:
        """What results name: `url` and `model`."""
        return {"url": self.url, "model": self.model}

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """The answer's JSON to `/chat/completions`; `options` (temperature, max_tokens, modalities, ...) go into the body.

        Raises:
            EndpointError: no usable answer.
        """
        body = json_bytes({"model": self.model, "messages": list(messages), **options})
        return self._ask("/chat/completions", body, "application/json", chat_answer)

    def speech(self, text: str, voice: str, **options: Any) -> bytes:
        """The bytes of a WAV from `/audio/speech`; EndpointError where none come."""
        body = json_bytes({"model": self.model, "input": text, "voice": voice, "response_format": "wav", **options})
        return base64.b64decode(self._ask("/audio/speech", body, "application/json", sound)["base64"])

    def transcribe(self, wav: bytes, language: str | None = None, **options: str) -> str:
        """The text of a WAV from `/audio/transcriptions`; EndpointError where none comes."""
        fields = {"model": self.model, "response_format": "json", **({"language": language} if language else {}), **options}
        body, kind = form(fields, wav)
        return str(self._ask("/audio/transcriptions", body, kind, transcript)["text"])

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`work` on every item, `max_parallel` at a time, in the order of the items; the first exception is raised."""
        with ThreadPoolExecutor(self.max_parallel, thread_name_prefix="endpoint") as pool:
            return list(pool.map(work, items))

    def _ask(self, path: str, body: bytes, kind: str, read: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
        url = self.url + path
        digest = hashlib.sha256(b"\0".join([url.encode(), self.model.encode(), body])).hexdigest()
        file = None if self.cache is None else self.cache / digest[:2] / f"{digest}.json"
        found = None if file is None else _cached(file, digest)
        if found is None:
            found = self._send_until_answered(url, body, kind, read)
            if file is not None:
                _keep(file, {"key": digest, "url": url, "model": self.model, "response": found})
        return found

    def _send_until_answered(self, url: str, body: bytes, kind: str, read: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
        key = self._key()
        headers = {"Content-Type": kind, "User-Agent": "bcaudio", **({"Authorization": f"Bearer {key}"} if key else {})}
        deadline = time.monotonic() + self.max_total_s
        attempt = 0
        while True:
            attempt += 1
            try:
                self._pace.wait(deadline)
                with self._slots:
                    data = self._send(urllib.request.Request(url, body, headers, method="POST"), deadline)
                return read(_without(key, data))
            except (OSError, http.client.HTTPException, NoAnswerError) as error:  # HTTPError and URLError are OSErrors
                failure = _Failure.of(error, key)
            pause = min(self.first_pause_s * 2 ** (attempt - 1), _MAX_PAUSE_S) if failure.wait_s is None else failure.wait_s
            left = deadline - time.monotonic()
            if not failure.again or attempt > self.max_retries or pause >= left:
                out_of_time = f", and {pause:.0f} s of pause would pass max_total_s={self.max_total_s:g}" if pause >= left else ""
                raise EndpointError(
                    f"{url}: {failure.what} (attempt {attempt} of {self.max_retries + 1}{out_of_time if failure.again else ''}); "
                    f"{failure.remedy(self)}",
                    failure.status,
                )
            if failure.wait_s is not None:
                self._pace.hold(pause)
            time.sleep(pause)

    def _send(self, request: urllib.request.Request, deadline: float) -> bytes:
        until = min(time.monotonic() + self.timeout_s, deadline)
        with self._opener.open(request, timeout=max(until - time.monotonic(), 0.001)) as response:
            data = bytearray()
            while chunk := response.read1(65536):
                data += chunk
                if len(data) > self.max_response_bytes:
                    raise NoAnswerError(f"the answer is larger than max_response_bytes={self.max_response_bytes}", again=False)
                if time.monotonic() > until:
                    raise TimeoutError
            announced = response.headers.get("Content-Length")
            if announced is not None and int(announced) != len(data):
                raise NoAnswerError(f"the answer broke off after {len(data)} of {announced} bytes")
            return bytes(data)

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key.isascii() or any(char.isspace() or not char.isprintable() for char in key):
            raise ValueError(f"environment variable {self.api_key_env}: holds characters that no key has; set it again")
        return key


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would lose its body and carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Pace:
    """Hands out moments to send at, `interval_s` apart."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s, self._next, self._lock = interval_s, 0.0, threading.Lock()

    def wait(self, deadline: float) -> None:
        """Sleeps until it is this caller's turn; NoAnswerError where that is after the deadline."""
        with self._lock:
            at = max(self._next, time.monotonic())
            if at > deadline:
                wait_s = at - time.monotonic()
                raise NoAnswerError(f"it may not be asked again for {wait_s:.0f} s, past max_total_s", again=False, status=429)
            self._next = at + self.interval_s
        time.sleep(max(at - time.monotonic(), 0.0))

    def hold(self, seconds: float) -> None:
        """Nobody sends for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Failure:
    """What went wrong with one attempt, whether to try again, and how long the server wants us to wait."""

    def __init__(self, what: str, again: bool, status: int | None = None, wait_s: float | None = None) -> None:
        self.what, self.again, self.status, self.wait_s = what, again, status, wait_s

    @classmethod
    def of(cls, error: Exception, key: str) -> _Failure:
        if isinstance(error, urllib.error.HTTPError):
            words = ""
            with error, contextlib.suppress(OSError, http.client.HTTPException):
                words = words_of(_without(key, error.read(65536)))
            target = error.headers.get("Location") if 300 <= error.code < 400 else None
            what = f"status {error.code}, redirected to {target}" if target else f"status {error.code}, the server says {words!r}"
            again = error.code in _AGAIN or (error.code >= 500 and error.code not in _PERMANENT)
            return cls(what, again, error.code, _retry_after(error.headers.get("Retry-After")) if again else None)
        if isinstance(error, NoAnswerError):
            return cls(str(error), error.again, error.status)
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return cls("no whole answer in time", True)
        return cls(f"no connection ({reason})", not isinstance(reason, ssl.SSLCertVerificationError))

    def remedy(self, client: Client) -> str:
        if self.status in (401, 403):
            return f"set the environment variable {client.api_key_env} to a key that may use {client.model}"
        if self.status == 429:
            return "lower requests_per_minute or max_parallel, or check the account's quota"
        if self.status == 404:
            return f"check the URL, which ends in /v1 most often, and that it serves {client.model}"
        if self.status is None:
            return f"check that the server runs and answers within timeout_s={client.timeout_s:g}"
        return (
            "check the URL, the model and the request" if self.status < 500 else "ask again later or look into the server's log"
        )


def _without(key: str, data: bytes) -> bytes:
    """An answer that repeats the key does so neither in errors nor in the cache."""
    return data.replace(key.encode(), b"***") if len(key) >= 8 else data


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; None where there is nothing readable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _cached(file: Path, digest: str) -> dict[str, Any] | None:
    """The answer in a file of the cache; None where there is no file or a torn one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return found["response"] if found["key"] == digest and isinstance(found["response"], dict) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path, entry: Mapping[str, Any]) -> None:
    """Writes a file of the cache, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=file.parent, suffix=".part", delete=False) as part:
        try:
            part.write(json_bytes(entry))
        except BaseException:
            os.unlink(part.name)
            raise
    os.replace(part.name, file)
