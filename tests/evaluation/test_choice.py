"""Choices by perplexity: the numbers are set by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Absent, Examples, Item, result
from bcaudio.evaluation.choice import Choice
from bcaudio.evaluation.corpora.story_cloze import ChoiceList

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]


def run(benchmark: Any, system: Any, examples: Examples) -> dict[str, dict[str, Any]]:
    """Items -> outputs -> through JSON, as they are stored -> results."""
    metrics = benchmark.score(json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples))))
    return {key: result(metric) for key, metric in metrics.items()}


def choices(folder: Path, *entries: dict[str, Any]) -> ChoiceList:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return ChoiceList(path)


def test_the_ending_with_the_higher_likelihood_is_taken(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards([sample(key, "s|r|w", roles=("narrator", "right", "wrong")) for key in ("a", "b")])
    results = run(Choice(path), fake_system(scores={"a": (-1.0, -2.0), "b": (-3.0, -2.0)}), examples)
    assert results["choice.text.accuracy"] == {"value": 0.5, "correct": 1, "total": 2}
    assert set(results) == {"choice.text.accuracy", "choice.speech.accuracy"}


def test_four_endings_compete_wherever_the_right_one_stands(tmp_path: Path, fake_system: Any, examples: Examples) -> None:
    entries = [
        {"id": name, "story": "Q?", "endings": ["A", "B", "C", "D"], "right": right}
        for name, right in (("a", 2), ("b", 2), ("c", 0), ("d", 3))
    ]
    scores = {"a": (-3, -2, -1, -4), "b": (-1, -2, -1, -4), "c": (-1, -2, -3, float("nan")), "d": (-4, -4, -4, -3.9)}
    benchmark = Choice(data=choices(tmp_path, *entries), modes=["text"], name="scmmlu")
    system = fake_system(scores=scores)
    outputs = benchmark.ask(system, benchmark.items(), examples)
    assert [(out["reference"], out["hypothesis"]) for out in outputs[:1]] == [("C", "C")]
    metric = benchmark.score(outputs)["scmmlu.text.accuracy"]
    assert metric.ids == ["a", "b", "c", "d"]
    assert metric.rows[:, 0].tolist() == [1, 0, 0, 1]  # a tie and a missing number are wrong
    assert system.asked == [("choice text", name) for name in "abcd"]


def test_statements_without_a_story_are_scored_as_texts_of_their_own(
    tmp_path: Path, fake_system: Any, examples: Examples
) -> None:
    data = choices(
        tmp_path,
        {"id": "whole", "endings": ["cows fly", "cows eat grass"], "right": 1},
        {"id": "told", "story": "Cows", "endings": ["eat", "fly"], "right": 0},
    )
    system = fake_system(scores={"told": (-1.0, -2.0)}, likelihoods={"cows fly": (-6.0, 2, 8), "cows eat grass": (-8.0, 4, 14)})
    benchmark = Choice(data=data, modes=["text"])
    outputs = benchmark.ask(system, benchmark.items(), examples)
    assert [out["log_likelihoods"] for out in outputs] == [[-3.0, -2.0], [-1.0, -2.0]]  # the mean per token
    assert result(benchmark.score(outputs)["choice.text.accuracy"])["value"] == 1.0


def test_an_item_that_a_mode_cannot_use_says_so(sample: Make, shards: Write, tmp_path: Path) -> None:
    heard = sample("heard", "s|r|w", roles=("narrator", "right", "wrong"))
    broken = sample("broken", "s|r|r", roles=("narrator", "right", "right"))
    items = Choice(shards([heard, broken]), modes=["text", "speech", "speech_to_speech"]).items()
    assert [bool(item.problem) for item in sorted(items, key=lambda item: item.id)] == [True, False]
    assert "2 right and 0 wrong" in next(item.problem for item in items if item.id == "broken")

    whole = {"id": "whole", "endings": ["a b", "c d"], "right": 1}
    told = {"id": "told", "story": "S", "endings": ["a b", "c d"], "right": 1}
    data = choices(tmp_path, whole, told)
    assert [item.problem for item in Choice(data=data, modes=["text"]).items()] == ["", ""]
    with pytest.raises(ValueError, match="none of the 2 items can be asked, whole for one: mode speech hears what comes before"):
        Choice(data=data, modes=["speech"]).items()
    data = choices(tmp_path, {**told, "story": ""}, {**told, "id": "silent", "endings": ["", ""]})
    with pytest.raises(ValueError, match="its text is not given"):
        Choice(data=data, modes=["text"]).items()


def test_the_corpus_own_problem_stays(tmp_path: Path) -> None:
    class Corpus:
        def items(self, where: str) -> list[Item]:
            good, bad = choices(tmp_path, *({"id": key, "story": "S", "endings": ["b", "c"], "right": 0} for key in "ab")).items(
                "x"
            )
            return [good, replace(bad, problem="missing audio: b.wav")]

    assert [item.problem for item in Choice(data=Corpus(), modes=["text"]).items()] == ["", "missing audio: b.wav"]


def test_what_has_no_sound_cannot_be_heard(tmp_path: Path) -> None:
    class Corpus:
        def items(self, where: str) -> list[Item]:
            return [Item(choices(tmp_path, {"id": "a", "story": "S", "endings": ["b", "c"], "right": 0}).items("x")[0].sample)]

    with pytest.raises(ValueError, match="mode speech needs its sound, but it has none"):
        Choice(data=Corpus(), modes=["speech"]).items()


def test_a_mode_that_was_not_asked_is_absent_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    data = choices(tmp_path, {"id": "a", "story": "S", "endings": ["b", "c"], "right": 0})
    assert isinstance(Choice(data=data, modes=["text"]).score([])["choice.text.accuracy"], Absent)
    for modes in (["aloud"], []):
        with pytest.raises(ValueError, match="modes"):
            Choice(data=data, modes=modes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either shards"):
        Choice("x.tar", data=data)
