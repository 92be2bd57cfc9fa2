"""Which samples every training step has seen, written down as it happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import lightning as L

from bcaudio.distributed import rank, world_size

FOLDER = "logs/ledger"


class SampleLedger(L.Callback):
    """Appends `{"attempt", "step", "micro", "rank", "ranks", "keys"}` for every micro-batch to `logs/ledger/rank-<r>.jsonl`.

    A run that was cut off repeats the steps since its last checkpoint under the next attempt; `read_ledger` takes what counts.
    """

    def __init__(self) -> None:
        self.stream: TextIO | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / FOLDER
        lines = [line for file in sorted(folder.glob("rank-*.jsonl")) for line in _lines(file)]
        self.attempt = trainer.strategy.broadcast(1 + max((line["attempt"] for line in lines), default=0))
        folder.mkdir(parents=True, exist_ok=True)
        self.stream = (folder / f"rank-{rank()}.jsonl").open("a", encoding="utf-8")
        self.stream.write("\n" if self.stream.tell() else "")  # a line cut off by a kill stays a line of its own

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        assert self.stream is not None
        entry = {
            "attempt": self.attempt,
            "step": batch.step,
            "micro": getattr(batch, "micro", 0),
            "rank": rank(),
            "ranks": world_size(),
            "keys": [item.sample.key for item in batch.items],
        }
        self.stream.write(json.dumps(entry) + "\n")
        self.stream.flush()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def read_ledger(out: Path) -> dict[int, list[str]]:
    """Step -> keys of its samples over all ranks, sorted; of the last attempt that made the step.

    Args:
        out: folder of the stage.
    """
    last: dict[int, int] = {}
    keys: dict[tuple[int, int], list[str]] = {}
    for file in sorted((out / FOLDER).glob("rank-*.jsonl")):
        for line in _lines(file):
            step, attempt = line["step"], line["attempt"]
            last[step] = max(last.get(step, 0), attempt)
            keys.setdefault((step, attempt), []).extend(line["keys"])
    return {step: sorted(keys[step, attempt]) for step, attempt in sorted(last.items())}


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a ledger."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # cut off by a kill: its step was never finished
            continue
    return found
