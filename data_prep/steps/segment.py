"""Natural segmentation: text and sound are parted at punctuation and pauses, in step (paper section 4, figure 4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from data_prep.steps.cut import child_key
from data_prep.steps.words import pieces_of, places_of, with_opening
from data_prep.utterance import Clip, Drops, Part, Word

SENTENCE, CLAUSE, NONE = 2, 1, 0
_SENTENCE_MARKS = re.compile(r"[.!?…。！？；;\n]")
_CLAUSE_MARKS = re.compile(r"[,:，、：—]")
_ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st", "prof", "vs", "e.g", "i.e", "sr", "sra"}
_UNITS_PER_S = {"zh": 4.5, "en": 2.7}  # ordinary reading: hanzi, words; a text has no other length before it is spoken
_WINDOW_S = 0.03


@dataclass(frozen=True)
class _Token:
    """A word that a segment may begin with: its place in the text, its time, and how strong the break after it is."""

    place: int
    start_s: float
    end_s: float
    strength: int


class Segment:
    """A clip with words gets parts and spans; a longer clip than `max_clip_s` becomes several at such borders.

    Spans follow each other without gap and cover the clip: every border lies at the quietest place between its two words. A
    text-only clip gets parts alone, its lengths estimated from ordinary reading. A clip that has several parts already passes.

    Drops: `no alignment`, `words differ from the text`, `no text`.

    Args:
        level: where segments may end: after sentences, or also after clauses (comma, colon). A pause of `pause_s` counts as the
            end of a sentence. Only what would exceed `max_s` is cut elsewhere: at a clause, else at the longest gap between
            words.
        min_s, max_s: length of a segment; the last one, and a single word, may fall outside.
        pause_s: seconds between two words.
        max_clip_s: length of a clip (paper: under 300 s).

    Raises:
        ValueError: not 0 <= min_s < max_s < max_clip_s.
    """

    def __init__(
        self,
        level: Literal["sentence", "clause"] = "sentence",
        min_s: float = 1.0,
        max_s: float = 30.0,
        pause_s: float = 0.5,
        max_clip_s: float = 300.0,
    ) -> None:
        if level not in ("sentence", "clause"):
            raise ValueError(f"Segment: level is {level!r}; it must be sentence or clause")
        if not 0 <= min_s < max_s < max_clip_s:
            raise ValueError(f"Segment: min_s {min_s}, max_s {max_s}, max_clip_s {max_clip_s} must rise")
        self.level = SENTENCE if level == "sentence" else CLAUSE
        self.min_s, self.max_s, self.pause_s, self.max_clip_s = min_s, max_s, pause_s, max_clip_s

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if len(clip.utterance.parts) > 1:
                yield clip
                continue
            spoken = len(clip.waveform) > 0
            text, language = clip.utterance.text, clip.utterance.language
            words = clip.words if spoken else _read_aloud(text, language)
            places = places_of(words, text, language)
            if not words:
                drops.add(clip, self, "no alignment" if spoken else "no text")
            elif places is None:
                drops.add(clip, self, "words differ from the text", text[:80])
            else:
                tokens = self._tokens(words, places, text)
                firsts = self._firsts(tokens)
                yield from self._clips(clip, tokens, firsts) if spoken else (_with_parts(clip, tokens, firsts),)

    def _tokens(self, words: Sequence[Word], places: Sequence[int | None], text: str) -> list[_Token]:
        heads = [i for i, place in enumerate(places) if place is not None]
        tokens = []
        for i, after in zip(heads, [*heads[1:], len(words)], strict=True):
            last, place = words[after - 1], places[i] or 0
            written = text[place : places[after] if after < len(words) else len(text)]
            pause_s = words[after].start_s - last.end_s if after < len(words) else 0.0
            strength = SENTENCE if pause_s >= self.pause_s else _strength(written)
            tokens.append(_Token(place, words[i].start_s, last.end_s, strength))
        return tokens

    def _firsts(self, tokens: Sequence[_Token]) -> list[int]:
        """The first token of every segment."""
        firsts, first = [0], 0
        i = 0
        while i < len(tokens) - 1:
            if tokens[i + 1].end_s - tokens[first].start_s > self.max_s and tokens[i].strength < self.level:
                cut = self._best_cut(tokens, first, i)
            elif tokens[i].strength >= self.level and tokens[i].end_s - tokens[first].start_s >= self.min_s:
                cut = i
            else:
                i += 1
                continue
            first = i = cut + 1
            firsts.append(first)
        if len(firsts) > 1:
            rest_s = tokens[-1].end_s - tokens[firsts[-1]].start_s
            if rest_s < self.min_s and tokens[-1].end_s - tokens[firsts[-2]].start_s <= self.max_s:
                firsts.pop()
        return firsts

    def _best_cut(self, tokens: Sequence[_Token], first: int, last: int) -> int:
        """After which of the tokens first..last to cut: the strongest break, then the longest gap, then the latest."""
        long_enough = [i for i in range(first, last + 1) if tokens[i].end_s - tokens[first].start_s >= self.min_s] or [last]
        return max(long_enough, key=lambda i: (tokens[i].strength, round(tokens[i + 1].start_s - tokens[i].end_s, 3), i))

    def _clips(self, clip: Clip, tokens: Sequence[_Token], firsts: Sequence[int]) -> Iterator[Clip]:
        inner = [_quietest(clip, tokens[i - 1], tokens[i]) for i in firsts[1:]]
        borders = [0.0, *inner, clip.duration_s]
        texts = _texts(clip, tokens, firsts)
        groups, begin = [], 0
        for i in range(1, len(texts) + 1):
            if i == len(texts) or borders[i + 1] - borders[begin] > self.max_clip_s:
                groups.append((begin, i))
                begin = i
        for number, (begin, end) in enumerate(groups):
            yield _child(clip, borders[begin : end + 1], texts[begin:end], number if len(groups) > 1 else None)


def _strength(written: str) -> int:
    """The break after a word, from the text between it and the next one."""
    core = written.rstrip()
    if core.endswith(".") and core[:-1].lower().strip("\"'(“‘") in _ABBREVIATIONS:
        return NONE
    tail = re.sub(r".*[^\W_]", "", core, flags=re.DOTALL)  # what follows the last letter or digit
    return SENTENCE if _SENTENCE_MARKS.search(tail) else CLAUSE if _CLAUSE_MARKS.search(tail) else NONE


def _read_aloud(text: str, language: str) -> tuple[Word, ...]:
    per_s = _UNITS_PER_S["zh" if language.split("-")[0] in ("zh", "yue", "ja") else "en"]
    words, at = [], 0.0
    for piece in pieces_of(text, language):
        end = at + len(piece.units) / per_s
        words.append(Word(piece.text, at, end))
        at = end
    return tuple(words)


def _texts(clip: Clip, tokens: Sequence[_Token], firsts: Sequence[int]) -> list[str]:
    text = clip.utterance.text
    starts = [0, *(with_opening(text, tokens[i].place) for i in firsts[1:])]
    return [text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _with_parts(clip: Clip, tokens: Sequence[_Token], firsts: Sequence[int]) -> Clip:
    part = clip.utterance.parts[0]
    parts = tuple(Part(text, part.role, part.timbre) for text in _texts(clip, tokens, firsts))
    return replace(clip, utterance=replace(clip.utterance, parts=parts), spans=())


def _quietest(clip: Clip, before: _Token, after: _Token) -> float:
    """The middle of the quietest 30 ms between the middles of two words, at most 0.1 s inside either; ties: the middle one."""
    low = max(before.end_s - 0.1, (before.start_s + before.end_s) / 2)
    high = max(min(after.start_s + 0.1, (after.start_s + after.end_s) / 2), low)
    first, size = round(low * clip.sample_rate), max(1, round(_WINDOW_S * clip.sample_rate))
    piece = clip.waveform[first : round(high * clip.sample_rate)].astype(np.float64)
    if len(piece) <= size:
        return (low + high) / 2
    sums = np.concatenate([[0.0], np.cumsum(piece**2)])
    energy = sums[size:] - sums[:-size]
    quiet = np.flatnonzero(energy <= energy.min() + 1e-9 * size)
    return (first + float(quiet[len(quiet) // 2]) + size / 2) / clip.sample_rate


def _child(clip: Clip, borders: Sequence[float], texts: Sequence[str], number: int | None) -> Clip:
    utterance, rate = clip.utterance, clip.sample_rate
    start_s, end_s = borders[0], borders[-1]
    part = utterance.parts[0]
    parts = tuple(Part(text, part.role, part.timbre) for text in texts)
    spans = tuple((low - start_s, high - start_s) for low, high in pairwise(borders))
    if number is None:
        return replace(clip, utterance=replace(utterance, parts=parts), spans=spans)
    words = tuple(
        Word(word.text, max(word.start_s - start_s, 0.0), min(word.end_s, end_s) - start_s)
        for word in clip.words
        if start_s <= (word.start_s + word.end_s) / 2 < end_s
    )
    joint = "" if utterance.language.split("-")[0] in ("zh", "yue", "ja") else " "
    moved = replace(
        utterance,
        key=child_key(utterance.key, number),
        text=joint.join(texts),
        parts=parts,
        start_s=utterance.start_s + start_s,
        end_s=utterance.start_s + end_s,
    )
    waveform = clip.waveform[round(start_s * rate) : round(end_s * rate)]
    return replace(clip, utterance=moved, waveform=waveform, words=words, spans=spans)
