"""Segments -> one token sequence with its labels (released_model sections 9, 10, 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bcaudio.data.tasks import Segment
from bcaudio.text.tokenizer import TextTokenizer

IGNORE = -100
AudioAs = Literal["codes", "text"]


@dataclass(frozen=True)
class TokenSequence:
    """One document.

    Args:
        input_ids: [T] int64; every audio frame is one `audio_pad`.
        codes: [N, K] int64, one row per `audio_pad`, in order.
        labels: [T] int64, already shifted: what the text head must predict at each position; -100 pays nothing.
        audio_labels: [T, K] int64, already shifted: the frame the audio head must predict at each position.
    """

    input_ids: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    audio_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


class SequenceBuilder:
    """Turns segments into sequences and prompts.

    Args:
        tokenizer: the text tokenizer.
        codebook_sizes: entries per codebook; frame (K_0, ..., K_7) ends an audio segment. Empty for a text-only model.
        audio_as: `codes`, or `text`: audio is rendered as its words, every token held for a few positions as speech holds it
            for a few frames, which is how a text LLM without any audio learns the tasks' form.
    """

    def __init__(self, tokenizer: TextTokenizer, codebook_sizes: Sequence[int] = (), audio_as: AudioAs = "codes") -> None:
        self.tokenizer = tokenizer
        self.special = tokenizer.special
        self.end_frame = np.asarray(codebook_sizes, dtype=np.int64)
        self.audio_as = audio_as

    def sequence(self, segments: Sequence[Segment], rng: np.random.Generator | None = None) -> TokenSequence:
        """The whole document, closed by `<|endoftext|>`, which pays loss when the last segment does."""
        num_codebooks = len(self.end_frame)
        ids, paid, codes, frames = self._lay_out(segments, rng)
        input_ids = np.asarray(ids, dtype=np.int64)
        labels = np.full(len(ids), IGNORE, dtype=np.int64)
        labels[:-1] = np.where(paid, input_ids, IGNORE)[1:]
        audio_labels = np.full((len(ids), num_codebooks), IGNORE, dtype=np.int64)
        for position, rows in frames:
            audio_labels[position : position + len(rows) + 1] = np.concatenate([rows, self.end_frame[None]])
        joined = np.concatenate(codes) if codes else np.zeros((0, num_codebooks), dtype=np.int64)
        return TokenSequence(input_ids, joined, labels, audio_labels)

    def measure(self, segments: Sequence[Segment]) -> tuple[int, int, int]:
        """Tokens, paid text labels and paid audio frames that `sequence` makes of the segments.

        Raises:
            ValueError: audio is rendered as text, whose length is random; or what `sequence` raises.
        """
        if self.audio_as == "text" and any(segment.modality == "audio" for segment in segments):
            raise ValueError("audio rendered as text has no fixed length; train on it with batch_size, not with rows")
        ids, paid, _, frames = self._lay_out(segments, None)
        return len(ids), sum(paid[1:]), sum(len(rows) + 1 for _, rows in frames)

    def _lay_out(
        self, segments: Sequence[Segment], rng: np.random.Generator | None
    ) -> tuple[list[int], list[bool], list[np.ndarray], list[tuple[int, np.ndarray]]]:
        """Ids, which of them are paid for, codes of all audio, and (where its prediction begins, codes) of the paid audio."""
        ids: list[int] = []
        paid: list[bool] = []
        codes: list[np.ndarray] = []
        frames: list[tuple[int, np.ndarray]] = []

        def put(tokens: Sequence[int], train: bool) -> None:
            ids.extend(tokens)
            paid.extend([train] * len(tokens))

        for segment in segments:
            if segment.modality == "special":
                put([getattr(self.special, segment.text)], train=False)
            elif segment.modality == "text":
                put(self.tokenizer.encode(segment.text), segment.train)
            elif self.audio_as == "text":
                start, end = self._frame_ids(segment)
                put([start], segment.train)
                put(self._held(segment.text, rng), segment.train)
                put([end], segment.train)
            else:
                rows = self._codes(segment)
                start, end = self._frame_ids(segment)
                put([start], segment.train)
                if segment.train:
                    frames.append((len(ids) - 1, rows))
                put([self.special.audio_pad] * len(rows), train=False)
                put([end], train=False)
                codes.append(rows)
        put([self.special.eos], train=bool(segments) and segments[-1].train)
        return ids, paid, codes, frames

    def prompt(self, segments: Sequence[Segment]) -> tuple[list[int], np.ndarray]:
        """Ids [T] and codes [N, K] up to the first segment that pays loss; `audiogen_start` is added when that one is spoken."""
        first = next((i for i, segment in enumerate(segments) if segment.train), len(segments))
        sequence = self.sequence(segments[:first], np.random.default_rng(0))
        ids = sequence.input_ids[:-1].tolist()
        if first < len(segments) and segments[first].modality == "audio":
            ids.append(self.special.audiogen_start)
        return ids, sequence.codes

    def _frame_ids(self, segment: Segment) -> tuple[int, int]:
        if segment.direction == "hear":
            return self.special.audio_start, self.special.audio_end
        return self.special.audiogen_start, self.special.audiogen_end

    def _codes(self, segment: Segment) -> np.ndarray:
        if segment.codes is None:
            raise ValueError(
                f"audio segment {segment.text!r} has no codes; encode the shards first (recipe: data_prep.encode_codes)"
            )
        if segment.codes.shape[1] != len(self.end_frame):
            raise ValueError(
                f"audio segment {segment.text!r} has {segment.codes.shape[1]} codebooks, the recipe {len(self.end_frame)}; "
                "encode the shards with the tokenizer this recipe names"
            )
        return segment.codes.astype(np.int64)

    def _held(self, text: str, rng: np.random.Generator | None) -> list[int]:
        """Every token one to three times, then up to three hyphens, as speech holds a word for a few frames and pauses."""
        if rng is None:
            raise ValueError("audio rendered as text needs a random generator")
        blank = self.tokenizer.encode("-")[-1:]
        ids: list[int] = []
        for token in self.tokenizer.encode(text):
            ids += [token] * int(rng.integers(1, 4)) + blank * int(rng.integers(0, 4))
        return ids
