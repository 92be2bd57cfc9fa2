"""Word, character and mixed error rate from summed edit counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np

from bcaudio.metrics.counting import CountingMetric, divide
from bcaudio.text.normalize import DEFAULT, Normalizer, base_language, covers, normalizer

MIXED = "mixed"
# written without spaces between words
CHARACTER_LANGUAGES = frozenset(("zh", "cmn", "yue", "wuu", "nan", "hak", "lzh", "ja", "th", "lo", "my", "km"))
UNIT_NAMES = {"wer": "words", "cer": "characters", "mer": "units"}


def _as_given(units: list[list[str]]) -> list[list[str]]:
    """For jiwer: the units are there already."""
    return units


class ErrorRate(CountingMetric):
    """(substitutions + deletions + insertions) / reference units over a corpus (arXiv 2502.17239, section 4; edits by jiwer).

    The units are characters where words are not parted by spaces (zh, yue, ja, th, ...: value `cer`), characters for hanzi and
    words else in `mixed` text (`mer`), words in any other language (`wer`). The normaliser's name is stamped on every report.

    Args:
        language: a code that the normaliser has rules for, or `mixed`.
        normalizer: the form in which the texts are compared; `basic-1` by default.

    Raises:
        ValueError: no language code, or none that the normaliser has rules for.
    """

    higher_is_better = False
    counted = "utterance"
    statistics = ("substitutions", "deletions", "insertions", "reference_units")

    def __init__(self, language: str, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        self.language, self.normalizer = language, _default() if normalizer is None else normalizer
        self.unit_language = "zh" if language == MIXED else language  # the units of zh already leave Latin words whole
        base_language(self.unit_language)  # refuses what is no language code
        if not covers(self.normalizer, self.unit_language):
            known = ", ".join(self.normalizer.languages or ())
            raise ValueError(f"ErrorRate: {self.normalizer.name} has no rules for language {language!r}, only for {known}")

    @property
    def name(self) -> str:
        """`wer`, `cer` or `mer`."""
        if self.language == MIXED:
            return "mer"
        return "cer" if base_language(self.language) in CHARACTER_LANGUAGES else "wer"

    def units(self, text: str) -> list[str]:
        """The normalised units of a text, as they are counted."""
        return self.normalizer.units(text, self.unit_language)

    def update(self, hypotheses: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Adds the edits of each hypothesis against its reference; ValueError naming the id of an empty reference."""
        self._check_pairs(hypotheses=hypotheses, references=references, ids=ids)
        if not references:
            return
        right = [self.units(text) for text in references]
        for item, units, text in zip(ids, right, references, strict=True):
            if not units:
                raise ValueError(
                    f"{item}: the reference {text!r} is empty after normalisation ({self.normalizer.name}, {self.language}); "
                    "an error rate needs reference units, so drop the item or correct its transcript"
                )
        edits = jiwer.process_words(right, [self.units(text) for text in hypotheses], _as_given, _as_given)
        rows = np.empty((len(right), len(self.statistics)), np.int64)
        for row, alignment, units in zip(rows, edits.alignments, right, strict=True):
            replaced = deleted = inserted = 0
            for chunk in alignment:
                if chunk.type in ("replace", "substitute"):
                    replaced += chunk.ref_end_idx - chunk.ref_start_idx
                elif chunk.type == "delete":
                    deleted += chunk.ref_end_idx - chunk.ref_start_idx
                elif chunk.type == "insert":
                    inserted += chunk.hyp_end_idx - chunk.hyp_start_idx
            row[:] = replaced, deleted, inserted, len(units)
        self.add_rows(rows, ids)

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """The error rate; it may exceed 1."""
        return divide(sums[..., :3].sum(axis=-1), sums[..., 3])

    def counts(self) -> dict[str, Any]:
        """Errors by kind, reference units, utterances and the normaliser's name."""
        return {
            "errors": sum(self.sum_of(kind) for kind in self.statistics[:3]),
            f"reference_{UNIT_NAMES[self.name]}": self.sum_of("reference_units"),
            **{kind: self.sum_of(kind) for kind in self.statistics[:3]},
            "utterances": self.count(),
            "normalizer": self.normalizer.name,
        }


def _default() -> Normalizer:
    return normalizer(DEFAULT)
