"""Against a real server on this machine: tests/evaluation/openai_server.py."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.inference.openai_client import Client, EndpointError, text_of
from tests.evaluation.openai_server import OpenAIServer, decode_wav, encode_wav

HELLO = [{"role": "user", "content": "hello"}]
KEY = "sk-very-secret-key"


def client(server: OpenAIServer, **options: Any) -> Client:
    return Client(server.url, "m", **{"first_pause_s": 0.01, "timeout_s": 5.0, **options})


def test_chat_sends_text_and_sound_and_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    wave = np.array([0.5, -0.25, 0.0], dtype=np.float32)
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(encode_wav(wave, 16000)).decode(), "format": "wav"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is said?"}, sound]}
    with OpenAIServer(lambda asked: f"{len(asked.audio)} sound: {asked.text}") as server:
        response = client(server, api_key_env="A_KEY").chat([message], temperature=0)
    assert text_of(response) == "1 sound: What is said?"
    (asked,) = server.asked
    assert (asked.path, asked.body["model"], asked.body["temperature"]) == ("/chat/completions", "m", 0)
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    np.testing.assert_array_equal(asked.audio[0][0], wave)
    assert asked.audio[0][1] == 16000


def test_speech_transcription_and_spoken_chat_reach_their_paths() -> None:
    with OpenAIServer(lambda asked: "heard it") as server:
        one = client(server)
        wave, rate = decode_wav(one.speech("abc", voice="alto"))
        assert one.transcribe(encode_wav(wave, rate), language="zh") == "heard it"
        spoken = one.chat(HELLO, modalities=["text", "audio"], audio={"voice": "alto", "format": "wav"})
    assert (len(wave), rate) == (720, 24000)  # the server says 10 ms per character
    assert [asked.path for asked in server.asked] == ["/audio/speech", "/audio/transcriptions", "/chat/completions"]
    assert server.asked[0].body == {"model": "m", "input": "abc", "voice": "alto", "response_format": "wav"}
    assert server.asked[1].body == {"model": "m", "language": "zh", "response_format": "json"}
    assert len(server.asked[1].audio[0][0]) == 720
    assert text_of(spoken) == "heard it"
    assert "authorization" not in server.asked[0].headers  # the variable is not set here


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_an_answer_is_asked_for_once_and_its_file_is_named_by_url_model_and_body(tmp_path: Path) -> None:
    with OpenAIServer(lambda asked: f"answer {len(server.asked)}") as server:
        first = text_of(client(server, cache=tmp_path).chat(HELLO, temperature=0))
        again = text_of(client(server, cache=tmp_path).chat(HELLO, temperature=0))
        other = text_of(client(server, cache=tmp_path).chat(HELLO, temperature=1))
        model = text_of(Client(server.url, "n", cache=tmp_path).chat(HELLO, temperature=0))
    assert (first, again, other, model) == ("answer 1", "answer 1", "answer 2", "answer 3")
    body = json.dumps({"messages": HELLO, "model": "m", "temperature": 0}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{server.url}/chat/completions\0m\0{body}".encode()).hexdigest()
    assert (tmp_path / digest[:2] / f"{digest}.json").is_file()
    assert len(list(tmp_path.rglob("*.*"))) == 3  # no temporary file is left


@pytest.mark.parametrize("torn", ["", '{"key": "', "[]", '{"key": "another", "response": {}}'])
def test_a_torn_file_of_the_cache_is_asked_for_again_and_replaced(tmp_path: Path, torn: str) -> None:
    with OpenAIServer(lambda asked: f"answer {len(server.asked)}") as server:
        client(server, cache=tmp_path).chat(HELLO)
        (file,) = tmp_path.rglob("*.json")
        file.write_text(torn)
        assert text_of(client(server, cache=tmp_path).chat(HELLO)) == "answer 2"
        assert text_of(client(server, cache=tmp_path).chat(HELLO)) == "answer 2"


def test_the_key_is_neither_in_the_cache_nor_in_errors_even_if_the_server_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer(lambda asked: asked.headers["authorization"], failures=[(401, {}, f"wrong key: {KEY}")]) as server:
        with pytest.raises(EndpointError, match=r"wrong key: \*\*\*.*set the environment variable OPENAI_API_KEY") as error:
            client(server, cache=tmp_path).chat(HELLO)
        assert text_of(client(server, cache=tmp_path).chat(HELLO)) == "Bearer ***"
    assert error.value.status == 401
    assert error.value.__cause__ is None
    (file,) = tmp_path.rglob("*.json")
    assert KEY not in str(error.value) + file.read_text()
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\nX-Header: 1")
    with pytest.raises(ValueError, match="OPENAI_API_KEY: holds characters that no key has") as refused:
        client(server).chat(HELLO)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("failure", [429, 500, 503, 408, "nonsense", "cut"])
def test_a_passing_failure_is_asked_again(failure: Any) -> None:
    with OpenAIServer(lambda asked: "fine", failures=[failure, failure]) as server:
        assert text_of(client(server, max_retries=2).chat(HELLO)) == "fine"
        assert len(server.asked) == 3


def test_half_a_sound_is_not_taken_for_a_sound() -> None:
    with OpenAIServer(failures=["cut"]) as server:
        assert len(decode_wav(client(server, max_retries=1).speech("abc", voice="alto"))[0]) == 720
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 404, 422, 501])
def test_a_lasting_failure_is_reported_at_once_with_the_servers_words(status: int) -> None:
    with OpenAIServer(failures=[(status, {}, "no such voice " + 1000 * "x")]) as server:
        with pytest.raises(EndpointError) as error:
            client(server).chat(HELLO)
        assert len(server.asked) == 1
    message = str(error.value)
    assert message.startswith(f"{server.url}/chat/completions: status {status}, the server says 'no such voice xxx")
    assert "(attempt 1 of 6)" in message
    assert "check" in message or "later" in message
    assert len(message) < 600


def test_after_the_last_attempt_the_error_names_url_status_words_and_attempts() -> None:
    with OpenAIServer(failures=[500, 500, 500]) as server:
        with pytest.raises(EndpointError, match=r"/v1/chat/completions: status 500, .*'planted failure' \(attempt 3 of 3\)"):
            client(server, max_retries=2).chat(HELLO)
        assert len(server.asked) == 3


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_is_honoured_as_seconds_and_as_a_date(header: str) -> None:
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: more than 1 s away
    with OpenAIServer(failures=[(429, {"Retry-After": header})]) as server:
        client(server).chat(HELLO)
        assert 0.9 <= server.times[1] - server.times[0] < 2.5


def test_a_retry_after_beyond_the_total_limit_is_reported_without_waiting() -> None:
    started = time.monotonic()
    with (
        OpenAIServer(failures=[(429, {"Retry-After": "3600"})]) as server,
        pytest.raises(EndpointError, match=r"status 429.*3600 s of pause would pass max_total_s=30\); lower requests_per_minute"),
    ):
        client(server, max_total_s=30).chat(HELLO)
    assert time.monotonic() - started < 5


def test_pauses_grow_and_end_at_the_total_limit() -> None:
    with OpenAIServer(failures=20 * [500]) as server:
        with pytest.raises(EndpointError, match="would pass max_total_s=1"):
            client(server, first_pause_s=0.1, max_retries=20, max_total_s=1.0).chat(HELLO)
        pauses = np.diff(server.times)
    assert len(pauses) == 3  # 0.1 + 0.2 + 0.4; the next would be 0.8
    assert (pauses >= [0.1, 0.2, 0.4]).all()


def test_a_server_that_hangs_is_given_up_after_the_timeout() -> None:
    with (
        OpenAIServer(failures=["hang", "hang"]) as server,
        pytest.raises(EndpointError, match=r"no whole answer in time \(attempt 2 of 2\); check that the server runs") as error,
    ):
        client(server, timeout_s=0.2, max_retries=1).chat(HELLO)
    assert error.value.status is None


def test_an_answer_that_drips_is_given_up_after_the_timeout(dripping: Callable[[], str]) -> None:
    started = time.monotonic()
    with pytest.raises(EndpointError, match="no whole answer in time"):
        Client(dripping(), "m", timeout_s=0.5, max_retries=0).chat(HELLO)
    assert time.monotonic() - started < 2


@pytest.fixture
def dripping(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts a server that sends one byte every 0.1 s: each comes within any timeout of a socket."""
    from tests.evaluation import openai_server

    def drip(http: Any, status: int, body: bytes, headers: Any = None) -> None:
        http.send_response(status)
        http.end_headers()
        for _ in range(50):
            http.wfile.write(b" ")
            time.sleep(0.1)

    monkeypatch.setattr(openai_server, "send", drip)
    with OpenAIServer() as server:
        yield lambda: server.url


