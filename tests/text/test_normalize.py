from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaudio.text import normalize as module
from bcaudio.text.normalize import NORMALIZERS, covers, is_hanzi, normalize, normalizer, units


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


@pytest.mark.parametrize("language", ["", "english", "e", "en GB", "mixed", "zh--CN"])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_what_is_no_language_code_is_refused_by_every_normalizer(name: str, language: str) -> None:
    for ask in (normalizer(name).normalize, normalizer(name).units):
        with pytest.raises(ValueError, match=f"language is '{language}'; give a code such as en, zh-CN or cmn_hans_cn"):
            ask("a", language)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Straße, ÜBER-all!", "de", ["straße", "über", "all"]),
        ("안녕 하세요.", "ko_kr", ["안녕", "하세요"]),
        ("हिन्दी भाषा।", "hi_in", ["हिन्दी", "भाषा"]),
        ("我用 GPT 了。", "cmn_hans_cn", ["我", "用", "gpt", "了"]),
        ("佢哋，OK！", "yue_hant_hk", ["佢", "哋", "ok"]),
        ("カタ仮名はｶﾞラスとTV。", "ja", ["カ", "タ", "仮", "名", "は", "ガ", "ラ", "ス", "と", "tv"]),
        ("佐々木さんのコーヒー", "ja_jp", ["佐", "々", "木", "さ", "ん", "の", "コ", "ー", "ヒ", "ー"]),
        ("ที่ TV", "th_th", ["ท", "\u0e35", "\u0e48", "tv"]),
    ],
)
def test_units_of_other_languages(text: str, language: str, expected: list[str]) -> None:
    assert units(text, language) == expected


def test_kana_are_units_in_ja_alone_and_spaces_between_them_do_not_count() -> None:
    assert normalize("コー ヒー と TV", "ja") == normalize("コーヒーとTV", "ja-JP") == "コーヒーとtv"
    assert units("のa", "ja") == ["の", "a"]
    assert units("のa", "zh") == units("のa", "en") == ["のa"]  # as basic-1 has always counted


def test_verbatim_changes_spaces_and_composition_alone() -> None:
    form = normalizer("verbatim-1")
    assert form.normalize(" Don’t,  E\u0301T\u00c9 ①! ", "fr") == "Don’t, ÉTÉ ①!"
    assert form.units("我用 GPT-4。", "zh") == ["我", "用", "GPT-4。"]


def test_whisper_form_writes_numbers_in_digits_and_undoes_contractions_in_en_alone() -> None:
    form = normalizer("whisper-1")
    assert form.units("He's paid twenty-three (er) dollars.", "en") == ["he", "is", "paid", "$23"]
    assert form.normalize("vingt-trois (euh) euros", "fr") == "vingt trois euros"
    assert form.units("我用 GPT 了。", "zh") == ["我", "用", "gpt", "了"]
    assert form.normalize("the colour", "en") == "the colour"  # the table of spellings is not shipped


def test_whisper_form_is_refused_when_transformers_gives_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.whisper import english_normalizer

    monkeypatch.setattr(english_normalizer.EnglishTextNormalizer, "__call__", lambda self, text: text)
    with pytest.raises(ValueError, match=r"whisper-1: transformers 5\..* but the name stands for 'mister smith"):
        module._Whisper().normalize("a", "en")


def test_wetext_form_writes_numbers_out_and_knows_en_and_zh_alone() -> None:
    version = pytest.importorskip("wetext") and module.importlib.metadata.version("wetext")
    form = normalizer(f"wetext-{version}")
    assert form.units("It costs $23.", "en-GB") == ["it", "costs", "twenty", "three", "dollars"]
    assert form.normalize("共3.5元", "zh") == "共三点五元"
    with pytest.raises(ValueError, match="has no rules for 'fr', only for en and zh"):
        form.units("a", "fr")
    assert (covers(form, "zh-CN"), covers(form, "fr"), covers(normalizer("basic-1"), "fr")) == (True, False, True)


def test_an_unknown_normalizer_is_refused_with_the_known_ones() -> None:
    assert list(NORMALIZERS)[:3] == ["basic-1", "verbatim-1", "whisper-1"]
    assert all(name == form.name for name, form in NORMALIZERS.items())
    with pytest.raises(ValueError, match="normalizer 'basic-2' is not one of basic-1, verbatim-1, whisper-1"):
        normalizer("basic-2")


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
