"""Multiple choice by likelihood: prompts letter by letter, scores by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bcaudio.evaluation.benchmark import Absent, Examples, result
from bcaudio.evaluation.corpora.multiple_choice_csv import MultipleChoiceCSV
from bcaudio.evaluation.multiple_choice import MultipleChoice


class Likelihoods:
    """Scores by the last line of the question and the ending; keeps the prompts."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table, self.prompts, self.endings = table, [], []

    def continuation_scores(self, prompts: list[str], endings: list[list[str]]) -> list[list[float]]:
        self.prompts += prompts
        self.endings += endings
        return [next(scores for key, scores in self.table.items() if key in prompt.split("\n\n")[-1]) for prompt in prompts]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "test").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "test/law_test.csv").write_text("What?,This,That,A\n")
    (tmp_path / "dev/us_history_dev.csv").write_text("When?,Then,Now,A\nHow?,So,Thus,B\n")
    (tmp_path / "dev/law_dev.csv").write_text("Why?,Since,For,B\n")
    (tmp_path / "test/us_history_test.csv").write_text('"Who, first?",Ann,Bob,B\n"Where ""now""?",Here,There,A\n')
    return tmp_path


def asked(benchmark: MultipleChoice, system: Any, examples: Examples) -> list[dict[str, Any]]:
    return json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples)))


TABLE: dict[str, list[float]] = {"What": [-1.0, -2.0], "Who": [-2.0, -1.0], "Where": [-3.0, -1.0]}


def test_accuracy_over_all_and_by_subject(corpus: Path, examples: Examples) -> None:
    benchmark = MultipleChoice(MultipleChoiceCSV(corpus, shots=1), name="mmlu")
    outputs = asked(benchmark, Likelihoods(TABLE), examples)
    metrics = benchmark.score(outputs)
    assert {key: (result(metric)["correct"], result(metric)["total"]) for key, metric in metrics.items()} == {
        "mmlu.accuracy": (2, 3), "mmlu.law.accuracy": (1, 1), "mmlu.us_history.accuracy": (1, 2),
    }  # fmt: skip
    assert metrics["mmlu.accuracy"].ids == ["law-00000", "us_history-00000", "us_history-00001"]
    assert [(out["reference"], out["hypothesis"]) for out in outputs[1:]] == [("B. Bob", "B. Bob"), ("A. Here", "B. There")]
    assert isinstance(benchmark.score([])["mmlu.accuracy"], Absent)


def test_the_prompt_shows_worked_examples_and_letters(corpus: Path, examples: Examples) -> None:
    system = Likelihoods(TABLE)
    asked(MultipleChoice(MultipleChoiceCSV(corpus, shots=1, subjects=["us_history"])), system, examples)
    assert system.prompts[1] == (
        "Multiple-choice questions about us history, each followed by its answer.\n\n"
        "Question: When?\nA. Then\nB. Now\nAnswer: A\n\n"
        'Question: Where "now"?\nA. Here\nB. There\nAnswer:'
    )
    assert system.endings == [[" A", " B"], [" A", " B"]]


def test_texts_compete_per_byte_where_choices_are_not_shown(tmp_path: Path, examples: Examples) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "test/agronomy.csv").write_text(",Question,A,B,Answer\n0,牛,草,水草,B\n", encoding="utf-8")
    (tmp_path / "dev/agronomy.csv").write_text(",Question,A,B,Answer\n0,羊,山,水,A\n", encoding="utf-8")
    system = Likelihoods({"牛": [-3.0, -5.0]})
    benchmark = MultipleChoice(MultipleChoiceCSV(tmp_path, "zh", shots=1), by="text")
    outputs = asked(benchmark, system, examples)
    assert system.prompts == ["下面是关于agronomy的单选题，每题之后是它的答案。\n\n问题：羊\n答案：山\n\n问题：牛\n答案："]
    assert system.endings == [["草", "水草"]]
    assert outputs[0]["scores"] == pytest.approx([-1.0, -5 / 6])  # 3 and 6 bytes
    assert result(benchmark.score(outputs)["multiple_choice.accuracy"])["value"] == 1.0


def test_a_tie_is_wrong_and_unknown_ways_are_refused(corpus: Path, examples: Examples) -> None:
    benchmark = MultipleChoice(MultipleChoiceCSV(corpus, subjects=["law"]))
    outputs: Sequence[Any] = asked(benchmark, Likelihoods({"What": [-1.0, -1.0]}), examples)
    assert result(benchmark.score(outputs)["multiple_choice.accuracy"])["value"] == 0.0
    with pytest.raises(ValueError, match="by is 'guess'"):
        MultipleChoice(MultipleChoiceCSV(corpus), by="guess")  # type: ignore[arg-type]
