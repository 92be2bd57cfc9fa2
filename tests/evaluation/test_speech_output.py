import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.audio.io import read_audio, write_audio
from bcaudio.data.schema import Sample
from bcaudio.evaluation import speech_output
from bcaudio.evaluation.benchmark import Examples, Item, ItemError, NotRunError
from bcaudio.evaluation.recognizers import NotHeardError
from bcaudio.evaluation.speech_output import SpeechOutput

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]
Run = Callable[..., dict[str, dict[str, Any]]]


class Hears:
    """Always the same text, and can refuse one waveform."""

    def __init__(self, name: str, text: str, refuses: int | None = None) -> None:
        self.name, self.text, self.refuses, self.stamp = name, text, refuses, {"name": name, "version": 7}

    def of(self, system: Any) -> "Hears":
        return self

    def hear(self, waveforms: Any, sample_rate: int, language: str) -> list[str]:
        if self.refuses is not None and self.refuses < len(waveforms):
            raise NotHeardError(self.refuses, "too loud")
        return [self.text] * len(waveforms)


def test_speech_output_is_heard_beside_the_ground_truth(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path = shards([sample("a", "one two"), sample("b", "three")])
    system = fake_system(levels={"a": 5, "b": 6}, heard={1: "one two", 2: "three", 5: "one", 6: "three three"})
    results = ask_and_score(SpeechOutput(path, language="en", second_opinions=[]), system, examples)
    assert set(results) == {"tts.en.wer", "tts.en.ground_truth_wer"}
    assert results["tts.en.wer"]["value"] == 2 / 3
    assert (results["tts.en.wer"]["deletions"], results["tts.en.wer"]["insertions"]) == (1, 1)
    assert results["tts.en.ground_truth_wer"]["value"] == 0.0
    assert results["tts.en.wer"]["recognizer"]["name"] == "auditor"


def test_every_spoken_answer_is_saved_and_named_beyond_the_examples(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards([sample(key, "one") for key in "abc"])
    system = fake_system(levels={"a": 3, "b": 4, "c": 5}, heard=dict.fromkeys(range(1, 6), "one"))
    benchmark = SpeechOutput(path, language="en", second_opinions=[])
    outputs = benchmark.ask(system, benchmark.items(), examples)
    assert len(examples.found["audio"]) == 2  # as many as the fixture allows
    levels = [read_audio(examples.root / output["audio"], 24000) for output in outputs]
    assert [len(wave) for wave in levels] == [12000] * 3
    assert [round(float(wave.mean()), 2) for wave in levels] == [0.3, 0.4, 0.5]


def test_a_list_without_sound_has_no_ground_truth_figures(
    sample: Make, corpus: Any, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    data = corpus(Item(sample("a", "one two"), fields={"note": "x"}), Item(sample("b", "...")))
    benchmark = SpeechOutput(data=data, language="en", quality=False)
    assert benchmark.items()[1].problem.startswith("its reference '...' is empty")
    results = ask_and_score(benchmark, fake_system(levels={"a": 1}, heard={1: "one"}), examples)
    assert {key for key, entry in results.items() if entry["value"] is not None} == {"tts.en.wer"}
    assert results["tts.en.wer"]["value"] == 0.5


def test_quality_is_judged_where_it_is_wanted_and_similarity_only_to_a_prompt(
    sample: Make,
    corpus: Any,
    fake_system: Any,
    examples: Examples,
    ask_and_score: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loudness:  # in place of networks that CI does not have
        name, higher_is_better = "dnsmos", True

        def score(self, waveform: np.ndarray, sample_rate: int, *prompt: Any) -> float:
            return float(waveform.mean()) if not prompt else float(prompt[0].mean())

    class Missing:
        name, higher_is_better = "speaker_similarity", True

        def __init__(self) -> None:
            raise NotRunError("pip install bcaudio[speaker]")

    monkeypatch.setattr(speech_output, "DNSMOS", Loudness)
    monkeypatch.setattr(speech_output, "SpeakerSimilarity", Missing)
    system = fake_system(levels={"a": 1, "b": 3}, heard={1: "one", 3: "two"})
    plain = SpeechOutput(data=corpus(Item(sample("a", "one")), Item(sample("b", "two"))), language="en")
    results = ask_and_score(plain, system, examples)
    assert set(results) == {"tts.en.wer", "tts.en.dnsmos"}
    assert (results["tts.en.dnsmos"]["value"], results["tts.en.dnsmos"]["n"]) == (pytest.approx(0.2), 2)

    write_audio(tmp_path / "p.wav", np.full(16000, 0.5, np.float32), 16000)
    prompted = corpus(Item(sample("a", "one"), fields={"prompt_audio": tmp_path / "p.wav"}))
    results = ask_and_score(SpeechOutput(data=prompted, language="en"), system, examples)
    assert results["tts.en.speaker_similarity"] == {"value": None, "note": "not run: pip install bcaudio[speaker]"}
    monkeypatch.setattr(speech_output, "SpeakerSimilarity", type("Prompt", (Loudness,), {"name": "speaker_similarity"}))
    results = ask_and_score(SpeechOutput(data=prompted, language="en"), system, examples)
    assert results["tts.en.speaker_similarity"]["value"] == pytest.approx(0.5, abs=1e-3)
    lost = SpeechOutput(data=corpus(Item(sample("a", "one"), fields={"prompt_audio": tmp_path / "q.wav"})), language="en")
    with pytest.raises(ItemError, match=r"a: its prompt cannot be read: .*q\.wav"):
        lost.ask(system, lost.items(), examples)


def test_second_opinions_stand_under_their_names_with_their_stamps(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    benchmark = SpeechOutput(
        shards([sample("a", "一二", "zh")]), language="zh", recognizer=Hears("w", "一二"), second_opinions=[Hears("x", "一三")]
    )
    results = ask_and_score(benchmark, fake_system(levels={"a": 1}), examples)
    assert {key: entry["value"] for key, entry in results.items()} == {
        "tts.zh.cer": 0.0, "tts.zh.ground_truth_cer": 0.0, "tts.zh.x_cer": 0.5, "tts.zh.ground_truth_x_cer": 0.5,
    }  # fmt: skip
    assert results["tts.zh.cer"]["recognizer"] == {"name": "w", "version": 7}
    assert results["tts.zh.ground_truth_x_cer"]["recognizer"] == {"name": "x", "version": 7}
    with pytest.raises(ValueError, match="a name of its own"):
        SpeechOutput("x.tar", language="zh", second_opinions=[Hears("x", ""), Hears("x", "")])


def test_a_missing_second_opinion_is_said_and_not_dropped(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    system = fake_system(levels={"a": 1}, heard={1: "one"})
    results = ask_and_score(SpeechOutput(shards([sample("a", "one")]), language="en"), system, examples)
    assert results["tts.en.wer"]["value"] == 0.0
    assert results["tts.en.pocketsphinx_wer"]["value"] is None
    assert "pocketsphinx is not installed" in results["tts.en.pocketsphinx_wer"]["note"]
    assert results["tts.en.ground_truth_pocketsphinx_wer"]["value"] is None


def test_a_sound_that_an_ear_refuses_names_its_item_and_nothing_spoken_is_all_deletions(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards([sample("a", "one two"), sample("b", "three")])
    benchmark = SpeechOutput(path, language="en", recognizer=Hears("w", "", refuses=1), second_opinions=[])
    with pytest.raises(ItemError, match="b: w cannot hear it: too loud"):
        benchmark.ask(fake_system(levels={"a": 1, "b": 2}), benchmark.items(), examples)
    system = fake_system(levels={"a": 1, "b": 2}, heard={1: "one two", 2: "three"})
    system.speak = lambda items, task: [type("Answer", (), {"text": "", "waveform": np.zeros(0, np.float32)}) for _ in items]
    benchmark = SpeechOutput(path, language="en", second_opinions=[])
    outputs = json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples)))
    assert ["audio" in output for output in outputs] == [False, False]
    metric = benchmark.score(outputs)["tts.en.wer"]
    assert metric.report()["deletions"] == 3
