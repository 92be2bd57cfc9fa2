"""Taking a stretch out of a clip: what VAD and segmentation share."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from data_prep.steps.words import places_of, with_opening
from data_prep.utterance import Clip, Part

MAX_KEY = 80  # bcaudio.data.schema


def child_key(key: str, number: int) -> str:
    """`key-003`; a key that would become too long is shortened, its hash in place of the tail."""
    tail = f"-{number:03d}"
    if len(key) + len(tail) > MAX_KEY:
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        key = f"{key[: MAX_KEY - len(tail) - 13]}-{digest}"
    return key + tail


def cut(clip: Clip, start_s: float, end_s: float, number: int | None) -> Clip:
    """The stretch [start_s, end_s) of a clip as a clip of its own: one part, its words moved, its text what the words cover.

    Args:
        clip: a clip of one part.
        start_s, end_s: seconds in the clip.
        number: which child it is; None keeps key and text (only silence was cut off).
    """
    rate, utterance = clip.sample_rate, clip.utterance
    first, last = round(start_s * rate), min(round(end_s * rate), len(clip.waveform))
    inside = [i for i, word in enumerate(clip.words) if start_s <= (word.start_s + word.end_s) / 2 < end_s]
    words = tuple(
        replace(
            clip.words[i], start_s=max(clip.words[i].start_s, start_s) - start_s, end_s=min(clip.words[i].end_s, end_s) - start_s
        )
        for i in inside
    )
    moved = replace(utterance, start_s=utterance.start_s + start_s, end_s=utterance.start_s + end_s)
    if number is not None:
        text = _text_of(clip, inside)
        role = utterance.parts[0].role
        moved = replace(moved, key=child_key(utterance.key, number), text=text, parts=(Part(text, role),))
    return replace(clip, utterance=moved, waveform=clip.waveform[first:last], words=words, spans=())


def _text_of(clip: Clip, inside: list[int]) -> str:
    """What these words say, with its punctuation; empty where the clip is not aligned."""
    if not inside:
        return ""
    text = clip.utterance.text
    places = places_of(clip.words, text, clip.utterance.language)
    if places is None:
        return " ".join(clip.words[i].text for i in inside)
    begin = places[inside[0]] if inside[0] else 0
    ends = [place for place in places[inside[-1] + 1 :] if place is not None]
    return text[with_opening(text, begin or 0) : with_opening(text, ends[0]) if ends else len(text)].strip()
