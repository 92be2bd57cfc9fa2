"""Audio becomes codes once: shards + tokenizer -> shards that also hold `codes.npy` (docs/design.md, rule 4)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bcaudio.checkpoint import load_model, read_fingerprint
from bcaudio.data.index import ShardIndex
from bcaudio.data.shards import rewrite_with_codes
from bcaudio.data.verify import verify_shard
from bcaudio.inference.encoding import encode_clips, span_bounds
from bcaudio.recipe.record import Progress
from data_prep.engine import IN_THIS_PROCESS, Engine

SAMPLE_RATE = 16000


class EncodeCodes:
    """Encode every span of every shard with a trained tokenizer; a shard that is already there and whole is kept.

    Args:
        shards: folder of shards; text-only shards are left out.
        tokenizer: stage folder of the audio tokenizer.
        batch_s: seconds of audio per batch.
    """

    def __init__(self, shards: str, tokenizer: str, batch_s: float = 60.0) -> None:
        self.shards, self.tokenizer_folder, self.batch_s = Path(shards), tokenizer, batch_s

    def run(self, out: Path, seed: int, progress: Progress | None = None, engine: Engine = IN_THIS_PROCESS) -> dict[str, Any]:
        """Write `<out>/shards/*.tar` with codes. Returns counts of samples, frames and shards.

        Raises:
            FileNotFoundError: no shard with audio in the folder.
        """
        tars = [tar for tar in sorted(self.shards.glob("*.tar")) if ShardIndex([tar]).durations_s.sum() > 0]
        if not tars:
            raise FileNotFoundError(f"{self.shards}: no shard with audio; run the prepare stage first")
        fingerprint = read_fingerprint(self.tokenizer_folder)
        tasks = [EncodeTask(tar, out / "shards" / tar.name, self.tokenizer_folder, self.batch_s) for tar in tars]
        todo = [task for task in tasks if not _done(task, fingerprint)]
        counts = {"num_shards": len(tasks), "num_kept_shards": len(tasks) - len(todo), "num_samples": 0}
        counts |= {"num_frames": 0, "num_skipped_spans": 0}
        (out / "shards").mkdir(parents=True, exist_ok=True)
        if progress is not None:
            progress.total = len(tasks)
        for number, (_, found) in enumerate(engine.map(encode_shard, todo), start=counts["num_kept_shards"] + 1):
            counts["num_frames"] += found["num_frames"]
            counts["num_skipped_spans"] += found["num_skipped_spans"]
            if progress is not None:
                progress.step(number)
        if progress is not None:
            progress.step(len(tasks))
        counts["num_samples"] = sum(len(ShardIndex([task.target])) for task in tasks)
        return counts


@dataclass(frozen=True)
class EncodeTask:
    """One shard to encode, from `tar` to `target`."""

    tar: Path
    target: Path
    tokenizer: str
    batch_s: float


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: str) -> torch.nn.Module:
    """Loaded once per process; a task of another tokenizer replaces it."""
    return load_model(folder)


@torch.no_grad()
def encode_shard(task: EncodeTask) -> dict[str, int]:
    """Encode the spans of one shard, longest first in batches of `batch_s` seconds, and write it with its codes."""
    tokenizer, index = _tokenizer(task.tokenizer), ShardIndex([task.tar])
    pieces = []
    for i in range(len(index)):
        sample, waveform = index.sample(i), index.waveform(i, SAMPLE_RATE)
        for span, (start_s, end_s) in enumerate(span_bounds(sample)):
            pieces.append((sample.key, span, waveform[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]))
    found: dict[tuple[str, int], np.ndarray] = {}
    pieces.sort(key=lambda piece: len(piece[2]))
    while pieces:
        longest = len(pieces[-1][2])
        count = max(1, int(task.batch_s * SAMPLE_RATE / max(longest, 1)))
        batch, pieces = pieces[-count:], pieces[:-count]
        for (key, span, _), rows in zip(batch, encode_clips(tokenizer, [clip for _, _, clip in batch], len(batch)), strict=True):
            found[key, span] = rows
    codes = {}
    for i in range(len(index)):
        sample = index.sample(i)
        rows = [found[sample.key, span] for span in range(len(sample.spans))]
        codes[sample.key] = (np.concatenate(rows).astype(np.int16), [len(row) for row in rows])
    rewrite_with_codes(task.tar, task.target.parent, codes, read_fingerprint(task.tokenizer))
    lengths = [num for _, nums in codes.values() for num in nums]
    return {"num_frames": sum(lengths), "num_skipped_spans": lengths.count(0)}


def _done(task: EncodeTask, fingerprint: dict[str, Any]) -> bool:
    if not task.target.exists() or verify_shard(task.target):
        return False
    made = ShardIndex([task.target])
    return len(made) == len(ShardIndex([task.tar])) and made.fingerprint == fingerprint
