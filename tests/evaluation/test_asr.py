from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bcaudio.data.schema import Sample
from bcaudio.evaluation.asr import AuditorRecognition, SpeechRecognition
from bcaudio.evaluation.benchmark import Examples, Item, ItemError, NotRunError, Scoring
from bcaudio.text.normalize import normalizer

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]
Run = Callable[..., dict[str, dict[str, Any]]]


def test_only_its_language_and_split_are_asked_and_scored(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path = shards([sample("a", "one two"), sample("b", "二十", "zh"), sample("c", "three"), sample("d", "four", split="train")])
    system = fake_system(texts={"a": "one too", "c": "three"})
    results = ask_and_score(SpeechRecognition(path, language="en"), system, examples)
    assert set(results) == {"asr.en.wer"}
    assert results["asr.en.wer"]["value"] == 1 / 3
    assert results["asr.en.wer"]["errors"] == 1
    assert system.asked == [("asr", "a"), ("asr", "c")]


def test_a_limit_takes_items_spread_evenly_and_empty_filters_are_refused(sample: Make, shards: Write) -> None:
    path = shards([sample(f"k{i}", "one") for i in range(9)])
    assert [item.id for item in SpeechRecognition(path, language="en", limit=3).items()] == ["k0", "k3", "k6"]
    with pytest.raises(ValueError, match=r"asr\.zh: none of the 9 samples"):
        SpeechRecognition(path, language="zh").items()
    with pytest.raises(FileNotFoundError):
        SpeechRecognition(path.replace("shards", "nowhere"), language="en").items()


def test_an_empty_reference_is_that_items_problem_and_the_others_are_scored(
    sample: Make, corpus: Any, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    data = corpus(Item(sample("a", "one")), Item(sample("b", "?!")), Item(sample("c", "x"), problem="missing audio: c.wav"))
    benchmark = SpeechRecognition(data=data, language="en")
    assert [item.problem for item in benchmark.items()] == [
        "", "its reference '?!' is empty after normalisation (basic-1, en)", "missing audio: c.wav",
    ]  # fmt: skip
    results = ask_and_score(benchmark, fake_system(texts={"a": "one"}), examples)
    assert (results["asr.en.wer"]["value"], results["asr.en.wer"]["utterances"]) == (0.0, 1)


def test_every_dialect_gets_its_own_rate_beside_the_whole(
    sample: Make, corpus: Any, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    said = {"a": ("一二", "Beijing"), "b": ("三四", "Ji-Lu"), "c": ("五", "Beijing")}
    data = corpus(*(Item(sample(id, text, "zh"), fields={"dialect": dialect}) for id, (text, dialect) in said.items()))
    system = fake_system(texts={"a": "一三", "b": "三四", "c": "五"})
    results = ask_and_score(SpeechRecognition(data=data, language="zh", by="dialect"), system, examples)
    assert {key: entry["value"] for key, entry in results.items()} == {
        "asr.zh.cer": 1 / 5, "asr.zh.cer.Beijing": 1 / 3, "asr.zh.cer.Ji-Lu": 0.0,
    }  # fmt: skip
    assert set(ask_and_score(SpeechRecognition(data=data, language="zh"), system, examples)) == {"asr.zh.cer"}
    with pytest.raises(ValueError, match=r"asr\.zh: by is 'accent', but item a has no such field"):
        SpeechRecognition(data=data, language="zh", by="accent").items()


def test_data_of_another_language_and_two_sources_are_refused(sample: Make, corpus: Any) -> None:
    data = corpus(Item(sample("a", "one")), Item(sample("b", "二", "zh")))
    with pytest.raises(ValueError, match=r"asr\.en: item b is in zh, not en"):
        SpeechRecognition(data=data, language="en").items()
    assert len(SpeechRecognition(data=data, language="mixed").items()) == 2
    with pytest.raises(ValueError, match="either shards"):
        SpeechRecognition("x.tar", data=data, language="en")


def test_the_normaliser_of_the_scoring_is_used_and_named(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path, system = shards([sample("a", "One, two."), sample("b", "Um")]), fake_system(texts={"a": "one two", "b": "um"})
    benchmark = SpeechRecognition(path, language="en")
    assert ask_and_score(benchmark, system, examples)["asr.en.wer"]["value"] == 0.0
    verbatim = ask_and_score(benchmark, system, examples, Scoring(normalizer("verbatim-1")))["asr.en.wer"]
    assert (verbatim["value"], verbatim["normalizer"]) == (1.0, "verbatim-1")
    # Whisper's drops the filler word: nothing is left of b's reference, and the count says so
    dropped = ask_and_score(benchmark, system, examples, Scoring(normalizer("whisper-1")))["asr.en.wer"]
    assert (dropped["value"], dropped["utterances"]) == (0.0, 1)


def test_the_auditor_is_scored_on_ground_truth_audio_and_named(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path = shards([sample("a", "one two"), sample("b", "three")])
    results = ask_and_score(AuditorRecognition(path, language="en"), fake_system(heard={1: "one two", 2: "tree"}), examples)
    assert set(results) == {"auditor.en.wer"}
    assert results["auditor.en.wer"]["value"] == 1 / 3
    stamp = results["auditor.en.wer"]["recognizer"]
    assert (stamp["name"], len(stamp["weights_sha256"])) == ("auditor", 64)
    with pytest.raises(NotRunError, match="no auditor"):
        ask_and_score(AuditorRecognition(path, language="en"), fake_system(), examples)


def test_a_sound_that_is_missing_names_its_item(sample: Make, corpus: Any, fake_system: Any, examples: Examples) -> None:
    sound = Item(sample("a", "one"), lambda rate: np.full(rate // 2, 0.1, dtype=np.float32))
    benchmark = AuditorRecognition(data=corpus(sound, Item(sample("b", "two"))), language="en")
    with pytest.raises(ItemError, match="b: has no audio"):
        benchmark.ask(fake_system(heard={1: "one"}), benchmark.items(), examples)
