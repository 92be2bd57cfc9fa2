from __future__ import annotations

import numpy as np
import pytest

from data_prep.steps.asr_filter import CheckTranscript, error_rate
from data_prep.utterance import Clip, Drops, Part, Utterance

RATE = 1000


def _clip(text: str, *heard: str, language: str = "en") -> Clip:
    utterance = Utterance("k", "c", "train", language, (Part(text, "narrator"),), text)
    return Clip(utterance, np.ones(RATE, np.float32), RATE, measures={f"t{i}": value for i, value in enumerate(heard)})


def _run(step: CheckTranscript, clip: Clip) -> tuple[list[Clip], list[tuple[str, object]]]:
    drops = Drops()
    kept = list(step(iter([clip]), drops))
    return kept, [(drop.reason, drop.value) for drop in drops]


def test_error_rate_counts_words_and_hanzi() -> None:
    assert error_rate("One, two three four.", "one too three", "en") == 0.5
    assert error_rate("三加四等于七", "三加四等七", "zh") == pytest.approx(1 / 6)
    assert error_rate("", "", "en") == 0.0
    assert error_rate("...", "yes", "en") == 1.0


def test_the_threshold_is_that_of_the_language_and_includes_itself() -> None:
    step = CheckTranscript({"en": 0.25, "other": 0.0}, ["t0"])
    kept, drops = _run(step, _clip("a b c d", "a b c x"))
    assert kept[0].measures["asr_error"] == 0.25
    assert drops == []
    assert _run(step, _clip("a b c d", "a b x x")) == ([], [("asr disagrees", 0.5)])
    assert _run(step, _clip("a b c d", "a b c x", language="fr")) == ([], [("asr disagrees", 0.25)])


def test_every_recogniser_of_an_ensemble_must_agree() -> None:
    step = CheckTranscript({"other": 0.25}, ["t0", "t1"])
    assert len(_run(step, _clip("a b c d", "a b c d", "a b c x"))[0]) == 1
    assert _run(step, _clip("a b c d", "a b c d", "a x x x")) == ([], [("asr disagrees", 0.75)])


def test_without_a_text_recognisers_must_agree_with_each_other() -> None:
    step = CheckTranscript({"other": 0.25}, ["t0", "t1"])
    [clip], _ = _run(step, _clip("", "A b c d.", "a b c x"))
    assert clip.utterance.text == clip.utterance.parts[0].text == "A b c d."
    assert _run(step, _clip("", "a b c d", "w x y z")) == ([], [("asr disagrees", 1.0)])
    assert _run(step, _clip("", "a b", "...")) == ([], [("nothing heard", None)])


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (("a b c d", "a b c d"), None),
        (("a b x x", "a b x x"), "tts"),  # both heard the same other words: those were said
        (("a b c d", "x x x x"), "asr"),  # one heard the text
        (("w w w w", "x x x x"), "asr"),  # nobody agrees with anybody
    ],
)
def test_two_way_recycling_of_an_ensemble(heard: tuple[str, str], expected: str | None) -> None:
    kept, drops = _run(CheckTranscript({"other": 0.1}, ["t0", "t1"], recycle=True), _clip("a b c d", *heard))
    assert kept[0].measures.get("recycle") == expected
    assert drops == []


def test_recognisers_that_agree_blame_the_synthesis_only_if_all_differ_from_the_text() -> None:
    step = CheckTranscript({"other": 0.25}, ["t0", "t1"], recycle=True)
    [clip], _ = _run(step, _clip("a b c d", "a b c x", "a b x x"))  # errors 0.25 and 0.5, 0.25 between them
    assert clip.measures["recycle"] == "asr"


def test_one_recogniser_alone_decides_by_how_far_off_it_is() -> None:
    step = CheckTranscript({"other": 0.1}, ["t0"], recycle=True, bad_synthesis=0.5)
    assert _run(step, _clip("a b c d", "x x x d"))[0][0].measures["recycle"] == "tts"
    assert _run(step, _clip("a b c d", "a b x x"))[0][0].measures["recycle"] == "asr"


def test_planted_wrong_texts_are_found() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(50)])
    planted, found = set(), set()
    for number in range(100):
        text = rng.choice(words, 12)
        heard = text.copy()
        if number % 5 == 0:
            planted.add(number)
            heard = rng.choice(words, 12)  # another sentence
        elif number % 2:
            heard[3] = "misheard"
        kept, _ = _run(CheckTranscript({"other": 0.1}, ["t0"]), _clip(" ".join(text), " ".join(heard)))
        found |= set() if kept else {number}
    recall, precision = len(planted & found) / len(planted), len(planted & found) / len(found)
    assert (recall, precision) == (1.0, 1.0), f"recall {recall:.2f}, precision {precision:.2f}"


def test_a_missing_measure_says_which_step_brings_it() -> None:
    with pytest.raises(ValueError, match=r"no measure 't1'; put Transcribe"):
        _run(CheckTranscript(transcripts=["t1"]), _clip("a", "a"))
    with pytest.raises(ValueError, match="'other'"):
        CheckTranscript({"en": 0.1})
