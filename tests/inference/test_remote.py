"""A system behind a real HTTP server on this machine: what it is asked, what its answers become, and what goes wrong."""

import json
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.inference.openai_client import EndpointError
from bcaudio.inference.remote import PROMPTS, RemoteSystem
from tests.evaluation.openai_server import Asked, OpenAIServer


def item(number: int, *texts: str, level: float = 0.25, **fields: str) -> Item:
    """A clip of one second per text, each at its own level, 0.25, 0.5, ..."""
    spans = tuple(Span(text, float(i), i + 1.0, "user") for i, text in enumerate(texts))
    sound = np.concatenate([np.full(16000, (i + 1) * level, dtype=np.float32) for i in range(len(texts))])
    sample = Sample(f"q-{number}", "x", "test", "en", "", " ".join(texts), spans, duration_s=float(len(texts)), **fields)
    return Item(sample, lambda sample_rate: sound)


def system_at(server: OpenAIServer, **options: object) -> RemoteSystem:
    return RemoteSystem(server.url, "m", **{"max_retries": 0, "check": False, **options})


def heard_level(asked: Asked) -> str:
    return f"{asked.audio[0][0].mean():.2f}" if asked.audio else asked.text


def test_every_item_is_asked_with_its_sound_and_prompt_and_answers_come_in_order() -> None:
    with OpenAIServer(heard_level, delay_s=0.1) as server:
        system = system_at(server, max_parallel=3)
        items = [item(i, "one", level=(i + 1) / 10) for i in range(6)]
        began = time.monotonic()
        assert system.answer_text(items, "asr") == ["0.10", "0.20", "0.30", "0.40", "0.50", "0.60"]
        assert time.monotonic() - began < 0.5, "one after the other it would take 0.6 s"
        assert server.most_at_once == 3
        (sound, sample_rate) = server.asked[0].audio[0]
        assert (len(sound), sample_rate) == (16000, 16000)
        assert server.asked[0].text == PROMPTS["asr"].format(language="English")
        assert server.asked[0].body["temperature"] == 0.0
        system.answer_text([item(9, "one", target_language="zh")], "s2tt")
        assert "into Chinese" in server.asked[-1].text
        assert system.answer_text_from_text([item(9, "one", "two")], "aqa") == [PROMPTS["text.aqa"].format(text="one two")]
        assert server.asked[-1].audio == []


def test_of_several_spans_the_first_is_heard() -> None:
    with OpenAIServer(heard_level) as server:
        assert system_at(server).answer_text([item(0, "one", "two")], "aqa") == ["0.25"]
        assert len(server.asked[0].audio[0][0]) == 16000


def test_no_answer_is_paid_for_twice(tmp_path: Path) -> None:
    with OpenAIServer(heard_level) as server:
        for _ in range(2):
            assert system_at(server, cache=tmp_path).answer_text([item(0, "one")], "asr") == ["0.25"]
        assert len(server.asked) == 1


def test_a_refused_item_is_told_with_the_servers_words_and_the_others_are_kept() -> None:
    def refuse(asked: Asked) -> str:
        return heard_level(asked)

    with OpenAIServer(refuse, failures=deque([(400, {}, "audio too rude")])) as server:
        system = system_at(server, max_parallel=1)
        items = [item(i, "one", level=(i + 1) / 10) for i in range(3)]
        with pytest.raises(ItemError, match=r"q-0: .*status 400, the server says 'audio too rude'") as caught:
            system.answer_text(items, "asr")
        assert caught.value.id == "q-0"
        assert len(server.asked) == 3, "the others were asked all the same"
        assert system.answer_text(items[1:], "asr") == ["0.20", "0.30"]
        with pytest.raises(ItemError, match="audio too rude"):
            system.answer_text(items, "asr")
        assert len(server.asked) == 3, "nobody was asked twice"


