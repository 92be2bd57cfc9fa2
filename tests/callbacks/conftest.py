"""Real process groups in tests: one forked process per rank, as torchrun would start it, gloo between them."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch


@dataclass(frozen=True)
class Ended:
    """How the ranks ended: exit codes, what each wrote to stderr, and seconds until the last had gone."""

    codes: list[int | None]
    errors: list[str]
    seconds: float


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., Ended]:
    """`run_ranks(function, num_ranks, limit_s)` calls `function(rank)` in each process; an exception is exit code 1."""

    def run(function: Callable[[int], None], num_ranks: int = 2, limit_s: float = 60.0) -> Ended:
        torch.set_num_threads(1)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context, began = get_context("fork"), time.monotonic()
        ranks = [context.Process(target=_rank, args=(function, number, num_ranks, port, tmp_path)) for number in range(num_ranks)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(max(0.1, limit_s - (time.monotonic() - began)))
        seconds = time.monotonic() - began
        for process in ranks:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
        errors = [(tmp_path / f"stderr-{number}.txt").read_text() for number in range(num_ranks)]
        return Ended([process.exitcode for process in ranks], errors, seconds)

    return run


def _rank(function: Callable[[int], None], number: int, num_ranks: int, port: int, folder: Path) -> None:
    with open(folder / f"stderr-{number}.txt", "w") as stream:
        os.dup2(stream.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    values = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": number, "LOCAL_RANK": number, "GROUP_RANK": 0,
              "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "TORCHELASTIC_RUN_ID": "test"}  # fmt: skip
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        function(number)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
