"""What a step of a recipe works on: rows of documents as its tasks make them, without shards or a text tokenizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from bcaudio.data.batch import PackedBatch, pack
from bcaudio.data.schema import Sample, Span
from bcaudio.data.sequence import SequenceBuilder, TokenSequence
from bcaudio.data.tasks import TASKS, segments_of
from bcaudio.recipe.errors import did_you_mean
from bcaudio.text.special_tokens import SpecialIds

CODE_RATE_HZ = 12.5
CHARS_PER_S = 14.0  # 150 words a minute
CHARS_PER_TOKEN = 4.0
NUM_SPANS = 4  # of a sample whose task takes spans in turn


class _Words:
    """Stands for a text tokenizer where only the number of tokens matters."""

    def __init__(self, audio_pad: int) -> None:
        ids = iter(i for i in range(len(fields(SpecialIds)) + 2) if i != audio_pad)
        self.special = SpecialIds(**{f.name: audio_pad if f.name == "audio_pad" else next(ids) for f in fields(SpecialIds)})
        self.word = next(ids)

    def encode(self, text: str) -> list[int]:
        return [self.word] * math.ceil(len(text) / CHARS_PER_TOKEN)


@dataclass(frozen=True)
class Share:
    """One task of a mixture: its share of the samples and one typical document.

    Args:
        task: its name; weight: share of the samples, all shares together 1.
        document: of a sample of the assumed length.
        heard, spoken: frames of audio that are read only, and those that are paid for.
    """

    task: str
    weight: float
    document: TokenSequence
    heard: int
    spoken: int


@dataclass(frozen=True)
class Workload:
    """A step of the whole job.

    Args:
        tokens: positions of a step over all ranks, padding left out.
        row_tokens: positions of a row.
        rows: rows of one micro-batch of one rank.
        accumulate: micro-batches per step.
        row: one row with documents of all tasks; None where batches are clips.
        shares: the mixture.
        clip_s: seconds of audio of a sample (assumed).
        notes: what a user should know about it.
    """

    tokens: float
    row_tokens: int
    rows: int
    accumulate: int
    row: PackedBatch | None
    shares: Sequence[Share]
    clip_s: float
    notes: tuple[str, ...] = ()

    @property
    def frames_per_token(self) -> float:
        """Frames of audio, heard or spoken, per position."""
        if not self.shares:
            return 1.0
        tokens = sum(share.weight * len(share.document) for share in self.shares)
        return sum(share.weight * (share.heard + share.spoken) for share in self.shares) / tokens

    @property
    def samples(self) -> float:
        """Samples of a step."""
        if not self.shares:
            return self.tokens / self.row_tokens
        return self.tokens / sum(share.weight * len(share.document) for share in self.shares)

    def batch(self, rows: int) -> PackedBatch:
        """`rows` times the row."""
        assert self.row is not None
        tensors = {name: getattr(self.row, name) for name in ("input_ids", "position_ids", "labels", "audio_labels")}
        repeated = {name: x.repeat(rows, *[1] * (x.dim() - 1)) for name, x in tensors.items()}
        return replace(self.row, codes=self.row.codes.repeat(rows, 1), **repeated)


def workload_of(recipe: Mapping[str, Any], audio_pad: int, world_size: int, clip_s: float) -> Workload:
    """The step of a recipe with a SequenceCollate.

    Args:
        recipe: resolved; `???` may stand in it.
        audio_pad: id of the audio pad.
        world_size: ranks.
        clip_s: seconds of audio of a typical sample.

    Raises:
        ValueError: naming what the recipe lacks, an unknown task, or rows that the ranks cannot share.
    """
    data = need(recipe, "data")
    collate = need(data, "collate", "data.")
    need(data, "train", "data.")
    row_tokens = int(need(collate, "row_tokens", "data.collate."))
    shares = _shares(data["train"], collate, audio_pad, clip_s)
    mean = sum(share.weight * len(share.document) for share in shares)
    accumulate, notes = int(data.get("accumulate", 1)), []
    if data.get("rows") is not None:
        total = int(data["rows"])
        if total % (world_size * accumulate):
            raise ValueError(
                f"data.rows: {total} rows cannot be shared by {world_size} ranks and {accumulate} micro-batches; "
                f"make it a multiple of {world_size * accumulate}, or change the number of GPUs"
            )
        rows, tokens, width = total // (world_size * accumulate), 0.97 * total * row_tokens, row_tokens
    else:
        own = need(data, "batch_size", "data.") / world_size * mean
        rows, tokens = max(1, math.ceil(own / row_tokens)), own * world_size
        width = min(row_tokens, max(math.ceil(own / rows / 8) * 8, max(len(share.document) for share in shares)))
        if own < row_tokens / 2:
            notes.append(
                f"each of {world_size} ranks gets {own:,.0f} tokens per step, less than half a row of {row_tokens:,}: "
                "raise data.batch_size, or give data.rows, or take fewer GPUs"
            )
    return Workload(tokens, width, rows, accumulate, _row(shares, width, audio_pad), shares, clip_s, tuple(notes))


def need(node: Mapping[str, Any], key: str, prefix: str = "") -> Any:
    """A value that a plan cannot do without; ValueError names it."""
    if node.get(key) in (None, "???", [], {}):
        raise ValueError(
            f"{prefix}{key}: missing in the recipe, and a plan needs it; only folders in `takes` and `out` may stay open"
        )
    return node[key]


def _shares(sources: Sequence[Mapping[str, Any]], collate: Mapping[str, Any], audio_pad: int, clip_s: float) -> list[Share]:
    sizes = tuple(collate.get("codebook_sizes", ()))
    builder = SequenceBuilder(_Words(audio_pad), sizes, collate.get("audio_as", "codes"))  # type: ignore[arg-type]
    weights: dict[str, float] = {}
    for i, source in enumerate(sources):
        task = need(source, "task", f"data.train.{i}.")
        if task not in TASKS:
            raise ValueError(f"data.train.{i}.task: unknown task {task!r}{did_you_mean(task, TASKS)}")
        weights[task] = weights.get(task, 0.0) + float(source.get("weight", 1.0))
    total = sum(weights.values())
    return [_share(task, weight / total, builder, len(sizes), clip_s) for task, weight in weights.items()]


def _share(task: str, weight: float, builder: SequenceBuilder, num_codebooks: int, clip_s: float) -> Share:
    """A document of one task; a task that takes the first span alone gets a sample of one span."""
    segments = segments_of(task, _sample(clip_s, NUM_SPANS, num_codebooks))
    audio = [segment for segment in segments if segment.modality == "audio"]
    if {segment.span for segment in audio} == {0}:
        segments = segments_of(task, _sample(clip_s, 1, num_codebooks))
        audio = [segment for segment in segments if segment.modality == "audio"]
    frames = {train: sum(len(s.codes) for s in audio if s.train == train and s.codes is not None) for train in (True, False)}
    if builder.audio_as == "text":
        frames = {True: 0, False: 0}
    return Share(task, weight, builder.sequence(segments, np.random.default_rng(0)), frames[False], frames[True])


def _sample(clip_s: float, num_spans: int, num_codebooks: int) -> Sample:
    seconds = clip_s / num_spans
    text, frames = "x" * max(1, round(seconds * CHARS_PER_S)), max(1, round(seconds * CODE_RATE_HZ))
    roles = ("user", "assistant")
    spans = tuple(Span(text, i * seconds, (i + 1) * seconds, roles[i % 2]) for i in range(num_spans))
    whole = " ".join([text] * num_spans)
    counts, codes = (frames,) * num_spans, np.zeros((frames * num_spans, num_codebooks), dtype=np.int16)
    return Sample(
        "typical", "typical", "train", "en", "", whole, spans, translation=whole, target_language="zh", answer=text,
        duration_s=clip_s, span_num_codes=counts, codes=codes,
    )  # fmt: skip


def _row(shares: Sequence[Share], row_tokens: int, audio_pad: int) -> PackedBatch:
    """A row full of documents, the task that lags most behind its share next; the last one is cut."""
    counts, documents, room = [0] * len(shares), [], row_tokens
    while room > 0:
        lag = [share.weight * (len(documents) + 1) - count for share, count in zip(shares, counts, strict=True)]
        best = int(np.argmax(lag))
        counts[best] += 1
        whole = shares[best].document
        frames = int((whole.input_ids[:room] == audio_pad).sum())
        documents.append(TokenSequence(*(x[:n] for x, n in zip(_arrays(whole), (room, frames, room, room), strict=True))))
        room -= len(documents[-1])
    return pack(documents, row_tokens, 0, [])


def _arrays(document: TokenSequence) -> tuple[np.ndarray, ...]:
    return document.input_ids, document.codes, document.labels, document.audio_labels


def clip_workload_of(recipe: Mapping[str, Any], world_size: int, clip_s: float) -> Workload:
    """The step of a recipe whose batches are clips of sound; a "token" is then 80 ms of sound, a "row" a clip.

    Args: as in `workload_of`.

    Raises:
        ValueError: naming what the recipe lacks.
    """
    data = need(recipe, "data")
    collate = need(data, "collate", "data.")
    need(data, "train", "data.")
    clip_s = float(collate.get("crop_s") or clip_s)
    clips = int(need(data, "batch_size", "data."))
    rows, tokens = math.ceil(clips / world_size), clips * clip_s * CODE_RATE_HZ
    note = f"{clips} clips cannot keep {world_size} ranks busy: raise data.batch_size or take fewer GPUs"
    return Workload(tokens, round(clip_s * CODE_RATE_HZ), rows, 1, None, (), clip_s, (note,) if clips < world_size else ())
