from __future__ import annotations

import pickle

import numpy as np
import pytest

from data_prep.steps.synthesize_text import SynthesizeText
from data_prep.tts import Spoken
from data_prep.utterance import Clip, Drops, Part, Rejected, Timbre, Utterance, Word


class Counting:
    """Says 0.1 s per letter, of a level that its voice names."""

    def voices(self, language: str) -> list[str]:
        return [f"v{i}" for i in range(100)]

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        if "bad" in text:
            raise Rejected("synthesis failed", text)
        level = float(voice[1:]) / 100 if voice[0] == "v" else 0.5
        return Spoken(np.full(len(text) * 100, level, np.float32), 1000, (Word(text, 0.0, len(text) / 10),))


def _clip(key: str, *parts: tuple[str, str], timbre: Timbre | None = None) -> Clip:
    made = tuple(Part(text, role, timbre) for text, role in parts)
    return Clip(Utterance(key, "c", "train", "en", made, " ".join(text for text, _ in parts)), np.zeros(0, np.float32), 1000)


def _run(step: SynthesizeText, *clips: Clip) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(pickle.loads(pickle.dumps(step))(iter(clips), drops)), drops


def test_spans_words_and_pauses_are_exact() -> None:
    step = SynthesizeText(Counting(), pause_s=(0.5, 0.5), sample_rate=1000)
    [clip], drops = _run(step, _clip("k", ("four", "narrator"), ("sixsix", "narrator")))
    assert clip.spans == ((0.0, 0.4), (0.9, 1.5))
    assert [(word.text, word.start_s, word.end_s) for word in clip.words] == [("four", 0.0, 0.4), ("sixsix", 0.9, 1.5)]
    assert clip.duration_s == 1.5
    assert not clip.waveform[400:900].any()
    assert not drops


def test_voices_depend_on_key_and_role_alone() -> None:
    step = SynthesizeText(Counting(), sample_rate=1000)
    clips = [_clip(f"k{i}", ("one", "user"), ("two", "assistant"), ("six", "user")) for i in range(200)]
    kept, _ = _run(step, *clips)
    levels = [[clip.waveform[round((a + b) / 2 * 1000)] for a, b in clip.spans] for clip in kept]
    assert all(first == third for first, _, third in levels)
    assert sum(first == second for first, second, _ in levels) < 10  # one in a hundred by chance
    assert len({first for first, _, _ in levels}) > 70
    assert kept[0].utterance.speaker == step.voice("k0", "user", "en")
    [alone], _ = _run(SynthesizeText(Counting(), sample_rate=1000), clips[57])
    np.testing.assert_array_equal(alone.waveform, kept[57].waveform)


def test_few_voices_narrators_and_given_timbres() -> None:
    few = SynthesizeText(Counting(), num_voices=3, narrators={"en": "v7"})
    assert len({few.voice(str(i), "user", "en") for i in range(100)}) == 3
    assert few.voice("k", "assistant", "en") == "v7"
    [clip], _ = _run(SynthesizeText(Counting()), _clip("k", ("one", "user"), timbre=Timbre("f2", 50, 190)))
    assert (clip.utterance.speaker, clip.spans) == ("f2-p50-r190", ())


def test_failures_are_dropped_and_sound_passes() -> None:
    spoken = Clip(_clip("s", ("x", "user")).utterance, np.ones(9, np.float32), 1000)
    kept, drops = _run(SynthesizeText(Counting()), _clip("a", ("bad", "user")), _clip("b", (" ", "user")), spoken)
    assert [clip.utterance.key for clip in kept] == ["s"]
    assert [(d.key, d.reason, d.value) for d in drops] == [("a", "synthesis failed", "bad"), ("b", "no text", None)]
    with pytest.raises(ValueError, match=r"pause_s is \[2, 1\]"):
        SynthesizeText(Counting(), pause_s=[2, 1])


def test_espeak_gives_words_that_fit_the_text() -> None:
    pytest.importorskip("espeakng_loader")
    from data_prep.steps.words import places_of

    [clip], _ = _run(SynthesizeText(), _clip("k", ("Tom has two apples.", "narrator"), ("Now, how many?", "narrator")))
    assert places_of(clip.words, clip.utterance.text, "en") == [0, 4, 8, 12, 20, 25, 29]
    assert clip.words[4].start_s >= clip.spans[1][0]
