import random

import jiwer
import numpy as np
import pytest

from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.text.normalize import NORMALIZER, normalizer

HYPOTHESES = ["one two free", "seven", "nine nine nine", ""]
REFERENCES = ["one two three four", "seven", "nine nine", "eight"]
IDS = ["a", "b", "c", "d"]


def test_report_counts_the_edits_worked_out_by_hand() -> None:
    metric = ErrorRate("en")
    metric.update(HYPOTHESES, REFERENCES, IDS)
    # free for three; four and eight missing; one nine too many: 4 errors in 8 words
    assert metric.report() == {
        "wer": 0.5,
        "errors": 4,
        "reference_words": 8,
        "substitutions": 1,
        "deletions": 2,
        "insertions": 1,
        "utterances": 4,
        "normalizer": NORMALIZER,
    }
    assert metric.compute().item() == jiwer.wer(REFERENCES, HYPOTHESES)


def test_two_halves_give_the_joint_result_and_not_the_mean_of_their_rates() -> None:
    first, second, joint = ErrorRate("en"), ErrorRate("en"), ErrorRate("en")
    first.update(HYPOTHESES[:1], REFERENCES[:1], IDS[:1])
    second.update(HYPOTHESES[1:], REFERENCES[1:], IDS[1:])
    joint.update(HYPOTHESES, REFERENCES, IDS)
    rates = [first.compute().item(), second.compute().item()]
    first.merge_state(second)
    assert first.report() == joint.report()
    assert rates == [0.5, 0.5]
    second.update(["x"], ["one"], ["e"])
    joint.update(["x"], ["one"], ["e"])
    assert joint.report()["wer"] == 5 / 9


def test_chinese_counts_characters_and_mixed_text_counts_hanzi_and_words() -> None:
    chinese = ErrorRate("zh")
    chinese.update(["二十 五。"], ["二十六"], ["z"])
    assert chinese.report() | {"normalizer": ""} == {
        "cer": 1 / 3, "errors": 1, "reference_characters": 3, "substitutions": 1, "deletions": 0, "insertions": 0,
        "utterances": 1,
        "normalizer": "",
    }  # fmt: skip
    mixed = ErrorRate("mixed")
    mixed.update(["打开 wife 网"], ["打开 WiFi 网"], ["m"])
    assert mixed.report()["mer"] == 1 / 4


def test_case_and_punctuation_are_no_errors() -> None:
    metric = ErrorRate("fr")
    metric.update(["L’eau est froide"], ["l'eau est froide."], ["f"])
    assert metric.report()["errors"] == 0
    assert metric.report()["reference_words"] == 3


def test_an_empty_reference_is_refused_by_its_id_and_counts_nothing() -> None:
    metric = ErrorRate("en")
    with pytest.raises(ValueError, match="item-7"):
        metric.update(["one", "one"], ["one", " ?! "], ["item-6", "item-7"])
    assert metric.count() == 0
    with pytest.raises(ValueError, match="no utterance"):
        metric.report()
    assert metric.report(allow_empty=True) == {}


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        ErrorRate("en").update(["one"], ["one", "two"], ["a"])


def test_rows_are_the_edits_of_each_item_and_their_sum_gives_the_value() -> None:
    metric = ErrorRate("en")
    metric.update(HYPOTHESES[:2], REFERENCES[:2], IDS[:2])
    metric.update(HYPOTHESES[2:], REFERENCES[2:], IDS[2:])
    assert metric.ids == IDS
    assert metric.rows.tolist() == [[1, 1, 0, 4], [0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 0, 1]]
    assert metric.value_of(metric.rows).tolist() == [0.5, 0.0, 0.5, 1.0]
    assert metric.value_of(metric.rows.sum(axis=0)) == metric.compute().item() == 0.5
    assert np.isnan(metric.value_of(np.zeros(4)))


def test_sums_and_items_equal_jiwer_on_random_texts() -> None:
    rng, words = random.Random(0), ["un", "deux", "trois", "quatre", "cinq"]
    references = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(300)]
    hypotheses = [" ".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(300)]
    metric = ErrorRate("fr")
    metric.update(hypotheses, references, [str(n) for n in range(300)])
    expected = jiwer.process_words(references, hypotheses)
    units = expected.hits + expected.substitutions + expected.deletions
    assert metric.rows.sum(axis=0).tolist() == [expected.substitutions, expected.deletions, expected.insertions, units]
    assert min(expected.substitutions, expected.deletions, expected.insertions) > 100
    for row, reference, hypothesis in zip(metric.rows, references, hypotheses, strict=True):
        one = jiwer.process_words(reference, hypothesis)
        assert row.tolist() == [one.substitutions, one.deletions, one.insertions, len(reference.split())]


@pytest.mark.parametrize(
    ("language", "name", "units"),
    [("de", "wer", 2), ("en-GB", "wer", 2), ("yue", "cer", 4), ("cmn_hans_cn", "cer", 4), ("ja", "cer", 4), ("th", "cer", 4)],
)
def test_any_language_has_its_units(language: str, name: str, units: int) -> None:
    text = {"wer": "guten Tag", "ja": "日本のカ", "th": "กขคง"}.get(name if name == "wer" else language, "我們食飯")
    metric = ErrorRate(language)
    metric.update([text], [text], ["x"])
    assert metric.name == name
    assert metric.rows.tolist() == [[0, 0, 0, units]]


def test_another_normaliser_counts_otherwise_and_is_named() -> None:
    basic, verbatim = ErrorRate("en"), ErrorRate("en", normalizer("verbatim-1"))
    for metric in (basic, verbatim):
        metric.update(["yes, it is"], ["Yes it is"], ["a"])
    assert (basic.report()["errors"], verbatim.report()["errors"]) == (0, 1)
    assert verbatim.report()["normalizer"] == "verbatim-1"


def test_a_language_without_rules_is_refused() -> None:
    class English:
        name, languages = "english-1", ("en",)

    with pytest.raises(ValueError, match="english-1 has no rules for language 'de', only for en"):
        ErrorRate("de", English())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'a language'"):
        ErrorRate("a language")
