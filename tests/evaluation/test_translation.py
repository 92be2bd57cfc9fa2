from collections.abc import Callable
from typing import Any

import pytest
import sacrebleu

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Examples, Item
from bcaudio.evaluation.translation import SpeechTranslation

Make = Callable[..., Sample]
Run = Callable[..., dict[str, dict[str, Any]]]


def test_bleu_and_chrf_against_the_translation_in_one_direction_only(
    sample: Make, shards: Callable[[list[Sample]], str], fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path = shards(
        [
            sample("a", "one hundred", translation="一百零一", target_language="zh"),
            sample("b", "二", "zh", translation="two", target_language="en"),
        ]
    )
    system = fake_system(texts={"a": "一百零一"})
    results = ask_and_score(SpeechTranslation(path, source="en", target="zh"), system, examples)
    assert set(results) == {"s2tt.en2zh.bleu", "s2tt.en2zh.chrf"}
    assert results["s2tt.en2zh.bleu"]["value"] == pytest.approx(100.0)
    assert results["s2tt.en2zh.bleu"]["correct"] == [4, 3, 2, 1]
    assert system.asked == [("s2tt", "a")]


def test_the_figures_are_sacrebleus_own(
    sample: Make, corpus: Any, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    right = ["the cat sat on the mat today", "a dog barks loudly at night"]
    said = ["the cat sat on a mat today", "the dog barks loudly at night"]
    items = [Item(sample(f"k{i}", "猫", "zh", translation=text, target_language="en")) for i, text in enumerate(right)]
    system = fake_system(texts={f"k{i}": text for i, text in enumerate(said)})
    results = ask_and_score(SpeechTranslation(data=corpus(*items), source="zh", target="en"), system, examples)
    assert results["s2tt.zh2en.bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(said, [right]).score)
    assert results["s2tt.zh2en.chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(said, [right]).score)


def test_an_empty_translation_is_that_items_problem_and_another_target_is_refused(sample: Make, corpus: Any) -> None:
    good = Item(sample("a", "one", translation="一", target_language="zh"))
    empty = Item(sample("b", "two", translation=" ", target_language="zh"))
    items = SpeechTranslation(data=corpus(good, empty), source="en", target="zh").items()
    assert [item.problem for item in items] == ["", "its reference translation ' ' is empty"]
    with pytest.raises(ValueError, match=r"s2tt\.en2fr: item a is translated into zh, not fr"):
        SpeechTranslation(data=corpus(good), source="en", target="fr").items()
    with pytest.raises(ValueError, match=r"s2tt\.zh2en: item a is in en, not zh"):
        SpeechTranslation(data=corpus(good), source="zh", target="en").items()
