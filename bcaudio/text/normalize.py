"""The normal forms in which hypotheses and references are compared, each under a name that never changes its meaning."""

from __future__ import annotations

import importlib.metadata
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol

NORMALIZER = DEFAULT = "basic-1"
LANGUAGES = ("en", "fr", "es", "zh")
_CODE = re.compile("([a-z]{2,3})([-_][a-z0-9]{2,8})*", re.IGNORECASE)
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})
_OUTER_APOSTROPHE = re.compile(r"(?<![^\W_])'|'(?![^\W_])")  # without a letter or digit on either side
_HANZI = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
# What is a unit by itself, by language; these write no spaces between words. Elsewhere only hanzi are.
_CHARACTERS = {
    **dict.fromkeys(("zh", "cmn", "yue", "wuu", "nan", "hak", "lzh"), _HANZI),
    "ja": _HANZI + _KANA,
    "th": _HANZI + "\u0e01-\u0e4e",
    "lo": _HANZI + "\u0e81-\u0ece",
    "my": _HANZI + "\u1000-\u103f",
    "km": _HANZI + "\u1780-\u17d3",
}


class _Kept(dict[int, int]):
    """For str.translate: letters, marks, numbers and apostrophes stay, anything else is a space; filled as characters come."""

    def __missing__(self, code: int) -> int:
        self[code] = code if code == ord("'") or unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_KEPT = _Kept()


def base_language(language: str) -> str:
    """The language of a code: `zh-CN` and `zh_cn` -> zh, `cmn_hans_cn` -> cmn.

    Raises:
        ValueError: it is not a language code.
    """
    match = _CODE.fullmatch(language)
    if not match:
        raise ValueError(f"normalize: language is {language!r}; give a code such as en, zh-CN or cmn_hans_cn")
    return match[1].lower()


@lru_cache(maxsize=1024)
def _patterns(language: str) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    """What finds the units of a language, and (where no spaces part words) the spaces that do not count."""
    base = base_language(language)
    single = _CHARACTERS.get(base, _HANZI)
    beside = re.compile(f"(?<=[{single}]) | (?=[{single}])") if base in _CHARACTERS else None
    return re.compile(f"[{single}]|[^{single} ]+"), beside


def normalize(text: str, language: str) -> str:
    """`basic-1`: lower case, NFKC, no punctuation or symbols, single spaces; in zh no spaces between hanzi.

    An apostrophe inside a word stays ("don't", "l'eau"); a hyphen parts words. In zh a space stays only between two Latin words;
    so it is in the other languages that write no spaces, for their own characters (Chinese languages, ja, th, lo, my, km).

    Raises:
        ValueError: language is not a language code.
    """
    _, beside = _patterns(language)
    spaced = " ".join(_words(text))
    return spaced if beside is None else beside.sub("", spaced)


def units(text: str, language: str) -> list[str]:
    """The units an error rate counts: words, with every hanzi a unit of its own (mixed error rate).

    In ja kana are units too, and in th, lo, my and km every character of the script; ValueError for what is no language code.
    """
    return _patterns(language)[0].findall(" ".join(_words(text)))


def _words(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).lower()
    return _OUTER_APOSTROPHE.sub(" ", text).translate(_KEPT).split()


def is_hanzi(char: str) -> bool:
    """Whether a character is a Chinese ideograph (unified, extension A to H, compatibility)."""
    code = ord(char)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF


class Normalizer(Protocol):
    """A named, versioned form of texts. `languages`: the base codes (`en`, not `en-GB`) that it knows; None: any."""

    name: str
    languages: tuple[str, ...] | None

    def normalize(self, text: str, language: str) -> str:
        """The text in that form; ValueError where `language` is no language code or not among `languages`."""

    def units(self, text: str, language: str) -> list[str]:
        """What an error rate counts; ValueError as `normalize`."""


class _Basic:
    """Ours: `normalize` and `units` above."""

    name, languages = NORMALIZER, None

    def normalize(self, text: str, language: str) -> str:
        return normalize(text, language)

    def units(self, text: str, language: str) -> list[str]:
        return units(text, language)


