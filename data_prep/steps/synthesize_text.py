"""Synthesis: a text becomes a spoken clip (paper section 4, the synthetic branch; section 3.3, > 10,000 timbres)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bcaudio.audio.io import resample
from bcaudio.data.shards import SAMPLE_RATE
from data_prep.tts import Espeak, Spoken, TTSEngine
from data_prep.utterance import Clip, Drops, Rejected, Word


class SynthesizeText:
    """Speaks the parts of text-only clips, each on its own, so that the times of the spans are exact. Clips with sound pass.

    The voice is chosen by a hash of key and role: the parts of one role have one voice, and a user does not sound like the
    assistant. Parts that have a timbre keep it. The speaker of the clip becomes the voice (of the last part).

    Drops: `synthesis failed`, `empty`, `not precomputed` (as the engine says); `no text`.

    Args:
        engine: `Espeak()` unless given; `data_prep.tts` has others.
        pause_s: least and greatest silence between two parts, chosen by the hash.
        sample_rate: Hz of the clips.
        num_voices: use only so many, chosen by the hash of the seed; 0: all.
        narrators: language -> the one voice of parts with the role `assistant` or `narrator`; others are chosen as above.
        seed: another choice for every key.
    """

    def __init__(
        self,
        engine: TTSEngine | None = None,
        pause_s: Sequence[float] = (0.1, 0.4),
        sample_rate: int = SAMPLE_RATE,
        num_voices: int = 0,
        narrators: dict[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        if len(pause_s) != 2 or not 0 <= pause_s[0] <= pause_s[1]:
            raise ValueError(f"SynthesizeText: pause_s is {list(pause_s)}; give [least, greatest] with 0 <= least <= greatest")
        self.engine = Espeak() if engine is None else engine
        self.pause_s, self.sample_rate, self.num_voices, self.seed = tuple(pause_s), sample_rate, num_voices, seed
        self.narrators = dict(narrators or {})
        self._voices: dict[str, list[str]] = {}

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if len(clip.waveform) or clip.utterance.audio is not None:
                yield clip
                continue
            if not all(part.text.strip() for part in clip.utterance.parts):
                drops.add(clip, self, "no text")
                continue
            try:
                yield self._spoken(clip)
            except Rejected as error:
                drops.add(clip, self, error.reason, error.value)

    def voice(self, key: str, role: str, language: str) -> str:
        """The voice of the parts of one role in one clip."""
        if role in ("assistant", "narrator") and language in self.narrators:
            return self.narrators[language]
        if language not in self._voices:
            known = list(self.engine.voices(language))
            if self.num_voices:
                known = sorted(sorted(known, key=lambda name: _hash(self.seed, name))[: self.num_voices])
            self._voices[language] = known
        names = self._voices[language]
        return names[_hash(self.seed, key, role) % len(names)]

    def _spoken(self, clip: Clip) -> Clip:
        utterance = clip.utterance
        pieces: list[np.ndarray] = []
        words: list[Word] = []
        spans: list[tuple[float, float]] = []
        num_samples, timed, voice = 0, True, ""
        for number, part in enumerate(utterance.parts):
            voice = part.timbre.id if part.timbre else self.voice(utterance.key, part.role, utterance.language)
            said = self.engine.speak(part.text, utterance.language, voice)
            waveform = resample(said.waveform, said.sample_rate, self.sample_rate)
            if number:
                low, high = self.pause_s
                pause_s = low + (high - low) * (_hash(self.seed, utterance.key, number) % 1000) / 999
                pieces.append(np.zeros(round(pause_s * self.sample_rate), np.float32))
                num_samples += len(pieces[-1])
            start_s = num_samples / self.sample_rate
            pieces.append(waveform)
            num_samples += len(waveform)
            spans.append((start_s, num_samples / self.sample_rate))
            words += _moved(said, start_s)
            timed = timed and len(said.words) > 0
        return replace(
            clip,
            utterance=replace(utterance, speaker=voice),
            waveform=np.concatenate(pieces),
            sample_rate=self.sample_rate,
            words=tuple(words) if timed else (),
            spans=tuple(spans) if len(spans) > 1 else (),
        )


def _moved(said: Spoken, by_s: float) -> list[Word]:
    return [Word(word.text, word.start_s + by_s, word.end_s + by_s) for word in said.words]


def _hash(*parts: object) -> int:
    """The same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:8], "big")
