"""Transcription of every clip by a recogniser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from data_prep.steps.recognisers import Recogniser
from data_prep.utterance import Clip, Drops, Part


class Transcribe:
    """Writes what a recogniser hears into a measure; drops nothing (`CheckTranscript` judges). Text-only clips pass.

    Clips are heard one by one, so that no result depends on its neighbours.

    Args:
        recogniser: see `data_prep.steps.recognisers`.
        name: of the measure; give each recogniser of an ensemble its own, e.g. `transcript`, `transcript_2`.
        as_text: clips without text take it as their text (crawled sound).
    """

    def __init__(self, recogniser: Recogniser, name: str = "transcript", as_text: bool = False) -> None:
        if not name:
            raise ValueError("Transcribe: name is empty; give the measure a name")
        self.recogniser, self.name, self.as_text = recogniser, name, as_text

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if not len(clip.waveform):
                yield clip
                continue
            utterance = clip.utterance
            text = self.recogniser.transcribe([clip.waveform], clip.sample_rate, utterance.language)[0]
            if self.as_text and not utterance.text and len(utterance.parts) == 1:
                utterance = replace(utterance, text=text, parts=(Part(text, utterance.parts[0].role),))
            yield replace(clip, utterance=utterance, measures={**clip.measures, self.name: text})