def test_no_server_and_an_answer_too_large_are_named() -> None:
    with (
        OpenAIServer(lambda asked: 5000 * "x") as server,
        pytest.raises(EndpointError, match=r"larger than max_response_bytes=4000 \(attempt 1 of 6\)"),
    ):
        client(server, max_response_bytes=4000).chat(HELLO)
    with pytest.raises(EndpointError, match=r"no connection \(.*refused.*attempt 2 of 2\); check that the server runs"):
        client(server, max_retries=1).chat(HELLO)


def test_a_redirect_is_not_followed() -> None:
    with OpenAIServer() as other, OpenAIServer(failures=[(302, {"Location": f"{other.url}/chat/completions"})]) as server:
        with pytest.raises(EndpointError, match=f"status 302, redirected to {other.url}"):
            client(server).chat(HELLO)
        assert other.asked == []


def test_requests_leave_apart_and_at_most_so_many_run_at_once() -> None:
    questions = [[{"role": "user", "content": str(i)}] for i in range(6)]
    with OpenAIServer(lambda asked: asked.text) as server:
        one = client(server, requests_per_minute=1200)  # 50 ms apart
        answers = one.map(lambda question: text_of(one.chat(question)), questions)
        assert answers == [str(i) for i in range(6)]  # in order
        assert max(server.times) - min(server.times) > 0.2  # 5 x 50 ms, less what the first one took to arrive
    with OpenAIServer(lambda asked: asked.text, delay_s=0.1) as server:
        one = client(server, max_parallel=3)
        with ThreadPoolExecutor(6) as pool:  # the limit holds for threads of the caller, too
            list(pool.map(one.chat, questions))
        assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("file:///etc/passwd", {}, "is no http or https URL"),
        ("api.openai.com/v1", {}, "is no http or https URL"),
        ("https://user:hunter2@host/v1", {}, "carries a user.*put the key into the environment variable OPENAI_API_KEY"),
        ("https://host/v1?key=1", {}, "a query"),
        ("https://host/v1", {"timeout_s": 0}, "timeout_s is 0; it must be positive"),
        ("https://host/v1", {"requests_per_minute": -1}, "requests_per_minute is -1"),
        ("https://host/v1", {"max_retries": -1}, "max_retries is -1"),
        ("https://host/v1", {"model": ""}, "model is empty"),
    ],
)
def test_bad_arguments_are_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Client(url, **{"model": "m", **options})
    assert "hunter2" not in str(error.value)
