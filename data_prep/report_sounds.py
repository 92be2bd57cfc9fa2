"""Sounds of the report: found again for dropped clips, cut to a few seconds, encoded within a budget, drawn with their words."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import inf
from pathlib import Path

import numpy as np

from bcaudio.audio.io import write_audio
from bcaudio.data.index import ShardIndex
from bcaudio.data.schema import Sample
from bcaudio.data.shards import SAMPLE_RATE
from bcaudio.evaluation.report_charts import envelope
from bcaudio.evaluation.report_media import AudioShelf
from bcaudio.evaluation.report_results import absent
from data_prep.report_flow import Dropped, Ticker
from data_prep.steps.clip import make_clip
from data_prep.steps.cut import MAX_KEY
from data_prep.task import from_line
from data_prep.utterance import Rejected

MAX_CLIP_S = 15.0
_WORD_PIXELS = 34  # a drawing with many words scrolls sideways rather than print them over one another


@dataclass(frozen=True)
class Found:
    """A sample with the first `MAX_CLIP_S` of its sound, float32 [N] at 24 kHz; `note`: how it differs from what was asked."""

    sample: Sample
    waveform: np.ndarray
    note: str = ""

    @property
    def shown_s(self) -> float:
        """Seconds that the page plays."""
        return len(self.waveform) / SAMPLE_RATE


def found(sample: Sample, waveform: np.ndarray, note: str = "") -> Found:
    """Cut to what the page plays, so that hundreds of long clips fit in memory."""
    return Found(sample, np.nan_to_num(waveform[: round(MAX_CLIP_S * SAMPLE_RATE)]), note)


def find_dropped(out: Path, drops: Sequence[Dropped], ticker: Ticker) -> list[Found | str]:
    """The clip of every drop as it came into its phase, or the reason why it cannot be had.

    A clip of phase 0 is opened again from the plan; those of later phases lie in the shards of the phase before. A clip that
    a step cut out of another one is represented by that one.
    """
    wanted: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, drop in enumerate(drops):
        wanted[drop.phase, drop.shard].append(number)
    clips: list[Found | str] = [""] * len(drops)
    for done, ((phase, shard), numbers) in enumerate(wanted.items()):
        ticker.tell("dropped clips of shard", done, len(wanted))
        keys = [drops[number].key for number in numbers]
        try:
            long_s = {drops[n].key: drops[n].duration_s for n in numbers if drops[n].reason == "too long"}
            source = _opened(out, shard, keys, long_s) if phase == 0 else _written(out, phase - 1, shard, keys)
        except (ValueError, OSError) as error:
            source = dict.fromkeys(keys, f"its source cannot be read: {error}")
        for number in numbers:
            clips[number] = source.get(drops[number].key, "its source is not in the plan or the shards of this folder")
    return clips


def _lineage(key: str) -> list[str]:
    """The key, then those of the clips that it may have been cut from (`data_prep.steps.cut.child_key`)."""
    keys = [key]
    while len(key) > 4 and key[-4] == "-" and key[-3:].isdigit() and len(key) <= MAX_KEY:
        key = key[:-4]
        keys.append(key)
    return keys


def _match(keys: Iterable[str], known: set[str]) -> dict[str, list[str]]:
    """Source key -> the keys that come from it."""
    match: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        if source := next((name for name in _lineage(key) if name in known), None):
            match[source].append(key)
    return match


def _note(key: str, source: str) -> str:
    return "" if key == source else f"the whole of {source}, which this was cut from"


def _opened(out: Path, shard: str, keys: Sequence[str], long_s: Mapping[str, float]) -> dict[str, Found | str]:
    """Of a recording that was too long (key -> its seconds) no more is read than is played: it may last for hours."""
    candidates = {name for key in keys for name in _lineage(key)}
    with open(out / "plan" / f"{shard}.jsonl", encoding="utf-8") as lines:
        utterances = {u.key: u for u in map(from_line, lines) if u.key in candidates}
    clips: dict[str, Found | str] = {}
    for source, children in _match(keys, set(utterances)).items():
        utterance, length_s = utterances[source], long_s.get(source, 0.0)
        if utterance.audio is not None and length_s > MAX_CLIP_S:
            utterance = replace(utterance, end_s=utterance.start_s + MAX_CLIP_S)
        try:
            sample, waveform = make_clip(utterance, out, inf)
            for key in children:
                note = (
                    f"the beginning of {length_s:,.2f} s" if utterance.end_s != utterances[source].end_s else _note(key, source)
                )
                clips[key] = "a text without sound" if waveform is None else found(sample, waveform, note)
        except (Rejected, ValueError, OSError) as error:
            audio = utterance.audio or "/"
            gone = "://" not in audio and not Path(audio).is_absolute()
            reason = "its recording lay in the scratch folder of the run" if gone else f"it cannot be opened: {error}"
            clips |= dict.fromkeys(children, reason)
    return clips


def _written(out: Path, phase: int, shard: str, keys: Sequence[str]) -> dict[str, Found | str]:
    index = ShardIndex([out / f"phase-{phase}" / "shards" / f"{shard}.tar"])
    places: dict[str, int] = {}
    candidates = {name for key in keys for name in _lineage(key)}
    for i in range(len(index)):
        if (key := index.sample(i).key) in candidates:
            places[key] = i
    clips: dict[str, Found | str] = {}
    for source, children in _match(keys, set(places)).items():
        sample = index.sample(places[source])
        for key in children:
            heard = sample.duration_s > 0
            clips[key] = found(sample, index.waveform(places[source]), _note(key, source)) if heard else "a text without sound"
    return clips


def players(clips: Sequence[Found | str | None], max_bytes: int, ticker: Ticker) -> Iterator[str]:
    """A drawing with a player for each clip, in their order; a reason in words where there is none; "" for None.

    Args:
        clips: what to play; clips that come first get their sound first.
        max_bytes: encoded sound of all clips together (`bcaudio.evaluation.report_media.AudioShelf`).
        ticker: told of every clip.
    """
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as scratch:
        paths = {}
        for number, clip in enumerate(clips):
            if isinstance(clip, Found):
                paths[number] = Path(scratch) / f"{number}.wav"
                write_audio(paths[number], clip.waveform, SAMPLE_RATE)
        shelf, refused_s = AudioShelf(list(paths.values()), max_bytes), inf
        for number, clip in enumerate(clips):
            ticker.tell("sound", number, len(clips))
            if not isinstance(clip, Found):
                yield absent(clip) if clip else ""
                continue
            try:
                if clip.shown_s >= refused_s:  # as long as one that did not fit: not worth the encoding
                    raise ValueError
                encoded = shelf.clip(paths[number])
            except ValueError:
                refused_s = min(refused_s, clip.shown_s)
                yield absent("sound left out, the page has reached its size")
                continue
            whole_s = clip.sample.duration_s
            length = f"first {MAX_CLIP_S:g} s of {whole_s:.2f} s" if whole_s > clip.shown_s + 0.01 else f"{whole_s:.2f} s"
            told = " · ".join(filter(None, (length, clip.note)))
            yield (
                f'<div class="player"><span class="muted">{escape(told)}</span>{drawing(clip, encoded.peaks)}'
                f'<audio controls preload="none" aria-label="{escape(clip.sample.key)}" src="{encoded.uri}"></audio></div>'
            )


def drawing(clip: Found, peaks: Sequence[float]) -> str:
    """The outline of a clip; where it is aligned or has several spans, its words below and its spans as bands behind."""
    shown_s = clip.shown_s

    def place(start_s: float, end_s: float) -> str:
        return f"left:{100 * start_s / shown_s:.2f}%;width:{100 * max(min(end_s, shown_s) - start_s, 0) / shown_s:.2f}%"

    words = [word for word in clip.sample.words if word[1] < shown_s]
    spans = [span for span in clip.sample.spans if span.start_s < shown_s and len(clip.sample.spans) > 1]
    bands = "".join(
        f'<i class="band" style="{place(span.start_s, span.end_s)}" title="{escape(f"{number}: {span.role}")}">{number}</i>'
        for number, span in enumerate(spans, 1)
    )
    marks = "".join(
        f'<span style="{place(start_s, end_s)}" title="{escape(text)} {start_s:.2f}–{end_s:.2f} s">{escape(text)}</span>'
        for text, start_s, end_s in words
    )
    inner = f"{bands}{envelope(peaks)}{f'<div class=words>{marks}</div>' if marks else ''}"
    return f'<div class="wide"><div class="drawn" style="min-width:{_WORD_PIXELS * len(words)}px">{inner}</div></div>'
