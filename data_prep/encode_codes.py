"""Audio becomes codes once: shards + tokenizer -> shards that also hold `codes.npy` (docs/design.md, rule 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bcaudio.checkpoint import load_model, read_fingerprint
from bcaudio.data.index import ShardIndex
from bcaudio.data.schema import Sample
from bcaudio.data.shards import rewrite_with_codes, verify_shard
from bcaudio.recipe.record import Progress

SAMPLE_RATE = 16000
MARGIN_S = 0.06  # kept around a span of several, as clips have around their speech


class EncodeCodes:
    """Encode every span of every shard with a trained tokenizer; a shard that is already there and whole is kept.

    Args:
        shards: folder of shards; text-only shards are left out.
        tokenizer: stage folder of the audio tokenizer.
        batch_s: seconds of audio per batch.
    """

    def __init__(self, shards: str, tokenizer: str, batch_s: float = 60.0) -> None:
        self.shards, self.tokenizer_folder, self.batch_s = Path(shards), tokenizer, batch_s

    @torch.no_grad()
    def run(self, out: Path, seed: int, progress: Progress) -> dict[str, Any]:
        """Write `<out>/shards/*.tar` with codes. Returns counts of samples, frames and shards.

        Raises:
            FileNotFoundError: no shard with audio in the folder.
        """
        indices = [index for tar in sorted(self.shards.glob("*.tar")) if (index := ShardIndex([tar])).durations_s.sum() > 0]
        if not indices:
            raise FileNotFoundError(f"{self.shards}: no shard with audio; run the prepare stage first")
        tokenizer = load_model(self.tokenizer_folder)
        fingerprint = read_fingerprint(self.tokenizer_folder)
        counts = {"num_shards": 0, "num_kept_shards": 0, "num_samples": 0, "num_frames": 0, "num_skipped_spans": 0}
        (out / "shards").mkdir(parents=True, exist_ok=True)
        progress.total = len(indices)
        for number, index in enumerate(indices):
            target = out / "shards" / index.tars[0].name
            if self._done(target, index, fingerprint):
                counts["num_kept_shards"] += 1
            else:
                codes = self._encode(tokenizer, index)
                rewrite_with_codes(index.tars[0], target.parent, codes, fingerprint)
                counts["num_frames"] += sum(len(rows) for rows, _ in codes.values())
                counts["num_skipped_spans"] += sum(num == 0 for _, nums in codes.values() for num in nums)
            counts["num_shards"] += 1
            counts["num_samples"] += len(index)
            progress.step(number + 1, samples=counts["num_samples"])
        return counts

    def _done(self, target: Path, index: ShardIndex, fingerprint: dict[str, Any]) -> bool:
        if not target.exists() or verify_shard(target):
            return False
        made = ShardIndex([target])
        return len(made) == len(index) and made.fingerprint == fingerprint

    def _encode(self, tokenizer: torch.nn.Module, index: ShardIndex) -> dict[str, tuple[np.ndarray, list[int]]]:
        pieces = []
        for i in range(len(index)):
            sample, waveform = index.sample(i), index.waveform(i, SAMPLE_RATE)
            for span, (start_s, end_s) in enumerate(span_bounds(sample)):
                pieces.append((sample.key, span, waveform[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]))
        found: dict[tuple[str, int], np.ndarray] = {}
        pieces.sort(key=lambda piece: len(piece[2]))
        while pieces:
            longest = len(pieces[-1][2])
            count = max(1, int(self.batch_s * SAMPLE_RATE / max(longest, 1)))
            batch, pieces = pieces[-count:], pieces[:-count]
            for (key, span, _), rows in zip(batch, encode_clips(tokenizer, [clip for _, _, clip in batch]), strict=True):
                found[key, span] = rows
        encoded = {}
        for i in range(len(index)):
            sample = index.sample(i)
            rows = [found[sample.key, span] for span in range(len(sample.spans))]
            encoded[sample.key] = (np.concatenate(rows).astype(np.int16), [len(row) for row in rows])
        return encoded


def span_bounds(sample: Sample) -> list[tuple[float, float]]:
    """Seconds to encode for every span: the whole clip for a single one, else the span with a small margin.

    The margin stays inside the pauses around the span.
    """
    if len(sample.spans) == 1:
        return [(0.0, sample.duration_s)]
    bounds = []
    for i, span in enumerate(sample.spans):
        before = sample.spans[i - 1].end_s if i else 0.0
        after = sample.spans[i + 1].start_s if i + 1 < len(sample.spans) else sample.duration_s
        bounds.append((max(span.start_s - MARGIN_S, before), min(span.end_s + MARGIN_S, after)))
    return bounds


def encode_clips(tokenizer: torch.nn.Module, clips: list[np.ndarray]) -> list[np.ndarray]:
    """float32 16 kHz clips of up to 30 s -> codes [T, K] each; a result does not depend on its batch."""
    waveform = torch.zeros(len(clips), max(400, max(len(clip) for clip in clips)))
    for row, clip in zip(waveform, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    lengths = torch.tensor([max(400, len(clip)) for clip in clips])
    codes, num_codes = tokenizer.encode(waveform, lengths)
    return [rows[:num].numpy() for rows, num in zip(codes, num_codes.tolist(), strict=True)]
