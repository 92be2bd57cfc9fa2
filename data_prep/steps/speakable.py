"""Speakability: texts nobody would read aloud do not become speech (paper section 3.3, SFT data)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from data_prep.steps.words import units_of
from data_prep.utterance import Clip, Drops

_ITEM = r"\s*(?:[-*+•]|\d{1,2}[.)])\s+\S.*"
_RULES = {  # what shows a reason; the first that fits counts
    "code": (
        r"```|`[^`\n]+`|#include|\b(?:def|function) ?\w*\(|\bclass \w+[({:]|\breturn\b[^.?!\n]*;|\bSELECT\b.+\bFROM\b",
        r"^\s*(?:from [\w.]+ )?import [\w., ]+;?$|\{\s*$",
        r"[\w\])]\s*(?:==|!=|\+=|-=|=>|->|&&|\|\||::)\s*[\w\[(]|</?[a-zA-Z][^<>\n]*>",
    ),
    "latex": (
        r"\$[^$\n]*[\\^_{][^$\n]*\$|\w[\^_]\{",
        r"\\(?:frac|sqrt|begin|sum|int|alpha|beta|cdot|text|left|right)\b|\\[(\[]",
    ),
    "url": (r"https?://|www\.\w|\b[\w.+-]+@[\w-]+\.\w{2,}|\b\w+\.(?:com|org|net|io|cn|html|exe|py|json)\b",),
    "table": (r"^\s*\|.*\|.*\|\s*$|^[^\t\n]+\t[^\t\n]+\t|^\s*\|?\s*:?-{3,}:?\s*\|",),
    "markup": (r"^\s{0,3}#{1,6}\s|\*\*[^*\n]+\*\*", rf"^{_ITEM}\n{_ITEM}$"),
}
_PATTERNS = [(reason, re.compile("|".join(rules), re.M)) for reason, rules in _RULES.items()]


class Speakable:
    """Keeps clips whose texts can be read aloud: every part, the answer and the translation are looked at.

    Drops: `code`, `latex`, `url`, `table`, `markup` (headings, bold, lists), `emoji`, `symbols` (too few letters), `long digits`,
    `too long`, `no text`. The value is the place that shows it.

    Args:
        max_units: words (in Chinese hanzi) of a text.
        max_digits: length of one run of digits; a longer one is read out in no agreed way.
        min_letter_share: of the characters that are no spaces; punctuation counts against it.

    Raises:
        ValueError: a limit is not positive.
    """

    def __init__(self, max_units: int = 300, max_digits: int = 12, min_letter_share: float = 0.6) -> None:
        if max_units < 1 or max_digits < 1 or not 0 < min_letter_share <= 1:
            raise ValueError(
                f"Speakable: max_units {max_units}, max_digits {max_digits}, min_letter_share {min_letter_share}: too low"
            )
        self.max_units, self.max_digits, self.min_letter_share = max_units, max_digits, min_letter_share

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            utterance = clip.utterance
            texts = [(part.text, utterance.language) for part in utterance.parts]
            texts += [(utterance.answer, utterance.language)] if utterance.answer else []
            texts += [(utterance.translation, utterance.target_language or "en")] if utterance.translation else []
            found = next((fault for text, language in texts if (fault := self.fault(text, language))), None)
            if found is None:
                yield clip
            else:
                drops.add(clip, self, *found)

    def fault(self, text: str, language: str) -> tuple[str, str] | None:
        """Why a text cannot be read aloud, and where it shows; None if it can."""
        for reason, pattern in _PATTERNS:
            match = pattern.search(text)
            if match:
                return reason, match[0].strip()[:60]
        digits = re.search(rf"\d{{{self.max_digits + 1},}}", text)
        if digits:
            return "long digits", digits[0][:60]
        for char in text:
            if unicodedata.category(char) == "So" or char == "\ufe0f":
                return "emoji", char
        solid = [char for char in text if not char.isspace()]
        letters = sum(unicodedata.category(char)[0] in "LMN" for char in solid)
        if not letters:
            return "no text", text[:60]
        if letters < self.min_letter_share * len(solid):
            return "symbols", text[:60]
        length = len(units_of(text, language))
        return ("too long", str(length)) if length > self.max_units else None
