from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from data_prep.engine import MAX_TRIES, Engine, WorkerLost


def square(number: int) -> int:
    return number * number


def die_once(task: tuple[Path, int]) -> int:
    """Kills its own process the first time, and then does its work."""
    mark, number = task
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task: int) -> int:
    raise ValueError(f"task {task} is bad")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once_and_comes_with_its_result(workers: int) -> None:
    assert sorted(Engine(workers=workers).map(square, range(7))) == [(n, n * n) for n in range(7)]


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    tasks = [(tmp_path / "died", number) for number in range(6)]
    assert sorted(result for _, result in Engine(workers=2).map(die_once, tasks)) == list(range(6))
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_every_worker_is_named() -> None:
    with pytest.raises(WorkerLost, match=f"its worker died {MAX_TRIES} times; look for a lack of memory"):
        list(Engine(workers=2).map(die, range(2)))


def test_an_exception_of_the_task_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="task 0 is bad"):
        list(Engine(workers=1).map(fail, range(1)))
    with pytest.raises(ValueError, match="is bad"):
        list(Engine(workers=2).map(fail, range(3)))


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="engine is 'slurm'; choose one of local, ray"):
        Engine("slurm")
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        Engine(workers=0)
