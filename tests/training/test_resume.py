"""Checkpoints: whole or not there, the last few kept, the newest good one found."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bcaudio.training.resume import Checkpoints, find_checkpoint


class Trainer:
    """What Checkpoints asks of a trainer, around a real torch.save."""

    is_global_zero, world_size, loggers = True, 1, ()

    def __init__(self) -> None:
        self.strategy = SimpleNamespace(barrier=lambda name: None)

    def save_checkpoint(self, file: Path) -> None:
        torch.save({"weights": torch.arange(1000.0)}, file)


def write(folder: Path, steps: range, **options: Any) -> Checkpoints:
    """As a run that begins each of the steps in turn."""
    made, trainer = Checkpoints(folder, **options), Trainer()
    made.setup(trainer, None, "fit")
    module = SimpleNamespace(next_step=steps.start)
    made.on_train_start(trainer, module)
    for module.next_step in steps:
        for micro in range(2):
            made.on_train_batch_start(trainer, module, None, micro)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_so_many_steps_and_only_the_last_few(tmp_path: Path) -> None:
    write(tmp_path, range(0, 12), every=2, keep_last=2)
    assert names(tmp_path) == ["step=10.ckpt", "step=8.ckpt"]
    write(tmp_path, range(10, 13), every=2, keep_last=3)  # resumed: 10 is there already
    assert names(tmp_path) == ["step=10.ckpt", "step=12.ckpt", "step=8.ckpt"]
    assert json.loads((tmp_path / "step=12.ckpt" / "checkpoint.json").read_text())["step"] == 12


def test_keeping_none_away_keeps_all(tmp_path: Path) -> None:
    write(tmp_path, range(0, 5), every=1, keep_last=0)
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["cut off", "bytes", "no manifest", "no state"])
def test_a_damaged_newest_is_passed_over_with_a_line(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, range(0, 12), every=5, keep_last=2)
    newest = tmp_path / "step=10.ckpt"
    state = newest / "state.ckpt"
    content = bytearray(state.read_bytes())
    assert find_checkpoint(tmp_path) == state
    if damage == "cut off":
        state.write_bytes(content[:-1])
    elif damage == "bytes":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    else:
        (newest / ("checkpoint.json" if damage == "no manifest" else "state.ckpt")).unlink()
    assert find_checkpoint(tmp_path) == tmp_path / "step=5.ckpt" / "state.ckpt"
    said = capsys.readouterr().out
    assert f"{newest}: not readable (" in said
    assert f"resuming from {tmp_path / 'step=5.ckpt'}" in said


def test_what_a_crash_while_writing_leaves_is_never_taken_and_removed_at_the_next_start(tmp_path: Path) -> None:
    class Full(Trainer):
        def save_checkpoint(self, file: Path) -> None:
            file.write_bytes(b"half")
            raise OSError("no space")

    made = Checkpoints(tmp_path, every=1)
    with pytest.raises(OSError, match="no space"):
        made.save(Full(), 3)
    assert names(tmp_path) == [".step=3.ckpt.tmp"]
    assert find_checkpoint(tmp_path) is None
    made.setup(Trainer(), None, "fit")
    assert names(tmp_path) == []


@pytest.mark.parametrize("options", [{"every": 0}, {"keep_last": -1}])
def test_senseless_numbers_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="checkpoints: every is"):
        Checkpoints(tmp_path, **options)
