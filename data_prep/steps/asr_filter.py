"""The ASR filter: does what recognisers hear agree with the text, or with each other? (paper sections 3.2 and 4)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import jiwer

from data_prep.steps.words import units_of
from data_prep.utterance import Clip, Drops, Part


class CheckTranscript:
    """Drops clips that recognisers hear otherwise; text-only clips pass. `Transcribe` must have run.

    With a text, every transcript must come within the threshold of it. Without one, every two transcripts must come within the
    threshold of each other, and the first becomes the text. The error counts words, in Chinese hanzi, of the normal form.

    With `recycle` (for synthesised clips; the paper's two ways, section 3.3) nothing is dropped; a clip that fails is marked in
    the measure `recycle` and a later recipe routes it:

    | recycle | found | used for |
    |---|---|---|
    | `tts` | recognisers agree with each other, not with the text: the synthesis is wrong | TTS only |
    | `asr` | they do not agree with each other either: the recognition is wrong | the ASR set |

    One transcript alone cannot tell: an error above `bad_synthesis` is blamed on the synthesis, a smaller one on the recognition.

    Drops: `asr disagrees`, `nothing heard` (no text, and a transcript is empty). Adds the measure `asr_error`, the largest.

    Args:
        max_error: language -> greatest error rate; `other` holds for languages not named.
        transcripts: measures to compare.
        recycle: mark instead of drop.
        bad_synthesis: see above.

    Raises:
        ValueError: no `other`, no transcript, or a clip without the measures named.
    """

    def __init__(
        self,
        max_error: Mapping[str, float] | None = None,
        transcripts: Sequence[str] = ("transcript",),
        recycle: bool = False,
        bad_synthesis: float = 0.5,
    ) -> None:
        self.max_error = dict(max_error) if max_error is not None else {"other": 0.1}
        if "other" not in self.max_error or not transcripts:
            raise ValueError("CheckTranscript: max_error needs an entry 'other', and transcripts at least one name")
        self.transcripts, self.recycle, self.bad_synthesis = tuple(transcripts), recycle, bad_synthesis

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            judged = self._judge(clip, drops) if len(clip.waveform) else clip
            if judged is not None:
                yield judged

    def _judge(self, clip: Clip, drops: Drops) -> Clip | None:
        utterance, language = clip.utterance, clip.utterance.language
        missing = [name for name in self.transcripts if name not in clip.measures]
        if missing:
            raise ValueError(
                f"CheckTranscript: {utterance.key} has no measure {missing[0]!r}; put Transcribe(name=...) before it"
            )
        heard = [clip.measures[name] for name in self.transcripts]
        limit = self.max_error.get(language, self.max_error["other"])
        between = [error_rate(one, other, language) for one, other in combinations(heard, 2)]
        if utterance.text:
            errors = [error_rate(utterance.text, text, language) for text in heard]
        elif not all(units_of(text, language) for text in heard):
            drops.add(clip, self, "nothing heard")
            return None
        else:
            errors = between or [0.0]
            utterance = replace(utterance, text=heard[0], parts=(Part(heard[0], utterance.parts[0].role),))
        worst = round(max(errors), 4)
        measures = {**clip.measures, "asr_error": worst}
        if worst <= limit:
            return replace(clip, utterance=utterance, measures=measures)
        if not self.recycle or not clip.utterance.text:
            drops.add(clip, self, "asr disagrees", worst)
            return None
        agree = bool(between) and max(between) <= limit and min(errors) > limit
        wrong_synthesis = agree if between else worst > self.bad_synthesis
        return replace(clip, measures={**measures, "recycle": "tts" if wrong_synthesis else "asr"})


def error_rate(reference: str, hypothesis: str, language: str) -> float:
    """Substitutions, deletions and insertions per unit of the reference (words; hanzi in Chinese); without any, 0 or 1."""
    expected, said = units_of(reference, language), units_of(hypothesis, language)
    if not expected:
        return 1.0 if said else 0.0
    return float(jiwer.wer(" ".join(expected), " ".join(said)))
