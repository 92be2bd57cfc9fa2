"""Text questions and translations, exact match."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Examples, result
from bcaudio.evaluation.retention import Retention

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]


def test_retention_takes_both_tasks_of_text_and_keeps_their_counts(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards(
        [
            sample("a", "one plus one", answer="two"),
            sample("b", "one plus two", answer="three"),
            sample("c", "five", translation="五", target_language="zh"),
            sample("d", "six"),
        ]
    )
    benchmark = Retention(path, "stage1", audio_llm="runs/x/stage1")
    system = fake_system(texts={"a": "two", "b": "four", "c": "五"})
    outputs = json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples)))
    entry = result(benchmark.score(outputs)["retention.text_accuracy.stage1"])
    assert entry["value"] == 2 / 3
    assert (entry["correct_aqa"], entry["total_aqa"], entry["correct_s2tt"], entry["total_s2tt"]) == (1, 2, 1, 1)
    assert (entry["correct_en"], entry["total_en"], entry["correct_zh"], entry["total_zh"]) == (1, 2, 1, 1)
    assert benchmark.audio_llm == "runs/x/stage1"
    assert system.asked == [("text aqa", "a"), ("text aqa", "b"), ("text s2tt", "c")]


def test_a_sample_of_both_tasks_is_counted_twice_under_two_names(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards(
        [sample("a", "one plus one", answer="two", translation="二", target_language="zh"), sample("b", "x", answer="y")]
    )
    benchmark = Retention(path, "llm")
    outputs = benchmark.ask(fake_system(texts={"a": "two", "b": "y"}), benchmark.items(), examples)
    metric = benchmark.score(outputs)["retention.text_accuracy.llm"]
    assert metric.ids == ["a aqa", "b aqa", "a s2tt"]
    assert metric.rows[:, 0].tolist() == [1, 1, 0]


def test_a_task_that_no_sample_serves_is_refused(sample: Make, shards: Write) -> None:
    with pytest.raises(ValueError, match=r"retention\.llm: none of the 1 samples serves the task s2tt"):
        Retention(shards([sample("a", "one plus one", answer="two")]), "llm").items()
