from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.evaluation.calibration import Calibration, Marked, calibrate, corrected_accuracy, read_calibration
from bcaudio.evaluation.judge import ExactMatch, Question, Verdict


class ErringJudge:
    """Knows the truth (the reference says it) and errs at planted rates."""

    stamp = {"name": "erring", "version": 1}  # noqa: RUF012

    def __init__(self, sensitivity: float, specificity: float, seed: int) -> None:
        self.sensitivity, self.specificity, self.random = sensitivity, specificity, np.random.default_rng(seed)

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        return [Verdict(float(self._says_right(question.references == ("right",))), "") for question in questions]

    def _says_right(self, right: bool) -> bool:
        kept = self.random.random() < (self.sensitivity if right else self.specificity)
        return right if kept else not right


def answers(random: np.random.Generator, count: int, accuracy: float) -> list[Marked]:
    """So many answers, each right by chance."""
    right = random.random(count) < accuracy
    return [Marked(Question(str(i), "?", ("right" if one else "wrong",), "x", "en"), bool(one)) for i, one in enumerate(right)]


@pytest.mark.parametrize(
    ("accuracy", "sensitivity", "specificity", "num_calibration", "num_items"),
    [(0.6, 0.8, 0.95, 150, 500), (0.9, 0.8, 0.95, 200, 300), (0.15, 0.95, 0.7, 100, 1000)],
)
def test_the_interval_covers_the_truth_whatever_the_judges_errors(
    accuracy: float, sensitivity: float, specificity: float, num_calibration: int, num_items: int
) -> None:
    covered, naive = 0, 0
    for seed in range(100):
        random, judge = np.random.default_rng(1000 + seed), ErringJudge(sensitivity, specificity, seed)
        calibration = calibrate(judge, answers(random, num_calibration, 0.5))
        verdicts = judge.judge([item.question for item in answers(random, num_items, accuracy)])
        correct = int(sum(verdict.score or 0.0 for verdict in verdicts))
        value, low, high = corrected_accuracy(correct, num_items, calibration)
        assert 0 <= low <= value <= high <= 1
        covered += low <= accuracy <= high
        share = correct / num_items
        naive += abs(share - accuracy) <= 1.96 * (share * (1 - share) / num_items) ** 0.5
    assert covered >= 90
    assert naive < 60  # the share that the judge reports, with its own interval, does not


def test_figures_of_a_small_table_worked_out_by_hand() -> None:
    calibration = Calibration(true_positives=40, false_negatives=10, true_negatives=45, false_positives=5)
    assert calibration.agreement == 0.85  # 85 / 100
    assert calibration.sensitivity == 0.8
    assert calibration.specificity == 0.9
    # chance: .5 * .45 + .5 * .55 = .5; kappa = (.85 - .5) / .5
    assert calibration.kappa == pytest.approx(0.7)
    # observed .45: (.45 + .9 - 1) / (.8 + .9 - 1) = .5
    value, low, high = corrected_accuracy(90, 200, calibration)
    assert value == pytest.approx(0.5)
    # z^2 = 3.841459: observed' 91.920729 / 203.841459 = .450942; sens' 41 / 52 = .788462; spec' 46 / 52 = .884615;
    # centre (.450942 + .884615 - 1) / .673077 = .498542
    # of_sens .788462 * .211538 / 52 = .00320749; of_spec .884615 * .115385 / 52 = .00196290
    # shift 7.682918 * (.498542 * .00320749 - .501458 * .00196290) = .0047232
    # variance .450942 * .549058 / 203.841459 + .248544 * .00320749 + .251460 * .00196290 = .00250543
    # half 1.959964 * sqrt(.00250543) / .673077 = .145756
    assert (low, high) == pytest.approx((0.498542 + 0.004723 - 0.145756, 0.498542 + 0.004723 + 0.145756), abs=2e-5)


