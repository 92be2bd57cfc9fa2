from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Absent, Examples, Item
from bcaudio.evaluation.latency import Latency, first_sounds, question_of
from bcaudio.inference.remote import RemoteSystem
from bcaudio.inference.system import System
from tests.evaluation.openai_server import OpenAIServer
from tests.inference.conftest import run_dir  # noqa: F401 (a fixture)

Make = Callable[..., Sample]


@pytest.fixture
def question(sample: Make) -> Item:
    noise = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    return Item(sample("q", "one", roles=("user",), duration_s=1.5), lambda rate: noise[: round(1.5 * rate)])


@pytest.fixture
def system(run_dir: Path) -> System:  # noqa: F811
    return System.of_run(run_dir, max_frames=8)


def test_a_real_system_is_timed_step_by_step_and_in_this_order(
    question: Item,
    corpus: Any,
    system: System,
    examples: Examples,
) -> None:
    benchmark = Latency(data=corpus(question))
    (output,) = benchmark.ask(system, benchmark.items(), examples)
    assert 0 < output["first_text_token_s"] <= output["text_s"] < output["first_audio_frame_s"]
    assert output["text_s"] < output["whole_answer_s"]
    assert output["conditions"] == {"batch": 1, "threads": torch.get_num_threads(), "device": "cpu"}
    sound = output["duration_s"]
    assert sound > 0
    assert output["speech_real_time_factor"] == sound / (output["whole_answer_s"] - output["text_s"])
    assert output["text"] == system.speak([question_of(question)], "dialogue")[0].text


def test_the_timed_steps_are_those_of_the_systems_own_answer(
    question: Item,
    system: System,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[Any] = []
    start = system.generator.start
    monkeypatch.setattr(system.generator, "start", lambda prompts: states.append(start(prompts)) or states[-1])
    alone = question_of(question)
    first_sounds(system, alone, "dialogue")
    answer = system.speak([alone], "dialogue")[0]
    timed, asked, _ = states  # the timed loop; the system's own text, then its speech
    special = system.text_tokenizer.special
    # the same text to its last token, whose place audiogen_start takes, and one frame
    assert timed.ids[0] == [*asked.ids[0][:-1], special.audiogen_start, special.audio_pad]
    assert len(answer.codes) == 8


def test_a_written_answer_has_no_speech_figures(
    question: Item,
    corpus: Any,
    system: System,
    examples: Examples,
) -> None:
    benchmark = Latency(data=corpus(question), spoken=False)
    outputs = benchmark.ask(system, benchmark.items(), examples)
    metrics = benchmark.score(outputs)
    assert {key.removeprefix("latency.") for key, metric in metrics.items() if not isinstance(metric, Absent)} == {
        "first_text_token_s", "text_s", "whole_answer_s",
    }  # fmt: skip


def test_the_question_is_the_first_span_alone_without_codes(sample: Make) -> None:
    codes = {"codes": np.zeros((5, 2), np.int16), "span_num_codes": (2, 3)}
    spoken = sample("a", "two words|answer", roles=("user", "assistant"), duration_s=0.5, **codes)
    alone = question_of(Item(spoken, lambda rate: np.arange(rate // 2, dtype=np.float32)))
    assert (alone.sample.text, len(alone.sample.spans), alone.sample.codes, alone.sample.duration_s) == (
        "two words",
        1,
        None,
        0.25,
    )
    assert alone.waveform(16000).tolist() == list(range(4000))


def test_means_percentiles_and_conditions_by_hand() -> None:
    outputs = [
        {"id": f"k{i}", "whole_answer_s": wait, "conditions": {"batch": 1, "threads": threads, "device": "cpu"}}
        for i, (wait, threads) in enumerate([(1.0, 2), (2.0, 2), (3.0, 1), (4.0, 2), (10.0, 2)])
    ]
    metrics = Latency("x.tar").score(outputs)
    report = metrics["latency.whole_answer_s"].report()
    assert report["whole_answer_s"] == 4.0
    assert (report["p50"], report["p95"]) == (3.0, pytest.approx(8.8))  # 4 + 0.8 * 6
    assert (report["threads"], report["batch"], report["unit"]) == ([1, 2], 1, "s")
    assert metrics["latency.whole_answer_s"].higher_is_better is False
    assert isinstance(metrics["latency.first_text_token_s"], Absent)


def test_a_system_that_is_not_local_tells_the_whole_answer_once(
    question: Item, corpus: Any, fake_system: Any, examples: Examples
) -> None:
    system, benchmark = fake_system(texts={"q": "two"}, levels={"q": 1}), Latency(data=corpus(question))
    (output,) = benchmark.ask(system, benchmark.items(), examples)
    assert system.asked == [("dialogue", "q")]
    assert (output["duration_s"], output["text"]) == (0.5, "two")
    assert not {"first_text_token_s", "speech_real_time_factor"} & output.keys()


def test_an_endpoint_is_really_asked_although_it_keeps_its_answers(question: Item, corpus: Any, examples: Examples) -> None:
    with OpenAIServer(delay_s=0.05) as server:
        system = RemoteSystem(server.url, "m", check=False)
        cache, benchmark = system.client.cache, Latency(data=corpus(question), spoken=False)
        outputs = [benchmark.ask(system, benchmark.items(), examples)[0] for _ in range(2)]
        assert len(server.asked) == 2
        assert min(output["whole_answer_s"] for output in outputs) >= 0.05
        assert system.client.cache == cache is not None
