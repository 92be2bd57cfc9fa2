"""Words of a text with their places in it, and the units by which two texts are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bcaudio.text.normalize import LANGUAGES, is_hanzi, normalize, units
from data_prep.utterance import Word

_HANZI_LANGUAGES = ("zh", "yue", "ja")


@dataclass(frozen=True)
class Piece:
    """A word of a text, or one hanzi.

    Args:
        text: without the punctuation around it.
        start: its first character in the text.
        units: what it is in the normal form; a hyphenated word has several.
    """

    text: str
    start: int
    units: tuple[str, ...]


def rules_of(language: str) -> str:
    """The language of `bcaudio.text.normalize` whose rules fit a code: `zh-Hant` -> zh; an unknown one is read like English."""
    base = language.split("-")[0]
    return base if base in LANGUAGES else "zh" if base in _HANZI_LANGUAGES else "en"


def normal_form(text: str, language: str) -> str:
    """`normalize` for any language code."""
    return normalize(text, rules_of(language))


def units_of(text: str, language: str) -> list[str]:
    """`units` (words, single hanzi) for any language code."""
    return units(text, rules_of(language))


def pieces_of(text: str, language: str) -> list[Piece]:
    """The words of a text in order; a run of characters that holds no letter and no digit is none."""
    hanzi_or_run = "".join(char if is_hanzi(char) or char.isspace() else "x" for char in text)
    found = []
    for match in re.finditer(r"x+|[^\sx]", hanzi_or_run):
        run = text[match.start() : match.end()]
        parts = tuple(units_of(run, language))
        if parts:
            lead = len(run) - len(run.lstrip("".join(c for c in run if not c.isalnum())))
            found.append(Piece(run.strip("".join(c for c in run if not c.isalnum())) or run, match.start() + lead, parts))
    return found


def places_of(words: Sequence[Word], text: str, language: str) -> list[int | None] | None:
    """Where each word begins in the text (a character), None for a word that begins inside another one of the text.

    Returns None where the words are not those of the text.
    """
    starts: list[int | None] = []
    expected: list[str] = []
    for piece in pieces_of(text, language):
        starts += [piece.start, *[None] * (len(piece.units) - 1)]
        expected += piece.units
    spoken = [units_of(word.text, language) for word in words]
    if [unit for parts in spoken for unit in parts] != expected or not all(spoken):
        return None
    places, position = [], 0
    for parts in spoken:
        places.append(starts[position])
        position += len(parts)
    return places


def with_opening(text: str, place: int) -> int:
    """Where a word begins together with the brackets and quotes that open right before it."""
    while place > 0 and text[place - 1] in "([“‘「『《（¿¡":
        place -= 1
    return place