def test_a_perfect_judge_gives_back_about_the_interval_of_the_benchmark_alone() -> None:
    perfect = Calibration(true_positives=10**6, false_negatives=0, true_negatives=10**6, false_positives=0)
    value, low, high = corrected_accuracy(300, 400, perfect)
    assert value == 0.75
    # Agresti and Coull: (300 + 1.9207) / 403.8415 = .747622, half 1.959964 * sqrt(.747622 * .252378 / 403.8415) = .042366
    assert (low, high) == pytest.approx((0.747622 - 0.042366, 0.747622 + 0.042366), abs=1e-4)


def test_a_smaller_calibration_set_widens_the_interval() -> None:
    widths = []
    for times in (1, 4, 16):
        _, low, high = corrected_accuracy(450, 1000, Calibration(40 * times, 10 * times, 45 * times, 5 * times))
        widths.append(high - low)
    assert widths[0] > 1.3 * widths[1] > 1.3 * 1.2 * widths[2]


def test_values_are_clipped() -> None:
    calibration = Calibration(true_positives=45, false_negatives=5, true_negatives=45, false_positives=5)
    assert corrected_accuracy(5, 100, calibration)[:2] == (0.0, 0.0)  # (.05 + .9 - 1) / .8 < 0
    value, _, high = corrected_accuracy(99, 100, calibration)
    assert (value, high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (Calibration(10, 10, 10, 10), r"sensitivity 0\.500 \+ specificity 0\.500 is at most 1.*no accuracy follows"),
        (Calibration(2, 8, 3, 7), "is at most 1"),
        (Calibration(10, 0, 0, 0), "has 10 right and 0 wrong answers with a verdict; it needs both kinds"),
    ],
)
def test_an_undefined_correction_is_refused_with_its_reason(calibration: Calibration, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrected_accuracy(5, 10, calibration)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} of {total} answers"):
        corrected_accuracy(correct, total, Calibration(9, 1, 9, 1))


def test_a_judge_is_calibrated_against_a_file_and_its_failures_are_counted_apart(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"id": "a", "question": "1+1?", "references": ["two"], "hypothesis": "Two!", "human": True},
        {"id": "b", "question": "1+2?", "references": ["three"], "hypothesis": "it is three", "human": True},
        {"id": "c", "question": "1+3?", "references": ["four"], "hypothesis": "five", "human": False},
        {"id": "d", "question": "二加三？", "references": ["五"], "hypothesis": "五。", "human": False, "language": "zh"},
        {"id": "e", "question": "?", "references": ["..."], "hypothesis": "five", "human": False},
    ]
    path = tmp_path / "marked.jsonl"
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    calibration = calibrate(ExactMatch(), read_calibration(path))
    assert calibration.report() == {
        "agreement": 0.5, "kappa": 0.0, "sensitivity": 0.5, "specificity": 0.5, "true_positives": 1, "false_negatives": 1,
        "true_negatives": 1, "false_positives": 1, "failed": 1,
        "stamp": {"name": "exact", "version": 1, "normalizer": "basic-1", "threshold": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"marked.jsonl:2: is no JSON"),
        ("[]", r"marked.jsonl:2: id is no object; it must be a str"),
        (
            '{"id": "b", "question": "?", "references": "x", "hypothesis": "", "human": true}',
            "references is 'x'; it must be a list",
        ),
        ('{"id": "b", "question": "?", "references": [], "hypothesis": "", "human": 1}', "human is 1; it must be a bool"),
        ('{"id": "a", "question": "?", "references": [], "hypothesis": "", "human": true}', "id 'a' is that of line 1 too"),
    ],
)
def test_a_bad_line_of_a_calibration_set_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_text('{"id": "a", "question": "?", "references": ["x"], "hypothesis": "x", "human": true}\n' + line)
    with pytest.raises(ValueError, match=message):
        read_calibration(path)


def test_figures_that_do_not_exist_are_none() -> None:
    nothing = Calibration(0, 0, 0, 0, failed=3)
    assert (nothing.agreement, nothing.kappa, nothing.sensitivity, nothing.specificity) == (None, None, None, None)
    assert Calibration(5, 0, 0, 0).kappa is None  # all right, all called right: chance would agree always
