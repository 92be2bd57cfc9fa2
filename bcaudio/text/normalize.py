"""The normal form in which hypotheses and references are compared. Change `NORMALIZER` whenever a rule changes."""

from __future__ import annotations

import unicodedata

NORMALIZER = "basic-1"
LANGUAGES = ("en", "fr", "es", "zh")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})


def normalize(text: str, language: str) -> str:
    """Lower case, NFKC, no punctuation or symbols, single spaces; in zh no spaces between hanzi.

    An apostrophe inside a word stays ("don't", "l'eau"); a hyphen parts words. In zh a space stays only between two Latin words.

    Raises:
        ValueError: language not one of en, fr, es, zh.
    """
    if language not in LANGUAGES:
        raise ValueError(f"normalize: language is {language!r}; known are {', '.join(LANGUAGES)}")
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    kept = []
    for i, char in enumerate(text):
        inner = char == "'" and text[i - 1 : i].isalnum() and text[i + 1 : i + 2].isalnum()
        kept.append(char if inner or unicodedata.category(char)[0] in "LMN" else " ")
    words = "".join(kept).split()
    if language != "zh":
        return " ".join(words)
    joined = ""
    for word in words:
        space = joined and not is_hanzi(joined[-1]) and not is_hanzi(word[0])
        joined += (" " if space else "") + word
    return joined


def units(text: str, language: str) -> list[str]:
    """The units an error rate counts: words, with every hanzi a unit of its own (mixed error rate)."""
    spaced = "".join(f" {char} " if is_hanzi(char) else char for char in normalize(text, language))
    return spaced.split()


def is_hanzi(char: str) -> bool:
    """Whether a character is a Chinese ideograph (unified, extension A to H, compatibility)."""
    code = ord(char)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF
