"""Samples -> tensors: padded audio batches and packed token batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from bcaudio.data.schema import Sample
from bcaudio.data.sequence import IGNORE, AudioAs, SequenceBuilder, TokenSequence
from bcaudio.data.tasks import segments_of
from bcaudio.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Item:
    """What the data module hands to a collate: a sample, the recipe's task for it, and its audio per sample rate (int16 [N]).

    In a batch the items come without their audio, which is in the batch's own tensors.
    """

    sample: Sample
    task: str
    waveforms: dict[int, np.ndarray] = field(default_factory=dict)


class _Batch:
    """Moves to a device the way Lightning asks for it."""

    def to(self, device: torch.device | str, **kwargs: object) -> _Batch:
        moved = {}
        for spec in fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            if isinstance(value, Tensor | _Batch):
                moved[spec.name] = value.to(device)
            elif isinstance(value, dict):
                moved[spec.name] = {key: item.to(device) for key, item in value.items()}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class PackedBatch(_Batch):
    """Documents packed into rows; a document never crosses a row and never sees another.

    Args:
        input_ids: [B, T]; position_ids: [B, T], restarting at every document.
        codes: [N, K], one row per `audio_pad`, row-major.
        labels: [B, T]; audio_labels: [B, T, K]; both already shifted, -100 ignored.
        items: the samples inside, for validation and error messages.
        step: the global step whose batch this is.
        num_tokens: positions that hold a document; the rest are tails of rows.
        documents: [B, T]: the item that a position belongs to, 0 in the tail of a row; for losses by task.
        micro: index of this micro-batch within its step on this rank; num_micro: how many the step has there.
        paid: [2] float64: paid text labels and paid audio frames in all micro-batches of the step on this rank; None where a
            batch stands alone, as in validation.
    """

    input_ids: Tensor
    position_ids: Tensor
    codes: Tensor
    labels: Tensor
    audio_labels: Tensor
    items: list[Item]
    step: int = 0
    num_tokens: int = 0
    documents: Tensor | None = None
    micro: int = 0
    num_micro: int = 1
    paid: Tensor | None = None

    @property
    def size(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class AudioBatch(_Batch):
    """Clips padded with zeros.

    Args:
        waveforms: sample_rate -> [B, N] float32; lengths: sample_rate -> [B] samples.
        codes: [B, T, K] padded with 0 and num_codes: [B], when the shards carry codes.
        items: the samples; step: the global step.
    """

    waveforms: dict[int, Tensor]
    lengths: dict[int, Tensor]
    items: list[Item]
    codes: Tensor | None = None
    num_codes: Tensor | None = None
    step: int = 0

    @property
    def size(self) -> int:
        return len(self.items)

    @property
    def samples(self) -> list[Sample]:
        return [item.sample for item in self.items]


@dataclass(frozen=True)
class AlignedBatch(_Batch):
    """Clips and, row by row, the text sequence a language model reads around each of them (tokenizer training)."""

    audio: AudioBatch
    text: PackedBatch
    step: int = 0

    @property
    def size(self) -> int:
        return self.audio.size

    @property
    def items(self) -> list[Item]:
        return self.audio.items


def pack(sequences: Sequence[TokenSequence], row_tokens: int, pad_id: int, items: list[Item]) -> PackedBatch:
    """Best-fit packing into rows of `row_tokens` (or the longest sequence, if that is longer).

    With `row_tokens` 0 every document gets a row, in order.
    """
    capacity = max(row_tokens, max(len(sequence) for sequence in sequences))
    rows: list[list[TokenSequence]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=len, reverse=True) if row_tokens else sequences:
        fitting = [i for i, free in enumerate(room) if free >= len(sequence) and row_tokens]
        if fitting:
            best = min(fitting, key=lambda i: room[i])
            rows[best].append(sequence)
            room[best] -= len(sequence)
        else:
            rows.append([sequence])
            room.append(capacity - len(sequence))
    return lay_rows(rows, capacity - min(room), pad_id, sequences[0].codes.shape[1], items, sequences)


def lay_rows(
    rows: Sequence[Sequence[TokenSequence]],
    width: int,
    pad_id: int,
    num_codebooks: int,
    items: list[Item],
    sequences: Sequence[TokenSequence] | None = None,
) -> PackedBatch:
    """Rows of documents, one behind the other, as tensors of `width` tokens per row; a row may be empty.

    `sequences` are the documents in the order of `items`; by default that of the rows.
    """
    number = {id(sequence): i for i, sequence in enumerate(sequences or [sequence for row in rows for sequence in row])}
    documents = np.zeros((len(rows), width), dtype=np.int64)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    position_ids = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
    audio_labels = np.full((len(rows), width, num_codebooks), IGNORE, dtype=np.int64)
    codes = [np.zeros((0, num_codebooks), dtype=np.int64)]
    for r, row in enumerate(rows):
        start = 0
        for sequence in row:
            end = start + len(sequence)
            input_ids[r, start:end] = sequence.input_ids
            position_ids[r, start:end] = np.arange(len(sequence))
            labels[r, start:end] = sequence.labels
            documents[r, start:end] = number[id(sequence)]
            audio_labels[r, start:end] = sequence.audio_labels
            codes.append(sequence.codes)
            start = end
        position_ids[r, start:] = np.arange(width - start)  # the tail is a document of its own
    return PackedBatch(
        *(torch.from_numpy(array) for array in (input_ids, position_ids, np.concatenate(codes), labels, audio_labels)),
        items=items,
        num_tokens=sum(len(sequence) for row in rows for sequence in row),
        documents=torch.from_numpy(documents),
    )


class SequenceCollate:
    """Items -> PackedBatch.

    Args:
        tokenizer: folder of the text tokenizer.
        codebook_sizes: of the codes in the shards; empty for a text-only model.
        row_tokens: length of a packed row.
        audio_as: see SequenceBuilder.
    """

    sample_rates: tuple[int, ...] = ()

    def __init__(
        self, tokenizer: str, codebook_sizes: Sequence[int] = (), row_tokens: int = 256, audio_as: AudioAs = "codes"
    ) -> None:
        self.builder = SequenceBuilder(TextTokenizer(tokenizer), codebook_sizes, audio_as)
        self.row_tokens = row_tokens

    def __call__(self, items: list[Item], rng: np.random.Generator, training: bool = False) -> PackedBatch:
        return pack([self._sequence(item, rng) for item in items], self.row_tokens, self.builder.special.eos, items)

    def rows(self, rows: Sequence[Sequence[Item]], lengths: Sequence[Sequence[int]], rng: np.random.Generator) -> PackedBatch:
        """Rows that are packed already -> a batch of so many rows of `row_tokens`.

        Args:
            lengths: tokens of each item as they were planned.

        Raises:
            ValueError: an item is of another length.
        """
        made = [[self._sequence(item, rng) for item in row] for row in rows]
        for row, sequences, planned in zip(rows, made, lengths, strict=True):
            for item, sequence, length in zip(row, sequences, planned, strict=True):
                if len(sequence) != length:
                    raise ValueError(
                        f"{item.sample.key}, task {item.task}: planned with {length} tokens, but it has {len(sequence)}; "
                        "its shard or the text tokenizer changed: start again, and delete the folder data.lengths"
                    )
        items = [item for row in rows for item in row]
        return lay_rows(made, self.row_tokens, self.builder.special.eos, len(self.builder.end_frame), items)

    def _sequence(self, item: Item, rng: np.random.Generator) -> TokenSequence:
        try:
            return self.builder.sequence(segments_of(item.task, item.sample), rng)
        except ValueError as error:
            raise ValueError(f"{item.sample.key}, task {item.task}: {error}") from error


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros for a large part of a batch. A worker of a loader makes them in the memory it shares, where batches are handed over:
    elsewhere they would be copied there, page by page."""
    if torch.utils.data.get_worker_info() is None:
        return torch.zeros(*shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # new shared memory is zero
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))


class AudioCollate:
    """Items -> AudioBatch.

    Args:
        sample_rates: the rates to deliver, Hz.
        crop_s: cut a random window of this length (shorter clips are padded); null keeps whole clips. The window starts at the
            same time at every rate.
        max_speed_change: in training every clip is played up to this share faster or slower, which also moves pitch and
            formants: more voices than were recorded. Not for clips with codes, which belong to the sound as it is.
    """

    def __init__(
        self, sample_rates: Sequence[int] = (16000,), crop_s: float | None = None, max_speed_change: float = 0.0
    ) -> None:
        self.sample_rates = tuple(sample_rates)
        self.crop_s, self.max_speed_change = crop_s, max_speed_change

    def __call__(self, items: list[Item], rng: np.random.Generator, training: bool = False) -> AudioBatch:
        if training and self.max_speed_change:
            items = [_change_speed(item, 1 + self.max_speed_change * rng.uniform(-1, 1)) for item in items]
        starts = rng.random(len(items))
        waveforms, lengths = {}, {}
        for rate in self.sample_rates:
            clips = [item.waveforms[rate] for item in items]
            if self.crop_s is not None:
                window = round(self.crop_s * rate)
                clips = [self._crop(clip, window, share) for clip, share in zip(clips, starts, strict=True)]
            width = max(len(clip) for clip in clips)
            tensor = zeros((len(clips), width), torch.float32)
            joined = tensor.numpy()
            for row, clip in zip(joined, clips, strict=True):
                row[: len(clip)] = clip.astype(np.float32) / 32768.0
            waveforms[rate] = tensor
            lengths[rate] = torch.tensor([len(clip) for clip in clips])
        codes, num_codes = self._codes(items)
        return AudioBatch(waveforms, lengths, [replace(item, waveforms={}) for item in items], codes, num_codes)

    @staticmethod
    def _crop(clip: np.ndarray, window: int, share: float) -> np.ndarray:
        if len(clip) <= window:
            return np.pad(clip, (0, window - len(clip)))
        start = int(share * (len(clip) - window))
        return clip[start : start + window]

    @staticmethod
    def _codes(items: list[Item]) -> tuple[Tensor | None, Tensor | None]:
        rows = [item.sample.codes for item in items]
        if any(row is None for row in rows):
            return None, None
        joined = np.zeros((len(rows), max(len(row) for row in rows), rows[0].shape[1]), dtype=np.int64)
        for target, row in zip(joined, rows, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(joined), torch.tensor([len(row) for row in rows])


class AlignedCollate(AudioCollate):
    """Items -> AlignedBatch: whole clips at 16 kHz, and their task's sequence with one `audio_pad` per audio token.

    Args:
        tokenizer: folder of the text tokenizer.
        pooling: encoder frames (50 Hz) per audio token.
        max_speed_change: see AudioCollate.
    """

    def __init__(self, tokenizer: str, pooling: int = 4, max_speed_change: float = 0.0) -> None:
        super().__init__(sample_rates=(16000,), max_speed_change=max_speed_change)
        self.builder = SequenceBuilder(TextTokenizer(tokenizer))
        self.pooling = pooling

    def __call__(self, items: list[Item], rng: np.random.Generator, training: bool = False) -> AlignedBatch:
        audio = super().__call__(items, rng, training)
        sequences = []
        for item, length in zip(audio.items, audio.lengths[16000].tolist(), strict=True):
            num_codes = num_tokens(length, pooling=self.pooling)
            empty = np.zeros((num_codes, 0), dtype=np.int64)
            segments = [replace(s, codes=empty) if s.modality == "audio" else s for s in segments_of(item.task, item.sample)]
            sequences.append(self.builder.sequence(segments, rng))
        return AlignedBatch(audio, pack(sequences, 0, self.builder.special.eos, audio.items))


def _change_speed(item: Item, factor: float) -> Item:
    """Play the item `factor` times as fast, at every rate alike (linear interpolation)."""
    if item.sample.codes is not None:
        raise ValueError(
            f"{item.sample.key}: max_speed_change would part its sound from its codes; leave it at 0 for shards with codes"
        )
    changed = {}
    for rate, clip in item.waveforms.items():
        places = np.arange(0, len(clip) - 1, factor)
        changed[rate] = np.interp(places, np.arange(len(clip)), clip).astype(np.int16)
    return replace(item, waveforms=changed)


def num_tokens(num_samples: int, hop_length: int = 160, stride: int = 2, pooling: int = 4) -> int:
    """Audio tokens of a clip at 16 kHz (released_model section 3.4)."""
    num_frames = num_samples // hop_length + 1
    return ((num_frames - 1) // stride + 1) // pooling
