"""Run the stages of a pipeline: what is done is skipped, what was cut off goes on, what is stale is made anew."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bcaudio.recipe.display import Display, Row, duration, progress_of
from bcaudio.recipe.errors import did_you_mean
from bcaudio.recipe.graph import COMMANDS, Command, Pipeline, Stage, check_pipeline, stage_state
from bcaudio.recipe.record import keeps_what_fits, read_json, set_aside, write_atomic

TAIL_LINES = 15
POLL_S = 0.1
GRACE_S = 120.0  # to finish writing after Ctrl-C
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def run_pipeline(
    pipeline: Pipeline,
    only: Collection[str] = (),
    start: str | None = None,
    jobs: int | None = None,
    commands: Mapping[str, Command] = COMMANDS,
    console: Console | None = None,
) -> int:
    """Run what is not done, each stage as a process of its own, several at a time where they do not take from each other.

    Args:
        pipeline: as load_pipeline gives it; all its recipes are checked first.
        only: just these stages.
        start: just this stage and all that depends on it.
        jobs: processes at a time; default 2, or 1 on a single core.
        commands: name -> program.
        console: where to show progress.

    Returns:
        exit code: 0, or 1 when a stage failed or missed a bar.

    Raises:
        ValueError: a recipe is wrong, a chosen stage does not exist or takes from one that is neither done nor chosen, or another
            runner works in the same folder.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the running stages have stopped.
    """
    jobs = min(2, os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: at least 1 stage must be allowed to run")
    chosen = _choose(pipeline, only, start)
    check_pipeline(pipeline, commands)
    with _lock(pipeline.run_dir), _sigterm_as_interrupt():
        write_atomic(pipeline.run_dir / "pipeline.yaml", pipeline.dump())
        return _Runner(pipeline, chosen, jobs, commands, console).run()


@dataclass
class _Attempt:
    process: subprocess.Popen[bytes]
    started: float


class _Runner:
    """The loop; `words` holds what each stage is at: waiting, running, done, failed, not run (...)."""

    def __init__(
        self, pipeline: Pipeline, chosen: set[str], jobs: int, commands: Mapping[str, Command], console: Console | None
    ) -> None:
        self.pipeline, self.chosen, self.jobs, self.commands = pipeline, chosen, jobs, commands
        self.running: dict[str, _Attempt] = {}
        self.elapsed_s: dict[str, float] = {}
        self.words: dict[str, str] = {}
        self.display = Display(self._rows, console)

    def run(self) -> int:
        with self.display:
            self._look()
            try:
                while self._advance():
                    time.sleep(POLL_S)
                    self.display.refresh()
            except BaseException:
                self._stop()
                raise
        failed = [name for name, word in self.words.items() if word == "failed"]
        if failed:
            self.display.say(f"failed: {', '.join(failed)}; run the same command again to go on from there")
        broken = [line for name in self.pipeline.stages if name in self.chosen for line in self._broken_bars(name)]
        for line in broken:
            self.display.say(line)
        return 1 if failed or broken else 0

    def _broken_bars(self, name: str) -> list[str]:
        """Lines about bars that a done stage has measured and missed; also of stages done earlier: the exit code stays."""
        gate = read_json(self.pipeline.stages[name].folder / "stage.json").get("gate")
        if self.words[name] != "done" or not isinstance(gate, Mapping):
            return []
        return [
            f"{name}: {key} misses its bar: {entry}"
            for key, entry in gate.items()
            if isinstance(entry, Mapping) and entry.get("holds") is False
        ]

    def _look(self) -> None:
        """What is done already. Refuses when a chosen stage takes from one that is neither done nor chosen."""
        for stage in self.pipeline.stages.values():
            state = stage_state(stage)
            if state.word == "running":
                raise ValueError(f"{stage.folder}: stage {stage.name} is being run {state.reason}; wait for it or stop it")
            if state.word == "done":
                self.words[stage.name] = "done"
                if stage.name in self.chosen:
                    self.display.say(f"{stage.name}: done already, skipped")
            else:
                self.words[stage.name] = "waiting" if stage.name in self.chosen else "not chosen"
        for name in self.chosen:
            unfinished = sorted(
                str(folder)
                for folder in self.pipeline.stages[name].given.values()
                if read_json(folder / "stage.json").get("status") != "done"
            )
            if self.words[name] == "waiting" and unfinished:
                raise ValueError(f"stage {name} takes {unfinished[0]}, which is not done; run the pipeline that makes it first")
            lacking = sorted({t for t in self.pipeline.stages[name].takes.values() if self.words[t] == "not chosen"})
            if self.words[name] == "waiting" and lacking:
                raise ValueError(f"stage {name} takes from {', '.join(lacking)}, which is not done; choose that one, too")

    def _advance(self) -> bool:
        """Notice what has ended, start what can start. Returns whether anything is left to wait for."""
        for name, attempt in list(self.running.items()):
            if attempt.process.poll() is not None:
                del self.running[name]
                self.elapsed_s[name] = time.monotonic() - attempt.started
                self._finish(self.pipeline.stages[name], attempt.process.returncode)
        for stage in self.pipeline.stages.values():
            if self.words[stage.name] != "waiting":
                continue
            taken = {other: self.words[other] for other in stage.takes.values()}
            broken = [other for other, word in taken.items() if word == "failed" or word.startswith("not run")]
            if broken:
                self.words[stage.name] = f"not run ({broken[0]} failed)"
                self.display.say(f"{stage.name}: not run, since it takes from {broken[0]}")
            elif len(self.running) < self.jobs and all(word == "done" for word in taken.values()):
                self._start(stage)
        return bool(self.running)

    def _start(self, stage: Stage) -> None:
        state = stage_state(stage)
        if state.word == "stale" and keeps_what_fits(state.record, stage.recipe, stage.taken_keys):
            self.display.say(f"{stage.name}: stale ({state.reason}); what still fits is kept")
        elif state.word == "stale":
            self.display.say(f"{stage.name}: stale ({state.reason}); the old folder is now {set_aside(stage.folder)}")
        elif state.word == "cut off":
            self.display.say(f"{stage.name}: goes on where it was cut off ({state.reason})")
        log_path = _log_path(stage)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        threads = str(stage.recipe.get("threads", 1))
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [*self.commands[stage.command].argv, str(stage.recipe_path), *stage.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # threads that wait must sleep: spinning ones starve the stage beside them when together they have more threads
                # than cores
                env={**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # the terminal's Ctrl-C is for the runner, which passes it on once
                preexec_fn=_die_with(os.getpid()),
            )
        self.running[stage.name] = _Attempt(process, time.monotonic())
        self.words[stage.name] = "running"
        self.display.say(f"{stage.name}: started ({log_path})")

    def _finish(self, stage: Stage, code: int) -> None:
        record = read_json(stage.folder / "stage.json")
        # with a done-record, 1 says that a bar was missed: what the stage was to make is there
        if code in (0, 1) and record.get("status") == "done" and record.get("key") == stage.key:
            self.words[stage.name] = "done"
            self.display.say(f"{stage.name}: done in {duration(self.elapsed_s[stage.name])}")
            return
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        elif code > 0:
            reason = f"exit code {code}"
        elif record.get("status") != "done":
            reason = "it ended without a done-record (stage.json)"
        else:
            reason = f"its record has key {record.get('key')}, expected {stage.key}: it recorded another recipe or other takes"
        self.words[stage.name] = "failed"
        self.display.say(f"{stage.name}: FAILED, {reason}; the end of {_log_path(stage)}:")
        for line in _tail(_log_path(stage)):
            self.display.say(f"  | {line}")

    def _stop(self) -> None:
        """Interrupt the running stages and wait, so that they can write checkpoints; a second Ctrl-C kills them."""
        if not self.running:
            return
        self.display.say(f"stopping {', '.join(self.running)}; they go on from their last checkpoint; Ctrl-C again kills")
        for attempt in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                attempt.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + GRACE_S
        try:
            for attempt in self.running.values():
                attempt.process.wait(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            pass
        for name, attempt in self.running.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):  # its own helpers are in its process group
                os.killpg(attempt.process.pid, signal.SIGKILL)
            attempt.process.wait()
            self.words[name] = "interrupted"
            self.elapsed_s[name] = time.monotonic() - attempt.started
        self.running.clear()
        self.display.say("interrupted; run the same command again to go on")

    def _rows(self) -> Iterator[Row]:
        for stage in self.pipeline.stages.values():
            attempt = self.running.get(stage.name)
            elapsed_s = time.monotonic() - attempt.started if attempt else self.elapsed_s.get(stage.name)
            word = self.words.get(stage.name, "")
            begun = word in ("running", "done", "failed", "interrupted")
            steps, numbers = progress_of(read_json(stage.folder / "progress.json") if begun else {})
            if elapsed_s is None and word == "done":
                elapsed_s = read_json(stage.folder / "stage.json").get("wall_s")
            yield Row(stage.name, word, steps, numbers, elapsed_s)


def _choose(pipeline: Pipeline, only: Collection[str], start: str | None) -> set[str]:
    for name in [*only, *([start] if start else [])]:
        if name not in pipeline.stages:
            raise ValueError(f"{pipeline.path}: no stage {name!r}{did_you_mean(name, pipeline.stages)}")
    if only and start:
        raise ValueError("--only and --from exclude each other; give one of them")
    return set(only) if only else pipeline.descendants([start]) if start else set(pipeline.stages)


def _log_path(stage: Stage) -> Path:
    return stage.folder / "logs" / "console.log"


def _tail(path: Path) -> list[str]:
    """The last lines of a log, of a progress bar only its last state."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as log:
            return [line.rstrip().rpartition("\r")[2] for line in deque(log, TAIL_LINES)]
    except OSError:
        return []


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes the stage: on Linux it asks for SIGTERM when the runner dies, whatever kills that."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a runner in the background of a script ignores it; its stages must not
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # died before the request
                os._exit(1)

    return prepare


@contextlib.contextmanager
def _lock(run_dir: Path) -> Iterator[None]:
    """Hold `<run_dir>/.lock`; the kernel frees it however the runner ends. Raises ValueError when another runner holds it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"{run_dir}: another runner works here ({lock.read().strip()}); wait for it or choose another run_dir="
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A batch system stops the runner as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # signals belong to the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
