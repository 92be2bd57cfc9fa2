"""Duplicate removal over all clips: the same sound, or the same text (paper section 4 leaves both out of its figure)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from data_prep.steps.fingerprint import FingerprintIndex, fingerprint
from data_prep.steps.words import normal_form
from data_prep.utterance import Clip, Drops


class Duplicates:
    """A survey: of several copies the first stays, in the order of the shards.

    Drops: `duplicate audio` (value: key of the copy that stays, share of landmarks in common), `duplicate text` (value: key).

    Args:
        audio: look for copies of a sound, whatever their level, with a little noise or a small shift.
        min_share: of the landmarks of the larger clip. Copies with noise 20 dB below them kept at least 0.45; sentences of one
            espeak-ng voice that share words reached 0.2, unrelated recordings stay near 0.
        text: which exact copies of a normalised text of one language are dropped: those without sound, all, or none. Sentences
            that many people read are no duplicates.

    Raises:
        ValueError: min_share outside (0, 1], or an unknown choice of text.
    """

    def __init__(
        self, audio: bool = True, min_share: float = 0.35, text: Literal["text_only", "all", "none"] = "text_only"
    ) -> None:
        if not 0 < min_share <= 1:
            raise ValueError(f"Duplicates: min_share is {min_share}; it must lie above 0 and be at most 1")
        if text not in ("text_only", "all", "none"):
            raise ValueError(f"Duplicates: text is {text!r}; it must be text_only, all or none")
        self.audio, self.min_share, self.text = audio, min_share, text

    def look(self, clip: Clip) -> dict[str, Any]:
        spoken, seen = len(clip.waveform) > 0, {}
        if self.audio and spoken:
            seen["audio"] = fingerprint(clip.waveform, clip.sample_rate)
        if self.text == "all" or (self.text == "text_only" and not spoken):
            language = clip.utterance.language
            text = normal_form(clip.utterance.text, language)
            if text:
                seen["text"] = hashlib.sha256(f"{language} {text}".encode()).hexdigest()[:32]
        return seen

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        index, texts, verdicts = FingerprintIndex(), {}, {}
        for key, look in seen:
            text, marks = look.get("text"), look.get("audio")
            if text in texts:
                verdicts[key] = {"reason": "duplicate text", "of": texts[text]}
                continue
            copy = index.best(marks, whole=True) if marks else None
            if copy is not None and copy[1] >= self.min_share:
                verdicts[key] = {"reason": "duplicate audio", "of": copy[0], "share": copy[1]}
                continue
            if marks:
                index.add(key, marks)
            if text:
                texts[text] = key
        return verdicts

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        if verdict is None:
            return clip
        drops.add(clip, self, verdict["reason"], {name: value for name, value in verdict.items() if name != "reason"})
        return None
