"""Duplicate removal over all clips: the same sound, or the same text (paper section 4 leaves both out of its figure)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from bcaudio.audio.fingerprint import Copies, fingerprint, pack, unpack
from data_prep.steps.words import normal_form
from data_prep.utterance import Clip, Drops


class Duplicates:
    """A survey: of several copies the first stays, in the order of the shards.

    Drops: `duplicate audio` (value: key of the copy that stays, share of landmarks in common), `duplicate text` (value: key).

    Time and memory are linear in the corpus: a clip is compared with at most eight others (`fingerprint.Copies`). One million
    clips of 10 s take about 17 minutes of judging, 1.1 GB of memory and a temporary file of 9 GB (scaled from 80,000).

    Args:
        audio: look for copies of a sound, whatever their level, with a little noise or a small shift.
        min_share: of the landmarks of the larger clip. Of copies with noise 20 dB below them 98 % have 0.35 or more; unrelated
            recordings stay near 0. Short sentences of one synthetic voice that differ in a word or two can be alike beyond what
            noise does to a copy: leave this survey out for what you have synthesised yourself.
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
            seen["audio"] = pack(fingerprint(clip.waveform, clip.sample_rate))
        if self.text == "all" or (self.text == "text_only" and not spoken):
            language = clip.utterance.language
            text = normal_form(clip.utterance.text, language)
            if text:
                seen["text"] = hashlib.sha256(f"{language} {text}".encode()).hexdigest()[:32]
        return seen

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        keys: list[str] = []
        texts: list[str | None] = []
        with Copies() as copies:
            for key, look in seen:
                keys.append(key)
                texts.append(look.get("text"))
                copies.add(unpack(look.get("audio", "")))
            return self._verdicts(keys, texts, copies)

    def _verdicts(self, keys: list[str], texts: list[str | None], copies: Copies) -> dict[str, Any]:
        verdicts: dict[str, Any] = {}
        first_with: dict[str, int] = {}
        stays = list(range(len(keys)))  # the clip that stays in place of each; -1: dropped for its text
        earlier, begins = copies.candidates()
        for number, key in enumerate(keys):
            text = texts[number]
            if text in first_with:
                stays[number] = -1
                verdicts[key] = {"reason": "duplicate text", "of": keys[first_with[text]]}
                continue
            others = {stays[other] for other in earlier[begins[number] : begins[number + 1]].tolist()} - {-1}
            found, other = max(((copies.share(number, other), -other) for other in others), default=(0.0, 0))
            if found >= self.min_share:
                stays[number] = -other
                verdicts[key] = {"reason": "duplicate audio", "of": keys[-other], "share": found}
            elif text:
                first_with[text] = number
        return verdicts

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        if verdict is None:
            return clip
        drops.add(clip, self, verdict["reason"], {name: value for name, value in verdict.items() if name != "reason"})
        return None
