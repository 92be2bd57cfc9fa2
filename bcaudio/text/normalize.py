"""The normal form in which hypotheses and references are compared. Change `NORMALIZER` whenever a rule changes."""

from __future__ import annotations

import re
import unicodedata

NORMALIZER = "basic-1"
LANGUAGES = ("en", "fr", "es", "zh")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})
_OUTER_APOSTROPHE = re.compile(r"(?<![^\W_])'|'(?![^\W_])")  # without a letter or digit on either side
_HANZI = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_UNIT = re.compile(f"[{_HANZI}]|[^{_HANZI} ]+")
_BESIDE_HANZI = re.compile(f"(?<=[{_HANZI}]) | (?=[{_HANZI}])")


class _Kept(dict[int, int]):
    """For str.translate: letters, marks, numbers and apostrophes stay, anything else is a space; filled as characters come."""

    def __missing__(self, code: int) -> int:
        self[code] = code if code == ord("'") or unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_KEPT = _Kept()


def normalize(text: str, language: str) -> str:
    """Lower case, NFKC, no punctuation or symbols, single spaces; in zh no spaces between hanzi.

    An apostrophe inside a word stays ("don't", "l'eau"); a hyphen parts words. In zh a space stays only between two Latin words.

    Raises:
        ValueError: language not one of en, fr, es, zh.
    """
    spaced = " ".join(_words(text, language))
    return _BESIDE_HANZI.sub("", spaced) if language == "zh" else spaced


def units(text: str, language: str) -> list[str]:
    """The units an error rate counts: words, with every hanzi a unit of its own (mixed error rate)."""
    return _UNIT.findall(" ".join(_words(text, language)))


def _words(text: str, language: str) -> list[str]:
    if language not in LANGUAGES:
        raise ValueError(f"normalize: language is {language!r}; known are {', '.join(LANGUAGES)}")
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    return _OUTER_APOSTROPHE.sub(" ", text).translate(_KEPT).split()


def is_hanzi(char: str) -> bool:
    """Whether a character is a Chinese ideograph (unified, extension A to H, compatibility)."""
    code = ord(char)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF
