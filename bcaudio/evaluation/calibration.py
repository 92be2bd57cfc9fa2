"""How far a judge can be trusted: its verdicts beside those of people, and what that makes of the accuracy it reports.

A calibration set is a JSONL file, one answer per line, drawn from the same kind of questions and systems as the benchmark:

    {"id": "web-17", "question": "...", "references": ["..."], "hypothesis": "...", "language": "en", "human": true}

`human` is what people decided; `language` is `en` where it is left out. Both kinds are needed: right answers show the judge's
sensitivity, wrong ones its specificity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from bcaudio.evaluation.judge import Judge, Question

_NEEDED = {"id": str, "question": str, "references": list, "hypothesis": str, "human": bool}


@dataclass(frozen=True)
class Marked:
    """An answer and what people decided."""

    question: Question
    human: bool


@dataclass(frozen=True)
class Calibration:
    """A judge beside people.

    Args:
        true_positives, false_negatives: right answers (by people) that the judge calls right, wrong.
        true_negatives, false_positives: wrong answers that the judge calls wrong, right.
        failed: answers without a verdict; they enter no figure.
        stamp: of the judge, and the threshold.
    """

    true_positives: int
    false_negatives: int
    true_negatives: int
    false_positives: int
    failed: int = 0
    stamp: dict[str, Any] = field(default_factory=dict)

    @property
    def num_right(self) -> int:
        """Answers with a verdict that are right by people."""
        return self.true_positives + self.false_negatives

    @property
    def num_wrong(self) -> int:
        """Answers with a verdict that are wrong by people."""
        return self.true_negatives + self.false_positives

    @property
    def agreement(self) -> float | None:
        """Share of equal decisions; None without any."""
        return _ratio(self.true_positives + self.true_negatives, self.num_right + self.num_wrong)

    @property
    def sensitivity(self) -> float | None:
        """Share of right answers that the judge calls right; None without right answers."""
        return _ratio(self.true_positives, self.num_right)

    @property
    def specificity(self) -> float | None:
        """Share of wrong answers that the judge calls wrong; None without wrong answers."""
        return _ratio(self.true_negatives, self.num_wrong)

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa, agreement beyond chance; None where chance alone would agree always."""
        total = self.num_right + self.num_wrong
        said_right = self.true_positives + self.false_positives
        chance = self.num_right * said_right + self.num_wrong * (total - said_right)  # / total ** 2
        if chance == total**2:
            return None
        return (total * (self.true_positives + self.true_negatives) - chance) / (total**2 - chance)

    def report(self) -> dict[str, Any]:
        """All figures, counts and the stamp, for JSON."""
        counts = ("true_positives", "false_negatives", "true_negatives", "false_positives", "failed")
        figures = ("agreement", "kappa", "sensitivity", "specificity")
        return {name: getattr(self, name) for name in (*figures, *counts)} | {"stamp": self.stamp}


def read_calibration(path: str | Path) -> list[Marked]:
    """The answers of a calibration set; ValueError naming file and line of what is not in the form above."""
    found: list[Marked] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: is no JSON ({error}); write one object per line") from error
        for name, kind in _NEEDED.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
                value = repr(entry.get(name)) if isinstance(entry, dict) else "no object"
                raise ValueError(f"{path}:{number}: {name} is {value}; it must be a {kind.__name__}")
        if entry["id"] in seen:
            raise ValueError(f"{path}:{number}: id {entry['id']!r} is that of line {seen[entry['id']]} too; give each its own")
        seen[entry["id"]] = number
        texts = tuple(str(text) for text in entry["references"])
        question = Question(entry["id"], entry["question"], texts, entry["hypothesis"], entry.get("language", "en"))
        found.append(Marked(question, entry["human"]))
    if not found:
        raise ValueError(f"{path}: holds no answers; write one JSON object per line")
    return found


def calibrate(judge: Judge, items: Sequence[Marked], threshold: float = 0.5) -> Calibration:
    """Asks a judge what people have decided already; a score of at least `threshold` says right."""
    verdicts = judge.judge([item.question for item in items])
    pairs = [(item.human, verdict.score) for item, verdict in zip(items, verdicts, strict=True)]
    said = [(human, score >= threshold) for human, score in pairs if score is not None]
    return Calibration(
        true_positives=said.count((True, True)),
        false_negatives=said.count((True, False)),
        true_negatives=said.count((False, False)),
        false_positives=said.count((False, True)),
        failed=len(pairs) - len(said),
        stamp={**judge.stamp, "threshold": threshold},
    )


def corrected_accuracy(correct: int, total: int, calibration: Calibration, level: float = 0.95) -> tuple[float, float, float]:
    """The accuracy that people would find, from `correct` of `total` answers that the judge calls right: (value, low, high).

    The value is Rogan and Gladen's (1978): (observed + specificity - 1) / (sensitivity + specificity - 1). The interval is that
    of Lang and Reiczigel (2014, Preventive Veterinary Medicine 113), widened to hold the value: it takes into account that the
    benchmark and both halves of the calibration set are samples. All three are clipped to [0, 1]. It assumes that the judge errs
    on the benchmark as it does on the calibration set.

    Raises:
        ValueError: the counts are impossible, or the correction is undefined: the calibration set lacks right or wrong answers,
            or sensitivity + specificity <= 1 (the judge does no better than one that never looks at the answer, so its verdicts
            say nothing about the accuracy).
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"corrected accuracy: {correct} of {total} answers are right; give 0 <= correct <= total and total > 0")
    if not 0 < level < 1:
        raise ValueError(f"corrected accuracy: level is {level}; it must lie between 0 and 1")
    right, wrong = calibration.num_right, calibration.num_wrong
    sensitivity, specificity = calibration.sensitivity, calibration.specificity
    if sensitivity is None or specificity is None:
        raise ValueError(
            f"corrected accuracy: the calibration set has {right} right and {wrong} wrong answers with a verdict; "
            "it needs both kinds, so add answers that people have marked"
        )
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"corrected accuracy: sensitivity {sensitivity:.3f} + specificity {specificity:.3f} is at most 1: the judge does no "
            "better than one that never looks at the answer, so no accuracy follows from its verdicts; take another judge"
        )
    value = (correct / total + specificity - 1) / (sensitivity + specificity - 1)

    z = NormalDist().inv_cdf((1 + level) / 2)
    # as if z^2 more answers had been seen, half of them right, and two more of each kind in calibration, one of them misjudged
    n, n_right, n_wrong = total + z**2, right + 2, wrong + 2
    observed = (correct + z**2 / 2) / n
    sens, spec = (calibration.true_positives + 1) / n_right, (calibration.true_negatives + 1) / n_wrong
    youden = sens + spec - 1
    if youden <= 0:
        return _clip(value), 0.0, 1.0
    centre = (observed + spec - 1) / youden
    of_sens, of_spec = sens * (1 - sens) / n_right, spec * (1 - spec) / n_wrong
    shift = 2 * z**2 * (centre * of_sens - (1 - centre) * of_spec)
    variance = observed * (1 - observed) / n + centre**2 * of_sens + (1 - centre) ** 2 * of_spec
    half = z * math.sqrt(variance) / youden
    low, high = centre + shift - half, centre + shift + half
    return _clip(value), _clip(min(low, value)), _clip(max(high, value))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
