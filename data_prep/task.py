"""One task of a pipeline: the utterances of a chunk, or the clips of a shard, through the steps into a new shard."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import read_header
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import SAMPLE_RATE, write_shard
from bcaudio.recipe.record import write_atomic
from data_prep.steps.clip import make_clip
from data_prep.steps.only import Only
from data_prep.utterance import Clip, Drop, Drops, MissingExtra, Part, Rejected, Step, Survey, Timbre, Utterance, Word

ENVIRONMENT = (MissingExtra, OSError)  # errors that no clip is to blame for
SIMPLE = (str, int, float, bool, type(None))
SAME_IN_SAMPLE = (
    "key",
    "corpus",
    "split",
    "language",
    "speaker",
    "text",
    "translation",
    "target_language",
    "answer",
    "source",
    "licence",
)


@dataclass(frozen=True)
class Task:
    """All that a worker needs for one shard.

    Args:
        tar, done: the shard and its done-record to be.
        inputs_sha256: hash of everything that decides the shard's bytes.
        source: a chunk of the plan (`.jsonl`), or a shard of the phase before (`.tar`).
        scratch: where sources unpacked their recordings.
        max_duration_s: longer clips are dropped when they are opened.
        fingerprint: for the index.
        steps: transforms, in order.
        before, verdicts: a survey and its verdicts on these clips, applied before the steps.
        after: a survey that looks at what comes out.
    """

    tar: Path
    done: Path
    inputs_sha256: str
    source: Path
    scratch: Path
    max_duration_s: float
    fingerprint: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    before: Survey | None = None
    verdicts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    after: Survey | None = None

    def __str__(self) -> str:
        return str(self.tar)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "steps": pickle.dumps(self.steps)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "steps": _steps(state["steps"])})

    @property
    def looks(self) -> Path:
        """Where `after` leaves what it saw, a line per clip."""
        return self.done.with_suffix(".looks.jsonl")


@lru_cache(maxsize=1)
def _steps(pickled: bytes) -> tuple[Step, ...]:
    """Steps as a worker gets them; the tasks of a phase have the same, so that a model is loaded once per worker."""
    return pickle.loads(pickled)


def finished(task: Task) -> dict[str, Any] | None:
    """The done-record of a shard that is there, whole and made from the same inputs; else None."""
    try:
        record = json.loads(task.done.read_text(encoding="utf-8"))
        if record["inputs_sha256"] != task.inputs_sha256 or (task.after is not None and not task.looks.exists()):
            return None
        header = read_header(task.tar)
        return record if record["sha256"] == header["sha256"] and task.tar.stat().st_size == header["num_bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


def make_shard(task: Task) -> dict[str, Any]:
    """Make one shard, then its done-record, which is returned. A bad clip is dropped with its reason, and the shard goes on.

    Steps see the clips as one stream. If one of them fails, the shard is made again with a stream per clip, and the clips that
    fail are dropped: one bad clip costs time, never its neighbours. No clip is to blame for a package that is missing, a full
    disk or a server that is gone: these stop the run.

    Raises:
        MissingExtra, OSError: as said.
        ValueError: the shard of the phase before is not what was written.
    """
    task.done.unlink(missing_ok=True)
    task.done.parent.mkdir(parents=True, exist_ok=True)
    try:
        run = Run(task)
        write_shard(run.samples(run.through(run.opened())), task.tar, dict(task.fingerprint))
    except ENVIRONMENT:
        raise
    except Exception:  # a step may fail in any way; what fails again on its own is named in the drops
        run = Run(task)
        write_shard(run.samples(run.one_by_one()), task.tar, dict(task.fingerprint))
    header = read_header(task.tar)
    record = {
        "shard": task.tar.stem,
        "inputs_sha256": task.inputs_sha256,
        "sha256": header["sha256"],
        "num_samples": header["num_samples"],
        "duration_s": round(header["totals"]["seconds"], 3),
        "into": {name: [clips, round(seconds, 3)] for name, (clips, seconds) in run.into.items()},
        "drops": [dataclasses.asdict(drop) for drop in run.drops],
    }
    if task.after is not None:
        write_atomic(task.looks, "".join(json.dumps(look, ensure_ascii=False) + "\n" for look in run.looks))
    write_atomic(task.done, json.dumps(record, ensure_ascii=False) + "\n")
    return record


class Run:
    """One passage of a task's clips: what it counts and what it drops."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.names = step_names([*([task.before] if task.before else []), *task.steps])
        self.drops = Drops(self.names)
        self.into: dict[str, list[float]] = {name: [0, 0.0] for name in self.names.values()}
        self.looks: list[tuple[str, Any]] = []

    def opened(self) -> Iterator[Clip]:
        """Clips of the source; those that cannot be opened are dropped by `read`."""
        return self._of_shard() if self.task.source.suffix == ".tar" else self._of_plan()

    def _of_plan(self) -> Iterator[Clip]:
        with open(self.task.source, encoding="utf-8") as lines:
            for line in lines:
                utterance = from_line(line)
                try:
                    yield clip_of(*make_clip(utterance, self.task.scratch, self.task.max_duration_s))
                except Rejected as rejected:
                    duration_s = round(rejected.duration_s, 4)
                    self.drops.append(Drop(utterance.key, "read", rejected.reason, rejected.value, duration_s))

    def _of_shard(self) -> Iterator[Clip]:
        with open(self.task.source, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != read_header(self.task.source)["sha256"]:
                raise ValueError(
                    f"{self.task.source}: bytes have changed since it was written; delete it and run the same command again"
                )
        index = ShardIndex([self.task.source])
        for i, duration_s in enumerate(index.durations_s):
            yield clip_of(index.sample(i), index.waveform(i) if duration_s else None)

    def through(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """The clips after verdicts and steps, lazily."""
        if self.task.before is not None:
            clips = self._judged(self._counted(clips, self.task.before))
        for step in self.task.steps:
            clips = step(self._counted(clips, step), self.drops)
        return clips

    def one_by_one(self) -> Iterator[Clip]:
        """The same with a stream of its own for every clip; one that fails is dropped by `step failed`."""
        for clip in self.opened():
            num_drops, into = len(self.drops), {name: list(counts) for name, counts in self.into.items()}
            try:
                made = list(self.through(iter([clip])))
            except ENVIRONMENT:
                raise
            except Exception as error:
                del self.drops[num_drops:]
                self.into = into
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                self.drops.append(Drop(clip.utterance.key, "pipeline", "step failed", reason, round(clip.duration_s, 4)))
                continue
            yield from made

    def samples(self, clips: Iterable[Clip]) -> Iterator[tuple[Sample, np.ndarray | None]]:
        """What the shard holds; a clip that is no valid sample, or has a key that was seen, is dropped."""
        seen: set[str] = set()
        for clip in clips:
            if clip.utterance.key in seen:
                self.drops.append(Drop(clip.utterance.key, "write", "duplicate key", None, round(clip.duration_s, 4)))
                continue
            try:
                sample = sample_of(clip)
            except ValueError as error:
                self.drops.append(Drop(clip.utterance.key, "write", "no valid sample", str(error), round(clip.duration_s, 4)))
                continue
            seen.add(clip.utterance.key)
            if self.task.after is not None:
                self.looks.append((sample.key, self.task.after.look(clip)))
            yield sample, clip.waveform if len(clip.waveform) else None

    def _counted(self, clips: Iterator[Clip], step: object) -> Iterator[Clip]:
        name = self.names[id(step)]
        for clip in clips:
            self.into[name][0] += 1
            self.into[name][1] += clip.duration_s
            yield clip

    def _judged(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        assert self.task.before is not None
        for clip in clips:
            key = clip.utterance.key
            kept = self.task.before.apply(clip, self.task.verdicts[key], self.drops) if key in self.task.verdicts else clip
            if kept is not None:
                yield kept


def from_line(line: str) -> Utterance:
    """An utterance of the plan; the inverse of `data_prep.plan.to_line`."""
    fields = json.loads(line)
    parts = tuple(Part(text, role, *(Timbre(*values) for values in timbre)) for text, role, *timbre in fields.pop("parts"))
    return Utterance(parts=parts, **fields)


def clip_of(sample: Sample, waveform: np.ndarray | None) -> Clip:
    """A sample as it goes through the steps; the inverse of `sample_of`."""
    utterance = Utterance(
        **{name: getattr(sample, name) for name in SAME_IN_SAMPLE},
        parts=tuple(Part(span.text, span.role) for span in sample.spans),
    )
    return Clip(
        utterance,
        np.zeros(0, np.float32) if waveform is None else waveform,
        SAMPLE_RATE,
        words=tuple(Word(*word) for word in sample.words),
        spans=tuple((span.start_s, span.end_s) for span in sample.spans),
        measures=dict(sample.measures),
    )


def sample_of(clip: Clip) -> Sample:
    """A clip as a shard holds it.

    Raises:
        ValueError: another sample rate than the shard's, spans that do not fit the parts, or what `Sample` refuses.
    """
    if len(clip.waveform) and clip.sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"{clip.utterance.key}: {clip.sample_rate} Hz, but shards hold {SAMPLE_RATE} Hz; end with data_prep.steps.resample"
        )
    parts = clip.utterance.parts
    spans = clip.spans or ((0.0, clip.duration_s),) * (len(parts) == 1)
    if len(spans) != len(parts):
        raise ValueError(f"{clip.utterance.key}: {len(parts)} parts, but {len(spans)} spans; a step must set both")
    return Sample(
        **{name: getattr(clip.utterance, name) for name in SAME_IN_SAMPLE},
        spans=tuple(Span(part.text, start_s, end_s, part.role) for part, (start_s, end_s) in zip(parts, spans, strict=True)),
        duration_s=clip.duration_s if len(clip.waveform) else 0.0,
        words=tuple((word.text, round(word.start_s, 4), round(word.end_s, 4)) for word in clip.words),
        measures=dict(clip.measures),
    )


def step_names(steps: Sequence[object]) -> dict[int, str]:
    """`id` of every step -> its class, with a number where a class comes again: CutSpeech, Segment, CutSpeech-2.

    A step that only wraps another (`data_prep.steps.only.Only`) has the name of that one.
    """
    names: dict[int, str] = {}
    for step in steps:
        title = type(step.step if isinstance(step, Only) else step).__name__
        count = sum(name.partition("-")[0] == title for name in names.values())
        names[id(step)] = title + (f"-{count + 1}" if count else "")
    return names


def specification(value: Any) -> Any:
    """What a step is made of, as JSON: its class and its constructor's values; part of the hash of a task's inputs."""
    if isinstance(value, SIMPLE):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): specification(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = [specification(entry) for entry in value]
        return sorted(entries, key=json.dumps) if isinstance(value, set | frozenset) else entries
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    fields: Mapping[str, Any] = {}
    with contextlib.suppress(TypeError):
        fields = vars(value)
    return [
        f"{type(value).__module__}.{type(value).__qualname__}",
        {name: specification(entry) for name, entry in fields.items()},
    ]
