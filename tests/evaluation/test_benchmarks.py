import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bcaudio.data.schema import Sample
from bcaudio.evaluation.asr import AuditorRecognition, SpeechRecognition
from bcaudio.evaluation.benchmark import Examples, NotRunError
from bcaudio.evaluation.choice import Choice
from bcaudio.evaluation.human import HumanDigits, HumanReconstruction
from bcaudio.evaluation.question_answering import QuestionAnswering
from bcaudio.evaluation.reconstruction import Reconstruction
from bcaudio.evaluation.retention import Retention
from bcaudio.evaluation.speech_output import SpeechOutput
from bcaudio.evaluation.translation import SpeechTranslation

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]


def run(benchmark: Any, system: Any, examples: Examples) -> dict[str, dict[str, Any]]:
    """Items -> outputs -> through JSON, as they are stored -> results."""
    return benchmark.score(json.loads(json.dumps(benchmark.ask(system, benchmark.items(), examples))))


def test_asr_scores_only_its_language_and_split(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    path = shards([sample("a", "one two"), sample("b", "二十", "zh"), sample("c", "three"), sample("d", "four", split="train")])
    system = fake_system(texts={"a": "one too", "c": "three"})
    results = run(SpeechRecognition(path, "en"), system, examples)
    assert set(results) == {"asr.en.wer"}
    assert results["asr.en.wer"]["value"] == 1 / 3
    assert results["asr.en.wer"]["errors"] == 1
    assert system.asked == [("asr", "a"), ("asr", "c")]


def test_a_limit_takes_items_spread_evenly_and_empty_filters_are_refused(sample: Make, shards: Write) -> None:
    path = shards([sample(f"k{i}", "one") for i in range(9)])
    assert [item.sample.key for item in SpeechRecognition(path, "en", limit=3).items()] == ["k0", "k3", "k6"]
    with pytest.raises(ValueError, match=r"asr\.zh: none of the 9 samples"):
        SpeechRecognition(path, "zh").items()
    with pytest.raises(FileNotFoundError):
        SpeechRecognition(path.replace("shards", "nowhere"), "en").items()


def test_the_auditor_is_scored_on_ground_truth_audio(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    path = shards([sample("a", "one two"), sample("b", "three")])
    results = run(AuditorRecognition(path, "en"), fake_system(heard={1: "one two", 2: "tree"}), examples)
    assert results["auditor.en.wer"]["value"] == 1 / 3
    with pytest.raises(NotRunError, match="no auditor"):
        run(AuditorRecognition(path, "en"), fake_system(), examples)


def test_translation_is_scored_by_bleu_against_the_translation(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards(
        [
            sample("a", "one hundred", translation="一百零一", target_language="zh"),
            sample("b", "二", "zh", translation="two", target_language="en"),
        ]
    )
    results = run(SpeechTranslation(path, "en", "zh"), fake_system(texts={"a": "一百零一"}), examples)
    assert results["s2tt.en2zh.bleu"]["value"] == pytest.approx(100.0)
    assert results["s2tt.en2zh.bleu"]["correct"] == [4, 3, 2, 1]


def test_questions_are_read_heard_and_answered_aloud(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    spoken = [
        sample("a", "one plus one|two", roles=("user", "assistant"), answer="two"),
        sample("b", "一加二|三", "zh", ("user", "assistant")),
    ]
    path = shards(spoken)
    system = fake_system(texts={"a": "Two.", "b": "四"}, levels={"a": 3, "b": 4}, heard={3: "too", 4: "三"})
    results = run(QuestionAnswering(path, ["text", "speech_to_text", "speech_to_speech"]), system, examples)
    assert {key: entry["value"] for key, entry in results.items()} == {
        "aqa.text.accuracy": 0.5,
        "aqa.speech_to_text.accuracy": 0.5,
        "aqa.speech_to_speech.accuracy": 0.5,
        "aqa.speech_to_speech.text_accuracy": 0.5,
    }
    assert results["aqa.speech_to_speech.accuracy"] | {"normalizer": ""} == {
        "value": 0.5, "correct": 1, "total": 2, "correct_en": 0, "total_en": 1, "correct_zh": 1, "total_zh": 1, "normalizer": "",
    }  # fmt: skip
    assert [task for task, _ in system.asked] == ["text aqa"] * 2 + ["aqa"] * 2 + ["dialogue"] * 2
    assert examples.found["audio"][0] | {"players": 0} == {
        "key": "a", "title": "question: one plus one", "text": "Two.", "heard": "too", "expected": "two", "players": 0,
    }  # fmt: skip
    assert (examples.root / examples.found["audio"][1]["players"][0]["file"]).is_file()
    with pytest.raises(ValueError, match="modes"):
        QuestionAnswering(path, ["aloud"])  # type: ignore[list-item]


def test_speech_output_is_heard_beside_the_ground_truth(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards([sample("a", "one two"), sample("b", "three")])
    system = fake_system(levels={"a": 5, "b": 6}, heard={1: "one two", 2: "three", 5: "one", 6: "three three"})
    results = run(SpeechOutput(path, "en", second_opinion=False), system, examples)
    assert set(results) == {"tts.en.wer", "tts.en.ground_truth_wer"}
    assert results["tts.en.wer"]["value"] == 2 / 3
    assert (results["tts.en.wer"]["deletions"], results["tts.en.wer"]["insertions"]) == (1, 1)
    assert results["tts.en.ground_truth_wer"]["value"] == 0.0


def test_a_missing_second_opinion_is_said_and_not_dropped(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    system = fake_system(levels={"a": 1}, heard={1: "one"})
    results = run(SpeechOutput(shards([sample("a", "one")]), "en"), system, examples)
    assert results["tts.en.wer"]["value"] == 0.0
    assert results["tts.en.pocketsphinx_wer"]["value"] is None
    assert "pocketsphinx is not installed" in results["tts.en.pocketsphinx_wer"]["note"]
    assert results["tts.en.ground_truth_pocketsphinx_wer"]["value"] is None


def test_reconstruction_by_number_of_codebooks(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    path = shards([sample("a", "one"), sample("b", "二", "zh")])
    system = fake_system(heard={1: "one", 2: "三"}, flow_decoder=1, vocoder=1)
    results = run(Reconstruction(path, levels=[4, 1]), system, examples)
    assert results["reconstruction.mel_mae.levels_4"]["value"] == pytest.approx(0.25)
    assert results["reconstruction.mel_mae.levels_1"]["value"] == pytest.approx(1.0)
    assert results["reconstruction.coarse_mel_mae.levels_4"]["value"] == pytest.approx(1.0)
    assert results["reconstruction.mel_mae.levels_4"]["frames"] == 100
    assert results["reconstruction.en.wer.levels_4"]["value"] == 0.0
    assert results["reconstruction.zh.cer.levels_4"]["value"] == 1.0
    assert "reconstruction.en.wer.levels_1" not in results
    panels = examples.found["mels"][0]["panels"]
    assert [panel["name"] for panel in panels] == ["original", "4 codebooks", "1 codebooks"]
    assert np.load(examples.root / panels[1]["file"]).shape == (50, 4)


def test_retention_takes_both_tasks_of_text_and_keeps_their_counts(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards(
        [
            sample("a", "one plus one", answer="two"),
            sample("b", "one plus two", answer="three"),
            sample("c", "five", translation="五", target_language="zh"),
            sample("d", "six"),
        ]
    )
    benchmark = Retention(path, "stage1", audio_llm="runs/x/stage1")
    results = run(benchmark, fake_system(texts={"a": "two", "b": "four", "c": "五"}), examples)
    entry = results["retention.text_accuracy.stage1"]
    assert entry["value"] == 2 / 3
    assert (entry["correct_aqa"], entry["total_aqa"], entry["correct_s2tt"], entry["total_s2tt"]) == (1, 2, 1, 1)
    assert benchmark.audio_llm == "runs/x/stage1"


def test_choice_takes_the_ending_with_the_higher_likelihood(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    path = shards([sample(key, "s|r|w", roles=("narrator", "right", "wrong")) for key in ("a", "b")])
    system = fake_system(scores={"a": (-1.0, -2.0), "b": (-3.0, -2.0)})
    results = run(Choice(path), system, examples)
    assert results["choice.text.accuracy"] == {"value": 0.5, "correct": 1, "total": 2}
    assert set(results) == {"choice.text.accuracy", "choice.speech.accuracy"}


def test_human_prompts_of_number_words_alone(sample: Make, shards: Write, fake_system: Any, examples: Examples) -> None:
    path = shards(
        [
            sample("a", "Twenty one", corpus="prompts"),
            sample("b", "dial one", corpus="prompts"),
            sample("c", "six", split="train"),
        ]
    )
    results = run(HumanDigits(path), fake_system(texts={"a": "twenty", "c": "six"}), examples)
    assert set(results) == {"human.digits.wer"}
    assert results["human.digits.wer"]["value"] == 1 / 3
    results = run(HumanReconstruction(path, levels=[8]), fake_system(), examples)
    assert results["human.reconstruction.mel_mae"]["value"] == pytest.approx(1 / 8)
    assert results["human.reconstruction.mel_mae"]["clips"] == 3


def test_pocketsphinx_stays_within_its_grammar_and_hears_nothing_in_silence() -> None:
    pytest.importorskip("pocketsphinx")
    from bcaudio.evaluation.hearing import NUMBER_WORDS, SphinxEar

    noise = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    ear = SphinxEar()
    assert ear.hear(np.zeros(24000, dtype=np.float32), 24000) == ""
    assert set(ear.hear(noise, 24000).split()) <= set(NUMBER_WORDS)
