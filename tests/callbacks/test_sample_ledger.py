"""The ledger of a run that was killed: the attempt that made a step last counts, and torn lines are passed over."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bcaudio.callbacks.sample_ledger import SampleLedger, read_ledger


def line(attempt: int, step: int, rank: int, *keys: str) -> str:
    return json.dumps({"attempt": attempt, "step": step, "micro": 0, "rank": rank, "ranks": 2, "keys": keys}) + "\n"


def test_a_step_has_the_samples_of_all_ranks_of_its_last_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "ledger"
    folder.mkdir(parents=True)
    torn = line(1, 2, 0, "e")[:-9]
    (folder / "rank-0.jsonl").write_text(line(1, 0, 0, "b") + line(1, 1, 0, "d") + torn + "\n" + line(2, 1, 0, "d", "c", "d"))
    (folder / "rank-1.jsonl").write_text(line(1, 0, 1, "a") + line(1, 1, 1, "c") + line(1, 2, 1, "f"))
    assert read_ledger(tmp_path) == {0: ["a", "b"], 1: ["c", "d", "d"], 2: ["f"]}


def test_a_new_start_writes_under_the_next_attempt_behind_a_torn_line(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path), strategy=SimpleNamespace(broadcast=lambda value: value))
    module: Any = None

    def batch(step: int, *keys: str) -> Any:
        return SimpleNamespace(step=step, items=[SimpleNamespace(sample=SimpleNamespace(key=key)) for key in keys])

    for attempt, step in enumerate((4, 3), start=1):
        ledger = SampleLedger()
        ledger.on_train_start(trainer, module)
        ledger.on_train_batch_start(trainer, module, batch(step, f"first-{attempt}"), 0)
        ledger.on_train_batch_start(trainer, module, batch(step + 1, f"second-{attempt}"), 0)
        ledger.teardown(trainer, module, "fit")
        if attempt == 1:
            with open(tmp_path / "logs" / "ledger" / "rank-0.jsonl", "a") as stream:
                stream.write('{"attempt": 1, "st')
    assert read_ledger(tmp_path) == {3: ["first-2"], 4: ["second-2"], 5: ["second-1"]}
