from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaudio.text.normalize import is_hanzi, normalize, units


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Twenty-three,  FOUR!", "en", "twenty three four"),
        ("Don’t 'quote' me", "en", "don't quote me"),
        ("L'eau, c'est ÉTÉ.", "fr", "l'eau c'est été"),
        ("¿Qué   número?", "es", "qué número"),
        ("三加四，等于 几？", "zh", "三加四等于几"),
        ("ＡＢＣ １２", "en", "abc 12"),
        ("我 用 Hello World 了。", "zh", "我用hello world了"),
        ("...", "en", ""),
    ],
)
def test_normal_form(text: str, language: str, expected: str) -> None:
    assert normalize(text, language) == expected
    assert normalize(expected, language) == expected  # it is stable


def test_units_are_words_and_single_hanzi() -> None:
    assert units("What is three?", "en") == ["what", "is", "three"]
    assert units("三加四 Hello world", "zh") == ["三", "加", "四", "hello", "world"]


def test_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'de'"):
        normalize("a", "de")


def plain_normalize(text: str, language: str) -> str:
    """The rules, character by character."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join("'" if char in "\u2019\u2018\u02bc" else char for char in text).lower()
    kept = ""
    for i, char in enumerate(text):
        inside = char == "'" and text[i - 1 : i].isalnum() and text[i + 1 : i + 2].isalnum()
        kept += char if inside or unicodedata.category(char)[0] in "LMN" else " "
    joined = ""
    for word in kept.split():
        apart = joined and not (language == "zh" and (is_hanzi(joined[-1]) or is_hanzi(word[0])))
        joined += (" " if apart else "") + word
    return joined


TEXTS = st.text(st.one_of(st.sampled_from("a'B'é \u2019_²一㐀。1-\u0301"), st.characters(exclude_categories=["Cs"])), max_size=30)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS, language=st.sampled_from(["en", "zh"]))
def test_any_text_is_normalized_by_the_rules(text: str, language: str) -> None:
    expected = plain_normalize(text, language)
    assert normalize(text, language) == expected
    assert units(text, language) == "".join(f" {char} " if is_hanzi(char) else char for char in expected).split()