class _Verbatim:
    """NFC and single spaces, nothing else: letter case and punctuation count. Units are split as in basic-1."""

    name, languages = "verbatim-1", None

    def normalize(self, text: str, language: str) -> str:
        _patterns(language)  # refuses what is no language code
        return " ".join(unicodedata.normalize("NFC", text).split())

    def units(self, text: str, language: str) -> list[str]:
        return _patterns(language)[0].findall(self.normalize(text, language))


class _Whisper:
    """Whisper's (arXiv 2212.04356, appendix C), as transformers ships it: its English rules for en, its basic ones for others.

    transformers does not ship the table of British and American spellings, so `colour` and `color` differ here. The basic rules
    take combining marks for symbols, which breaks words of Indic scripts. Units are split as in basic-1.
    """

    name, languages = "whisper-1", None
    _EXPECTED = (  # what the name stands for; another release of transformers may give something else
        ("en", "Mr. Smith won't pay $20 million [noise] for two colours!", "mister smith will not pay $20000000 for 2 colours"),
        ("en", "It's the 1st, one oh one percent; hmm, I'd've gone.", "it is the 1st 101% i would have gone"),
        ("fr", "L'été <bruit> coûte 3,5 euros (environ).", "l été coûte 3 5 euros"),
    )

    def __init__(self) -> None:
        self._rules: tuple[Callable[[str], str], Callable[[str], str]] | None = None

    def normalize(self, text: str, language: str) -> str:
        english, basic = self._rules or self._load()
        return " ".join((english if base_language(language) == "en" else basic)(text).split())

    def units(self, text: str, language: str) -> list[str]:
        return _patterns(language)[0].findall(self.normalize(text, language))

    def _load(self) -> tuple[Callable[[str], str], Callable[[str], str]]:
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

        self._rules = EnglishTextNormalizer({}), BasicTextNormalizer()
        for language, text, expected in self._EXPECTED:
            if (found := self.normalize(text, language)) != expected:
                self._rules = None
                raise ValueError(
                    f"{self.name}: transformers {importlib.metadata.version('transformers')} makes {found!r} of {text!r}, but "
                    f"the name stands for {expected!r}; install transformers 5.23 to compare with other results of {self.name}"
                )
        return self._rules


class _WeText:
    """Numbers, dates, money and units written out by wetext (`pip install bcaudio[normalize]`), then basic-1; en and zh only."""

    languages = ("en", "zh")

    def __init__(self, version: str) -> None:
        self.name = f"wetext-{version}"
        self._rules: dict[str, Any] = {}

    def normalize(self, text: str, language: str) -> str:
        return normalize(self._written_out(text, language), language)

    def units(self, text: str, language: str) -> list[str]:
        return units(self._written_out(text, language), language)

    def _written_out(self, text: str, language: str) -> str:
        base = base_language(language)
        if base not in self.languages:
            raise ValueError(f"{self.name}: has no rules for {language!r}, only for {' and '.join(self.languages)}")
        if base not in self._rules:
            import wetext

            self._rules[base] = wetext.Normalizer(lang=base, operator="tn")
        try:
            return self._rules[base].normalize(text)
        except AssertionError:  # its rules leave nothing of this text
            return text


def _installed() -> list[Normalizer]:
    found: list[Normalizer] = [_Basic(), _Verbatim(), _Whisper()]
    with suppress(importlib.metadata.PackageNotFoundError):
        found.append(_WeText(importlib.metadata.version("wetext")))
    return found


NORMALIZERS: dict[str, Normalizer] = {one.name: one for one in _installed()}


def normalizer(name: str) -> Normalizer:
    """The normaliser of a name.

    Raises:
        ValueError: there is none of that name here.
    """
    if name not in NORMALIZERS:
        raise ValueError(
            f"normalizer {name!r} is not one of {', '.join(NORMALIZERS)}; wetext-VERSION is there where that version of "
            "wetext is installed (pip install bcaudio[normalize])"
        )
    return NORMALIZERS[name]


def covers(form: Normalizer, language: str) -> bool:
    """Whether a normaliser has rules for a language code; ValueError for what is none."""
    return form.languages is None or base_language(language) in form.languages
