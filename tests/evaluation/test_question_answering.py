"""Questions, judged: the verdicts are worked out by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.audio.io import read_audio
from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Absent, Examples, Item, NotRunError, Scoring, result
from bcaudio.evaluation.judge import Contains, Question, Verdict
from bcaudio.evaluation.question_answering import QuestionAnswering
from bcaudio.text.normalize import normalizer

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]


class Listed:
    """A corpus of the given items."""

    def __init__(self, *items: Item) -> None:
        self.given = list(items)

    def items(self, where: str) -> list[Item]:
        return self.given


class Oracle:
    """Says what `table` holds for a hypothesis; anything else is nonsense. Counts what it was asked."""

    def __init__(self, table: dict[str, float]) -> None:
        self.table, self.asked = table, []
        self.stamp = {"name": "oracle"}

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        self.asked += list(questions)
        return [
            Verdict(self.table[one.hypothesis], "") if one.hypothesis in self.table else Verdict(None, "", "bananas")
            for one in questions
        ]


def outputs_of(benchmark: Any, system: Any, examples: Examples) -> list[dict[str, Any]]:
    return json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples)))


def run(benchmark: Any, system: Any, examples: Examples, scoring: Scoring = Scoring()) -> dict[str, dict[str, Any]]:
    metrics = benchmark.score(outputs_of(benchmark, system, examples), scoring)
    return {key: result(metric) for key, metric in metrics.items()}


def test_questions_are_read_heard_and_answered_aloud(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    spoken = [
        sample("a", "one plus one|two", roles=("user", "assistant"), answer="two"),
        sample("b", "一加二|三", "zh", ("user", "assistant")),
    ]
    path = shards(spoken)
    system = fake_system(texts={"a": "Two.", "b": "四"}, levels={"a": 3, "b": 4}, heard={3: "too", 4: "三"})
    results = run(QuestionAnswering(path, ["text", "speech_to_text", "speech_to_speech"]), system, examples)
    assert {key: entry["value"] for key, entry in results.items()} == {
        "aqa.text.accuracy": 0.5,
        "aqa.speech_to_text.accuracy": 0.5,
        "aqa.speech_to_speech.accuracy": 0.5,
        "aqa.speech_to_speech.text_accuracy": 0.5,
    }
    entry = results["aqa.speech_to_speech.accuracy"]
    assert entry.pop("judge") == {"name": "exact", "version": 1, "normalizer": "basic-1"}
    assert entry.pop("recognizer")["name"] == "auditor"
    assert entry == {"value": 0.5, "correct": 1, "total": 2, "correct_en": 0, "total_en": 1, "correct_zh": 1, "total_zh": 1}
    assert "recognizer" not in results["aqa.speech_to_speech.text_accuracy"]
    assert [task for task, _ in system.asked] == ["text aqa"] * 2 + ["aqa"] * 2 + ["dialogue"] * 2
    assert examples.found["audio"][0] | {"players": 0} == {
        "key": "a", "title": "question: one plus one", "text": "Two.", "heard": "too", "expected": "two", "players": 0,
    }  # fmt: skip
    assert (examples.root / examples.found["audio"][1]["players"][0]["file"]).is_file()
    with pytest.raises(ValueError, match="modes"):
        QuestionAnswering(path, ["aloud"])  # type: ignore[list-item]


def test_every_spoken_answer_is_kept_and_silence_has_none(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shards([sample(key, "q", roles=("user",), answer="two") for key in "abcd"])
    system = fake_system(levels=dict(zip("abcd", (1, 2, 3, 4), strict=True)), heard={1: "two", 2: "two", 3: "x"})
    spoken = system.speak
    monkeypatch.setattr(system, "speak", lambda items, task: [*spoken(items[:3], task), *spoken(items[3:], task)])
    answers = spoken(QuestionAnswering(path).items(), "dialogue")
    answers[3].waveform = np.zeros(0, dtype=np.float32)
    monkeypatch.setattr(system, "speak", lambda items, task: answers)
    outputs = outputs_of(QuestionAnswering(path, ["speech_to_speech"]), system, examples)
    assert [out["hypothesis"] for out in outputs] == ["two", "two", "x", ""]
    assert [read_audio(examples.root / out["audio"], 24000).mean().round(2) for out in outputs[:3]] == [0.1, 0.2, 0.3]
    assert "audio" not in outputs[3]  # and more than the two examples are there
    assert len(examples.found["audio"]) == 2


def test_spoken_answers_need_ears(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    path = shards([sample("a", "q", roles=("user",), answer="two")])
    with pytest.raises(NotRunError, match="no auditor"):
        outputs_of(QuestionAnswering(path, ["speech_to_speech"]), fake_system(levels={"a": 1}), examples)

    class Ear:
        name, stamp = "ear", {"name": "ear"}

        def of(self, system: Any) -> "Ear":
            return self

        def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
            return [f"{language} {sample_rate} {wave.mean():.1f}" for wave in waveforms]

    benchmark = QuestionAnswering(path, ["speech_to_speech"], recognizer=Ear())
    outputs = outputs_of(benchmark, fake_system(levels={"a": 1}), examples)
    assert (outputs[0]["hypothesis"], outputs[0]["recognizer"]) == ("en 24000 0.1", {"name": "ear"})


def test_any_of_several_references_is_right(sample: Make, fake_system: Any, examples: Examples) -> None:
    items = [
        Item(sample("a", "who?", answer="jfk"), fields={"references": ["JFK", "John F. Kennedy"]}),
        Item(sample("b", "who?", answer="jfk"), fields={"references": ["JFK", "Kennedy"]}),
    ]
    system = fake_system(texts={"a": "john f kennedy", "b": "it was Kennedy"})
    benchmark = QuestionAnswering(data=Listed(*items), modes=["speech_to_text"], name="trivia")
    assert run(benchmark, system, examples)["trivia.speech_to_text.accuracy"]["correct"] == 1
    contains = QuestionAnswering(data=Listed(*items), modes=["speech_to_text"], judge=Contains())
    assert run(contains, system, examples)["aqa.speech_to_text.accuracy"]["correct"] == 2


def test_an_item_without_a_right_answer_is_not_asked(sample: Make) -> None:
    items = QuestionAnswering(data=Listed(Item(sample("a", "q", answer="x")), Item(sample("b", "q", answer="?!")))).items()
    assert [item.problem[:15] for item in items] == ["", "empty reference"]
    assert QuestionAnswering(data=Listed(Item(sample("a", "q", answer="x"), problem="missing"))).items()[0].problem == "missing"


def test_the_scoring_says_how_texts_are_compared_and_who_judges(sample: Make, fake_system: Any, examples: Examples) -> None:
    benchmark = QuestionAnswering(data=Listed(Item(sample("a", "q", answer="Two"))), modes=["text"])
    system = fake_system(texts={"a": "two!"})
    assert run(benchmark, system, examples)["aqa.text.accuracy"]["value"] == 1.0
    strict = run(benchmark, system, examples, Scoring(normalizer("verbatim-1")))["aqa.text.accuracy"]
    assert (strict["value"], strict["judge"]["normalizer"]) == (0.0, "verbatim-1")
    other = Oracle({"two!": 0.25})
    found = run(benchmark, system, examples, Scoring(judge=other))["aqa.text.accuracy"]
    assert (found["value"], found["correct_en"], found["judge"]) == (0.25, 0.25, {"name": "oracle"})
    owned = QuestionAnswering(data=benchmark.corpus, modes=["text"], judge=Oracle({"two!": 0.0}))
    assert run(owned, system, examples, Scoring(judge=other))["aqa.text.accuracy"]["value"] == 0.25
    assert run(owned, system, examples)["aqa.text.accuracy"]["value"] == 0.0


def test_a_judge_that_answers_nonsense_makes_failures_and_no_wrong_answers(
    sample: Make, fake_system: Any, examples: Examples
) -> None:
    judge = Oracle({"yes": 1.0, "no": 0.0})
    data = Listed(*(Item(sample(key, "q", answer="x")) for key in "abcd"))
    benchmark = QuestionAnswering(data=data, modes=["text"], judge=judge)
    outputs = outputs_of(benchmark, fake_system(texts={"a": "yes", "b": "hm", "c": "no", "d": "er"}), examples)
    metric = benchmark.score(outputs)["aqa.text.accuracy"]
    found = result(metric)
    assert (found["value"], found["correct"], found["total"]) == (0.5, 1, 2)
    assert (found["num_failed"], found["failed"]) == (2, ["b: bananas", "d: bananas"])
    assert found["note"] == "2 of 4 had no verdict"
    assert metric.ids == ["a", "c"]
    assert benchmark.judge is judge
    only = benchmark.score([out for out in outputs if out["id"] in "bd"])["aqa.text.accuracy"]
    assert only == Absent("2 of 2 had no verdict; b: bananas; d: bananas")


def test_a_question_is_judged_once_however_often_it_is_scored(sample: Make, fake_system: Any, examples: Examples) -> None:
    judge = Oracle({"yes": 1.0})
    benchmark = QuestionAnswering(data=Listed(*(Item(sample(key, "q", answer="x")) for key in "ab")), modes=["text"], judge=judge)
    outputs = outputs_of(benchmark, fake_system(texts={"a": "yes", "b": "yes"}), examples)
    first, second = (result(benchmark.score(outputs)["aqa.text.accuracy"]) for _ in range(2))
    assert first == second
    assert [one.id for one in judge.asked] == ["a", "b"]
    changed = [{**outputs[0], "hypothesis": "hm"}, outputs[1]]
    assert result(benchmark.score(changed)["aqa.text.accuracy"])["num_failed"] == 1


def test_accuracy_is_corrected_by_answers_that_people_have_marked(
    sample: Make, fake_system: Any, examples: Examples, tmp_path: Path
) -> None:
    marked = [(said, human) for said, human in zip("YYYNYNNN", [True] * 4 + [False] * 4, strict=True)]  # 3 of 4 right both ways
    lines = [
        {"id": f"m{i}", "question": "q", "references": ["r"], "hypothesis": h, "human": y} for i, (h, y) in enumerate(marked)
    ]
    (tmp_path / "marked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = [Item(sample(key, "q", roles=("user",), answer="r")) for key in "abcd"]
    judge, system = Oracle({"Y": 1.0, "N": 0.0}), fake_system(texts={"a": "Y", "b": "Y", "c": "N", "d": "?"})
    made = QuestionAnswering(modes=["text"], data=Listed(*items), judge=judge, calibration=str(tmp_path / "marked.jsonl"))
    entry = run(made, system, examples)["aqa.text.accuracy"]
    assert entry["value"] == pytest.approx(2 / 3)
    assert {key: entry["calibration"][key] for key in ("kappa", "sensitivity", "specificity", "true_positives")} == {
        "kappa": 0.5, "sensitivity": 0.75, "specificity": 0.75, "true_positives": 3,
    }  # fmt: skip
    assert entry["corrected"]["value"] == pytest.approx((2 / 3 + 0.75 - 1) / 0.5)
    low, high = entry["corrected"]["ci"]
    assert 0 <= low < entry["corrected"]["value"] <= high <= 1
    assert entry["note"].startswith("1 of 4 had no verdict; corrected for the judge's errors: 0.8333 [")
    system.texts = {"a": "Y", "b": "Y", "c": "N", "d": "N"}
    run(made, system, examples)
    assert sum(question.id.startswith("m") for question in judge.asked) == 8  # the marked answers were judged once

    (tmp_path / "marked.jsonl").write_text("".join(json.dumps(line | {"human": True}) + "\n" for line in lines))
    made = QuestionAnswering(modes=["text"], data=Listed(*items), judge=judge, calibration=str(tmp_path / "marked.jsonl"))
    entry = run(made, system, examples)["aqa.text.accuracy"]
    assert "corrected" not in entry
    assert "it needs both kinds" in entry["note"]
