"""Marks of a judge: means worked out by hand."""

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Absent, Examples, Item, Scoring, result
from bcaudio.evaluation.judge import Question, Verdict
from bcaudio.evaluation.open_ended import OpenEnded

Make = Callable[..., Sample]


class Marks:
    """Gives the mark that the answer names; anything else is nonsense."""

    def __init__(self, scale: int | None = 10) -> None:
        self.prompt, self.stamp = SimpleNamespace(name="marks", scale=scale), {"name": "marks"}
        self.asked: list[Question] = []

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        self.asked += list(questions)
        marks = [int(one.hypothesis) / (self.prompt.scale or 1) if one.hypothesis.isdigit() else None for one in questions]
        return [Verdict(mark, "", "" if mark is not None else f"bananas {i}") for i, mark in enumerate(marks)]


class Listed:
    def __init__(self, *items: Item) -> None:
        self.given = list(items)

    def items(self, where: str) -> list[Item]:
        return self.given


def outputs_of(benchmark: Any, system: Any, examples: Examples) -> list[dict[str, Any]]:
    return json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples)))


def test_the_score_is_the_mean_mark_and_nonsense_is_no_mark(sample: Make, fake_system: Any, examples: Examples) -> None:
    data = Listed(*(Item(sample(key, f"tell {key}", roles=("user",))) for key in "abcd"))
    judge = Marks()
    benchmark = OpenEnded(data=data, judge=judge, name="alpaca")
    outputs = outputs_of(benchmark, fake_system(texts={"a": "7", "b": "10", "c": "well", "d": "1"}), examples)
    metric = benchmark.score(outputs)["alpaca.speech_to_text.score"]
    found = result(metric)
    assert found["value"] == pytest.approx(6.0, abs=1e-9)
    assert (found["unit"], found["n"], found["num_failed"], found["failed"]) == ("of 10", 3, 1, ["c: bananas 2"])
    assert (found["judge"], metric.ids, metric.higher_is_better) == ({"name": "marks"}, ["a", "b", "d"], True)
    assert judge.asked[0] == Question("a", "tell a", (), "7", "en")


def test_the_scale_is_the_judges(sample: Make, fake_system: Any, examples: Examples) -> None:
    benchmark = OpenEnded(data=Listed(Item(sample("a", "q"))), judge=Marks(5), modes=["text"])
    outputs = outputs_of(benchmark, fake_system(texts={"a": "4"}), examples)
    assert result(benchmark.score(outputs)["open_ended.text.score"])["value"] == pytest.approx(4.0)
    assert result(benchmark.score(outputs, Scoring(judge=Marks(8)))["open_ended.text.score"])["unit"] == "of 8"
    with pytest.raises(ValueError, match="asks for yes or no"):
        benchmark.score(outputs, Scoring(judge=Marks(None)))


def test_a_spoken_answer_is_marked_as_heard_and_as_written(sample: Make, fake_system: Any, examples: Examples) -> None:
    benchmark = OpenEnded(data=Listed(Item(sample("a", "q"))), judge=Marks(), modes=["speech_to_speech"])
    outputs = outputs_of(benchmark, fake_system(texts={"a": "9"}, levels={"a": 2}, heard={2: "3"}), examples)
    found = {key: result(metric)["value"] for key, metric in benchmark.score(outputs).items()}
    assert found == {
        "open_ended.speech_to_speech.score": pytest.approx(3),
        "open_ended.speech_to_speech.text_score": pytest.approx(9),
    }


def test_it_is_refused_without_a_judge_that_gives_marks() -> None:
    with pytest.raises(ValueError, match="need a judge; name one under `judge`"):
        OpenEnded(data=Listed())
    with pytest.raises(ValueError, match="asks for yes or no, not for marks; name open-ended-1"):
        OpenEnded(data=Listed(), judge=Marks(None))


def test_no_mark_at_all_is_absent(sample: Make, fake_system: Any, examples: Examples) -> None:
    benchmark = OpenEnded(data=Listed(Item(sample("a", "q"))), judge=Marks())
    outputs = outputs_of(benchmark, fake_system(texts={"a": "well"}), examples)
    assert benchmark.score(outputs)["open_ended.speech_to_text.score"] == Absent("1 of 1 had no verdict; a: bananas 0")
