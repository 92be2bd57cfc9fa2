"""Names the rank that stands still, dumps every rank's stack, and ends the job everywhere."""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from torch import Tensor

from bcaudio.distributed import is_distributed, rank, world_size
from bcaudio.recipe.record import write_atomic

EXIT_CODE = 71
NUM_KEYS = 32
MIN_GAP_S = 0.02


@dataclass(frozen=True)
class Beat:
    """Where a rank is. `position` orders beats: every rank passes the same ones, so the least of them holds the others up."""

    position: tuple[int, int, int] = (-1, 0, 0)
    phase: str = "the start of the fit"
    limit_s: float = 0.0
    keys: tuple[str, ...] = ()
    num_keys: int = 0
    at: float = field(default_factory=time.monotonic)


class Watchdog(L.Callback):
    """Ends a job that one rank holds up, within `timeout_s`, on every rank, with exit code 71.

    A thread of every rank writes where its rank is (step, phase, sample keys, seconds since) to a key-value store beside the
    process group, so no collective is needed. Rank 0 reads all of them; the others watch rank 0. The rank furthest behind is the
    one that stands still: the others wait for it in a collective. Whoever sees it writes the verdict to the store and to
    `verdict.json`; then all dump the stacks of all their threads to `stack-rank<r>.txt` and stderr and leave at once. A rank that
    holds Python's lock for good, or whose store no longer answers because rank 0's machine is gone, is dumped and ended by a
    timer that needs neither (exit code 1). A rank that raises ends the others
    after `grace_s`, during which they may raise by themselves.

    Put it first among the callbacks, so that the others' work counts to the right phase.

    Args:
        timeout_s: longest time in one phase of a step (next batch, forward, backward, update).
        slow_timeout_s: the same for validation, saving, and all before the end of the first step.
        folder: where the dumps go; None takes `watchdog` in the trainer's root folder.
        grace_s: see above.

    Raises:
        ValueError: timeouts that are not positive, or slow_timeout_s below timeout_s.
    """

    def __init__(
        self, timeout_s: float = 300.0, slow_timeout_s: float = 1800.0, folder: str | None = None, grace_s: float = 5.0
    ) -> None:
        if not 0 < timeout_s <= slow_timeout_s:
            raise ValueError(
                f"Watchdog: timeout_s is {timeout_s}, slow_timeout_s {slow_timeout_s}; 0 < timeout_s <= slow_timeout_s must hold"
            )
        self.interval_s = min(5.0, timeout_s / 20)
        self.timeout_s, self.slow_timeout_s = timeout_s - 2 * self.interval_s, slow_timeout_s - 2 * self.interval_s
        self.grace_s, self.folder = grace_s, None if folder is None else Path(folder)
        self.last, self.warm = Beat(), False
        self.stopped, self.news = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    # --- beats: the main thread says where it is -------------------------------------------------------------------------------

    def beat(self, phase: str, slow: bool = False, counts: bool = True) -> None:
        """The main thread has come to `phase`; `counts` is False for what some ranks pass more often than others."""
        step, micro, number = self.last.position
        self._put((step, micro, number + counts), phase, slow, self.last.keys, self.last.num_keys)

    def _put(self, position: tuple[int, int, int], phase: str, slow: bool, keys: tuple[str, ...], num_keys: int) -> None:
        slow = slow or not self.warm
        self.last = Beat(position, phase, self.slow_timeout_s if slow else self.timeout_s, keys, num_keys)
        if slow and self.thread is not None:
            self._arm()  # what comes may hold Python's lock for longer than the thread has allowed

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        items = getattr(batch, "items", [])
        keys = tuple(item.sample.key for item in items[:NUM_KEYS])
        position = (int(getattr(batch, "step", batch_idx)), int(getattr(batch, "micro", 0)), 0)
        self._put(position, "forward", False, keys, len(items))
        self.news.set()  # written at once: of a process that dies in this step no more will be heard

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.beat("backward")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.beat("update")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.warm = True
        self.beat("waiting for the next batch")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.beat("validation", slow=True)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.beat(f"validation batch {batch_idx}", slow=True, counts=False)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.beat("end of validation", slow=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.beat("waiting for the next batch", slow=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.beat("saving a checkpoint", slow=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.beat("end of the fit", slow=True)

    # --- life of the thread ----------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rank, self.world_size = rank(), world_size()
        self.folder = self.folder or Path(trainer.default_root_dir) / "watchdog"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dump = open(self.folder / f"stack-rank{self.rank}.txt", "w+", encoding="utf-8")  # noqa: SIM115
        self.store = _store(self.timeout_s)
        self.beat(self.last.phase, slow=True)
        if self.rank == 0:
            self.store.set("alarm", "-")
            self.store.set("done", "0")
        self.number = 0
        self._publish()
        if is_distributed():
            dist.barrier()
        self.seen: dict[int, tuple[dict[str, Any], float]] = {}
        self.stopped.clear()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.thread.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        lines = str(exception).splitlines() or [""]
        what = f"rank {rank()} of {world_size()} ({_where(self._report())}) raised {type(exception).__name__}: {lines[0]}"
        self._stop({"kind": "raised", "ranks": [rank()], "message": what})

    def _stop(self, alarm: Mapping[str, Any] | None = None) -> None:
        """End the thread; rank 0, which holds the store, waits for the others to have ended theirs."""
        if self.thread is None:
            return
        self.stopped.set()
        self.news.set()
        self.thread.join()
        self.thread = None
        faulthandler.cancel_dump_traceback_later()
        self.dump.close()
        file = Path(self.dump.name)
        if file.stat().st_size == 0:
            file.unlink()
        try:
            if alarm is not None:
                first = json.loads(self.store.compare_set("alarm", "-", json.dumps(alarm)).decode())
                if first["ranks"] != alarm["ranks"]:  # what this rank raises may only follow from that
                    os.write(2, f"watchdog: before this, {first['message']}\n".encode())
            self.store.add("done", 1)
            until = time.monotonic() + 2 * self.grace_s
            while self.rank == 0 and self.store.add("done", 0) < self.world_size and time.monotonic() < until:
                time.sleep(self.interval_s)
        except RuntimeError:  # rank 0 has gone before
            pass

    # --- the thread ------------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        turn = time.monotonic()
        while not self.stopped.is_set():
            self.news.wait(max(0.0, turn - time.monotonic()))
            self.news.clear()
            verdict = None
            try:
                self._publish()
                if time.monotonic() >= turn:
                    turn = time.monotonic() + self.interval_s
                    self._arm()
                    verdict = self._alarm() or self._judge()
            except RuntimeError as error:
                lines = str(error).splitlines() or [""]
                verdict = {"kind": "stalled", "ranks": [0], "message": f"rank 0 has gone without a word ({lines[0]})"}
            if verdict is not None:
                if verdict["kind"] == "raised" and self.stopped.wait(self.grace_s):
                    return
                if not self.stopped.is_set():
                    self._end(verdict)
            self.stopped.wait(MIN_GAP_S)

    def _arm(self) -> None:
        """A timer of faulthandler's own thread, put off at every turn: it needs no Python lock."""
        faulthandler.dump_traceback_later(self.last.limit_s + 4 * self.interval_s, exit=True, file=self.dump)

    def _report(self) -> dict[str, Any]:
        last = self.last
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "position": last.position,
            "phase": last.phase,
            "limit_s": last.limit_s,
            "keys": last.keys,
            "num_keys": last.num_keys,
            "age_s": time.monotonic() - last.at,
        }

    def _publish(self) -> None:
        self.number += 1
        self.store.set(f"beat{self.rank}", json.dumps({**self._report(), "number": self.number}))

    def _alarm(self) -> dict[str, Any] | None:
        text = self.store.get("alarm").decode()
        return None if text == "-" else json.loads(text)

    def _judge(self) -> dict[str, Any] | None:
        """The verdict over the ranks that this rank watches, once one of them is late."""
        now = time.monotonic()
        watched = list(range(self.world_size)) if self.rank == 0 else [0]
        for number, text in zip(watched, self.store.multi_get([f"beat{number}" for number in watched]), strict=True):
            report = json.loads(text.decode())
            if number not in self.seen or self.seen[number][0]["number"] != report["number"]:
                self.seen[number] = (report, now)
        reports = {number: report for number, (report, _) in self.seen.items()}
        silent = {number: now - at for number, (_, at) in self.seen.items()}
        gone = [number for number in watched if silent[number] > reports[number]["limit_s"]]
        if gone:
            return self._verdict(gone, reports, {number: silent[number] for number in gone}, "does not answer")
        if self.rank != 0:  # the order of ranks is for rank 0 to judge, which sees all
            return None
        behind = min(tuple(report["position"]) for report in reports.values())
        ages = {number: report["age_s"] + silent[number] for number, report in reports.items()}
        late = [n for n, report in reports.items() if tuple(report["position"]) == behind and ages[n] > report["limit_s"]]
        return self._verdict(late, reports, ages, "stands still") if late else None

    def _verdict(
        self, late: Sequence[int], reports: Mapping[int, Mapping[str, Any]], ages: Mapping[int, float], what: str
    ) -> dict[str, Any]:
        lines = [
            f"rank {number} of {self.world_size} {what} for {ages[number]:.1f} s (limit {reports[number]['limit_s']:.1f} s): "
            f"{_where(reports[number])}; samples: {_keys(reports[number])}"
            for number in late
        ]
        waiting = [f"rank {number} ({_where(report)})" for number, report in reports.items() if number not in late]
        lines += [f"waiting for it: {', '.join(waiting[:8])}{' and others' if len(waiting) > 8 else ''}"] if waiting else []
        message = "; ".join([*lines, f"stacks: {self.folder}/stack-rank*.txt"])
        verdict = {"kind": "stalled", "ranks": list(late), "message": message, "reports": {n: reports[n] for n in late}}
        return json.loads(self.store.compare_set("alarm", "-", json.dumps(verdict)).decode())  # the first verdict holds for all

    def _end(self, verdict: Mapping[str, Any]) -> None:
        faulthandler.cancel_dump_traceback_later()
        text = f"watchdog: {verdict['message']}; rank {self.rank} leaves with exit code {EXIT_CODE}\n"
        try:
            os.write(2, text.encode())
            faulthandler.dump_traceback(file=2, all_threads=True)
            self.dump.write(text)
            self.dump.flush()
            faulthandler.dump_traceback(file=self.dump, all_threads=True)
            if self.rank == 0 or verdict["ranks"] == [0]:
                write_atomic(self.folder / "verdict.json", json.dumps(verdict, indent=1, ensure_ascii=False) + "\n")
            if self.rank == 0:
                time.sleep(4 * self.interval_s)  # this process holds the store: the others read the verdict first
            sys.stdout.flush()
        finally:  # whatever a full disk does to the dump
            os._exit(EXIT_CODE)


def _store(timeout_s: float) -> dist.Store:
    """A store of the watchdogs' own, so that no collective's traffic stands before it."""
    if not is_distributed():
        return dist.HashStore()
    host, timeout = os.environ.get("MASTER_ADDR") or socket.gethostname(), timedelta(seconds=timeout_s)
    options: dict[str, Any] = {"timeout": timeout, "wait_for_workers": False}
    store = dist.TCPStore(host, 0, is_master=True, **options) if rank() == 0 else None
    address = [host, None if store is None else store.port]
    dist.broadcast_object_list(address, src=0)
    return store or dist.TCPStore(*address, is_master=False, **options)


def _where(report: Mapping[str, Any]) -> str:
    step, micro, _ = report["position"]
    place = "before the first step" if step < 0 else f"step {step}, micro-batch {micro}" if micro else f"step {step}"
    return f"{report['phase']}, {place}, host {report['host']}, pid {report['pid']}"


def _keys(report: Mapping[str, Any]) -> str:
    more = report["num_keys"] - len(report["keys"])
    return (", ".join(report["keys"]) or "unknown") + (f" and {more} more" if more > 0 else "")