def test_an_item_on_which_the_endpoint_breaks_fails_alone_as_long_as_the_endpoint_answers_others() -> None:
    with OpenAIServer(heard_level, failures=deque([500])) as server:
        with pytest.raises(ItemError, match=r"q-0: .*status 500"):
            system_at(server).answer_text([item(0, "one")], "asr")
        assert server.asked[-1].text == "Say yes."


@pytest.mark.parametrize(("failures", "words"), [([500, 500, 500], "status 500"), ([401], "status 401.*OPENAI_API_KEY")])
def test_an_endpoint_that_answers_nobody_stops_the_benchmark(failures: list[int], words: str) -> None:
    with OpenAIServer(failures=deque(failures)) as server, pytest.raises(EndpointError, match=words):
        system_at(server).answer_text([item(0, "one")], "asr")


def test_an_endpoint_that_is_down_is_told_before_anything_is_asked() -> None:
    with OpenAIServer() as server:
        url = server.url
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*no connection"):
        RemoteSystem(url, "m")
    with OpenAIServer(failures=deque([(400, {}, "unknown option max_tokens")])) as server:
        with pytest.raises(EndpointError, match="unknown option max_tokens"):
            RemoteSystem(server.url, "m")
        RemoteSystem(server.url, "m", chat_options={"max_completion_tokens": 4})
        assert server.asked[-1].body["max_completion_tokens"] == 4


def test_speech_comes_from_audio_speech_and_spoken_answers_from_the_chat() -> None:
    with OpenAIServer(heard_level) as server:
        system = system_at(server, voice="echo", speech_model="reader")
        (read,) = system.speak([item(0, "one two")], "tts")
        assert (read.text, read.waveform.shape) == ("one two", (7 * 240,))
        np.testing.assert_allclose(read.waveform, 0.5, atol=1e-3)
        assert (server.asked[-1].path, server.asked[-1].body["voice"], server.asked[-1].body["model"]) == (
            "/audio/speech", "echo", "reader",
        )  # fmt: skip
        (said,) = system.speak([item(0, "one", level=0.5)], "dialogue")
        assert (said.text, said.waveform.shape, said.waveform.dtype) == ("0.50", (4 * 240,), np.float32)
        assert server.asked[-1].body["modalities"] == ["text", "audio"]
        assert said.codes.size == 0


def test_speech_at_another_rate_is_resampled_and_a_server_without_speech_is_not_run() -> None:
    with OpenAIServer(speak=lambda text: (np.full(1600, 0.5, dtype=np.float32), 16000)) as server:
        assert system_at(server).speak([item(0, "a")], "tts")[0].waveform.shape == (2400,)
    with OpenAIServer(failures=deque([404])) as server, pytest.raises(NotRunError, match=r"reads no text aloud.*404"):
        system_at(server).speak([item(0, "a")], "tts")


def test_free_text_is_answered_within_its_limit() -> None:
    with OpenAIServer(lambda asked: asked.text[::-1]) as server:
        assert system_at(server).generate_from_text(["abc", "de"], max_new_tokens=7) == ["cba", "ed"]
        assert server.asked[0].body["max_tokens"] == 7


def test_what_an_endpoint_cannot_do_is_not_run() -> None:
    with OpenAIServer() as server:
        system = system_at(server)
        for ask in (
            lambda: system.choice_scores([item(0, "a")], "text"),
            lambda: system.continuation_scores(["a"], [["b"]]),
            lambda: system.log_likelihoods(["a"]),
            lambda: system.reconstruct([item(0, "a")]),
            lambda: system.use_audio_llm("stage"),
        ):
            with pytest.raises(NotRunError):
                ask()


def test_the_description_holds_prompts_and_options_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with OpenAIServer() as server:
        text = json.dumps(system_at(server, chat_options={"temperature": 0.3}).description)
    assert "sk-very-secret" not in text
    assert '"temperature": 0.3' in text
    assert '"name": "remote-1"' in text
