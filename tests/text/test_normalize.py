from __future__ import annotations

import pytest

from bcaudio.text.normalize import normalize, units


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
