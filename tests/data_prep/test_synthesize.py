from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.sources.micro_world import MicroWorld
from data_prep.sources.timbres import NARRATORS, TEST_TIMBRES, TRAIN_TIMBRES
from data_prep.steps.clip import make_clip
from data_prep.steps.synthesize import MARGIN_S, synthesize
from data_prep.utterance import Rejected, Timbre

pytest.importorskip("espeakng_loader")


def test_word_times_lie_inside_the_clip_and_on_sound() -> None:
    speech = synthesize("tom has three apples.", "en", NARRATORS["en"])
    duration_s = len(speech.waveform) / 24_000
    assert [word.text for word in speech.words] == ["tom", "has", "three", "apples"]
    assert speech.words[0].start_s == pytest.approx(MARGIN_S, abs=0.05)
    for word, following in zip(speech.words, [*speech.words[1:], None], strict=True):
        assert 0 <= word.start_s < word.end_s <= duration_s
        assert following is None or word.end_s == following.start_s
        assert np.abs(speech.waveform[round(word.start_s * 24_000) : round(word.end_s * 24_000)]).max() > 0.05


def test_chinese_has_one_time_per_hanzi() -> None:
    assert [word.text for word in synthesize("三加四等于七", "zh", NARRATORS["zh"]).words] == list("三加四等于七")


def test_silence_is_trimmed_to_the_margin() -> None:
    waveform = synthesize("seven", "en", NARRATORS["en"]).waveform
    margin = round(MARGIN_S * 24_000)
    assert not waveform[:margin].any()
    assert waveform[margin] != 0
    assert not waveform[-margin:].any()
    assert waveform[-margin - 1] != 0


# caleb is a Klatt voice, whose noise comes from the C library's generator
@pytest.mark.parametrize("variant", [TRAIN_TIMBRES[0].variant, "caleb"])
def test_speech_does_not_depend_on_what_was_said_before(variant: str) -> None:
    timbre = Timbre(variant, 50, 190)
    first = synthesize("twenty three, four", "en", timbre).waveform
    synthesize("三加四等于几", "zh", TRAIN_TIMBRES[5])
    np.testing.assert_array_equal(synthesize("twenty three, four", "en", timbre).waveform, first)


def test_every_timbre_speaks_both_languages() -> None:
    lengths = {}
    for timbre in (*TRAIN_TIMBRES, *TEST_TIMBRES):
        for language, text in (("en", "seven, twenty"), ("zh", "七，二十")):
            waveform = synthesize(text, language, timbre).waveform
            assert 0.5 <= np.abs(waveform).max() <= 0.951, timbre
            lengths[timbre.id, language] = len(waveform) / 24_000
    assert len(lengths) == 112
    assert min(lengths.values()) > 0.6
    assert max(lengths.values()) < 2.0


def test_unknown_variant_and_silence_are_rejected() -> None:
    with pytest.raises(Rejected, match="empty"):
        synthesize(" ", "en", NARRATORS["en"])
    with pytest.raises(ValueError, match="'de'"):
        synthesize("eins", "de", Timbre("m3", 50, 180))


def test_spans_of_a_clip_are_parted_by_silence() -> None:
    utterance = MicroWorld("dialogue", 1, 0).list_utterances(0, Path()).utterances[0]
    sample, waveform = make_clip(utterance, Path(), 20.0)
    assert waveform is not None
    assert len(sample.spans) == 2
    first, second = sample.spans
    assert first.start_s == 0.0
    assert second.end_s == pytest.approx(sample.duration_s)
    heard = [np.flatnonzero(waveform[round(s.start_s * 24_000) : round(s.end_s * 24_000)]) for s in sample.spans]
    margin = round(MARGIN_S * 24_000)
    assert heard[0][0] == margin
    assert heard[1][0] == margin
    pause_s = second.start_s - first.end_s + 2 * MARGIN_S
    assert 0.12 <= pause_s <= 0.2501
    with pytest.raises(Rejected, match="too long"):
        make_clip(utterance, Path(), 0.5)


def test_a_clip_has_the_words_of_every_span_at_their_times() -> None:
    (utterance,) = (u for u in MicroWorld("dialogue", 1, 0).list_utterances(0, Path()).utterances if u.language == "en")
    sample, waveform = make_clip(utterance, Path(), 20.0)
    assert waveform is not None
    said = [
        [word for word, start_s, end_s in sample.words if span.start_s <= start_s < end_s <= span.end_s] for span in sample.spans
    ]
    assert [" ".join(words) for words in said] == [span.text for span in sample.spans]
    for _, start_s, end_s in sample.words:
        assert np.abs(waveform[round(start_s * 24_000) : round(end_s * 24_000)]).max() > 0.05
