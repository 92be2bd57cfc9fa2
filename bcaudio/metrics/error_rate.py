"""Word, character and mixed error rate from summed edit counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
import torch
from torch import Tensor

from bcaudio.metrics.counting import CountingMetric
from bcaudio.text.normalize import NORMALIZER, units

NAMES = {"en": "wer", "fr": "wer", "es": "wer", "zh": "cer", "mixed": "mer"}
UNIT_LANGUAGES = {"mixed": "zh"}  # the units of zh already leave Latin words whole
UNIT_NAMES = {"wer": "words", "cer": "characters", "mer": "units"}


class ErrorRate(CountingMetric):
    """(substitutions + deletions + insertions) / reference units over a corpus (arXiv 2502.17239, section 4; edit counts by
    jiwer).

    The units are words in en, fr and es (value `wer`), characters in zh (`cer`), and characters for hanzi, words else
    in `mixed` text (`mer`), after `bcaudio.text.normalize`, whose version is stamped on every report.

    Args:
        language: `en`, `fr`, `es`, `zh` or `mixed`; ValueError otherwise.
    """

    higher_is_better = False

    def __init__(self, language: str) -> None:
        super().__init__()
        if language not in NAMES:
            raise ValueError(f"ErrorRate: language {language!r} is not one of {sorted(NAMES)}")
        self.language = language
        for name in ("substitutions", "deletions", "insertions", "reference_units", "utterances"):
            self.add_count(name)

    @property
    def name(self) -> str:
        """`wer`, `cer` or `mer`."""
        return NAMES[self.language]

    def units(self, text: str) -> list[str]:
        """The normalised units of a text, as they are counted."""
        return units(text, UNIT_LANGUAGES.get(self.language, self.language))

    def update(self, hypotheses: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Adds the edits of each hypothesis against its reference; ValueError naming the id of an empty reference."""
        self._check_pairs(hypotheses=hypotheses, references=references, ids=ids)
        if not references:
            return
        spelled = [" ".join(self.units(text)) for text in references]
        for item, reference, text in zip(ids, spelled, references, strict=True):
            if not reference:
                raise ValueError(
                    f"{item}: the reference {text!r} is empty after normalisation ({NORMALIZER}, {self.language}); "
                    "an error rate needs reference units, so drop the item or correct its transcript"
                )
        edits = jiwer.process_words(spelled, [" ".join(self.units(text)) for text in hypotheses])
        self.substitutions += edits.substitutions
        self.deletions += edits.deletions
        self.insertions += edits.insertions
        self.reference_units += edits.hits + edits.substitutions + edits.deletions
        self.utterances += len(references)

    def value(self) -> Tensor:
        """The error rate, float64; it may exceed 1."""
        if self.count() == 0:
            raise ValueError(f"ErrorRate({self.language}): no utterance was scored, so there is no {self.name}")
        return (self.substitutions + self.deletions + self.insertions).to(torch.float64) / self.reference_units

    def count(self) -> int:
        """Utterances."""
        return int(self.utterances)

    def counts(self) -> dict[str, Any]:
        """Errors by kind, reference units, utterances and the normaliser's name."""
        return {
            "errors": int(self.substitutions + self.deletions + self.insertions),
            f"reference_{UNIT_NAMES[self.name]}": int(self.reference_units),
            "substitutions": int(self.substitutions),
            "deletions": int(self.deletions),
            "insertions": int(self.insertions),
            "utterances": int(self.utterances),
            "normalizer": NORMALIZER,
        }
