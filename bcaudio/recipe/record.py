"""The done-record of a stage folder (`stage.json`), the key that says what a stage is made of, and its progress."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import socket
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from bcaudio import __version__
from bcaudio.recipe.errors import naming_full_disk
from bcaudio.recipe.load import dump_recipe
from bcaudio.recipe.target import resolve_target

# A change of one of these makes a finished stage stale.
KEY_PACKAGES = ("bcaudio", "torch", "transformers", "lightning")
# Where a stage stands, what it is called and what runs it does not change what it computes.
NOT_IN_KEY = frozenset(
    {"out", "takes", "name", "paper", "threads", "engine", "workers", "checkpoint_every", "checkpoints"}
    # a stage that was cut off may go on with other ranks, workers and micro-batches: its global batches stay the same
    | {"trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"}
    | {"trainer.enable_progress_bar", "trainer.log_every_n_steps"}
    | {"data.num_workers", "data.accumulate", "data.memory_mb"}
)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file such that readers see the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path):
            temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} when the file is absent or broken, as after a full disk."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computes; `-` for a package that is not installed."""
    found = {"bcaudio": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "lightning", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "-"
    return found


def taken_key(folder: str | Path) -> str:
    """The key of a folder that a stage takes; its path, where it is no stage folder (data from elsewhere)."""
    return str(read_json(Path(folder) / "stage.json").get("key") or f"path:{folder}")


def stage_key(recipe: Mapping[str, Any], takes: Mapping[str, str]) -> str:
    """SHA-256 over all that decides a stage's result: recipe, keys of the taken stages, versions.

    Args:
        recipe: resolved; its own `out` and `takes` paths do not count, also where other values were interpolated from them.
        takes: name -> key of the taken folder.
    """
    content = {"recipe": comparable(recipe), "takes": dict(takes), "versions": {name: versions()[name] for name in KEY_PACKAGES}}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=jsonable).encode()).hexdigest()


def comparable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without what NOT_IN_KEY names, and with `<out>`, `<takes.NAME>` in place of paths."""
    places = {str(folder): f"<takes.{name}>" for name, folder in (recipe.get("takes") or {}).items()}
    if recipe.get("out"):
        places[str(recipe["out"])] = "<out>"

    def replaced(node: Any, where: str = "") -> Any:
        if isinstance(node, Mapping):
            return {
                str(key): replaced(value, f"{where}{key}.") for key, value in node.items() if f"{where}{key}" not in NOT_IN_KEY
            }
        if isinstance(node, list | tuple):
            return [replaced(value, f"{where}*.") for value in node]
        if isinstance(node, str | Path):
            for folder in sorted(places, key=len, reverse=True):
                if str(node) == folder or str(node).startswith(folder + "/"):
                    return places[folder] + str(node)[len(folder) :]
        return node

    return replaced(recipe)


def set_aside(folder: Path) -> Path:
    """Rename a stage folder to the first free `<folder>.stale-<n>` and return that."""
    n = 1
    while (moved := folder.with_name(f"{folder.name}.stale-{n}")).exists():
        n += 1
    folder.rename(moved)
    return moved


def keeps_what_fits(before: Mapping[str, Any], recipe: Mapping[str, Any], taken: Mapping[str, str]) -> bool:
    """Whether a stage folder stays although its recipe has changed: its job knows file by file what still fits.

    Such a job's class says `keeps_folder = True`. It must also be the job of before, and what it cannot see in its recipe,
    the taken stages and the versions, must be the same.

    Args:
        before: the folder's record.
        recipe: resolved; the new one.
        taken: name -> key of the folders it takes.
    """
    target = _job(recipe)
    return (
        target is not None
        and target == before.get("job")
        and {name: entry.get("key") for name, entry in before.get("takes", {}).items()} == dict(taken)
        and all(before.get("versions", {}).get(package) == versions()[package] for package in KEY_PACKAGES)
        and bool(getattr(resolve_target(target), "keeps_folder", False))
    )


def _job(recipe: Mapping[str, Any]) -> str | None:
    job = recipe.get("job")
    return job.get("_target_") if isinstance(job, Mapping) else None


def stage_record(out: str | Path, recipe: Mapping[str, Any], takes: Mapping[str, str | Path] | None = None) -> StageRecord:
    """`with stage_record(out, recipe, takes) as record:` around all that a stage command does. See StageRecord."""
    return StageRecord(Path(out), recipe, takes or {})


class StageRecord:
    """Context manager that keeps `recipe.yaml` and `stage.json` of a stage folder, both written atomically.

    On entry the status is `running`. It ends as `done`, `failed` (with a one-line reason) or `interrupted`. Entering a folder
    whose record has the same key, or that `keeps_what_fits`, counts one more attempt and adds up wall times; any other folder is
    first moved to `<out>.stale-<n>`. Only rank 0 of a distributed run writes.

    Args:
        out: the stage folder, created when missing.
        recipe: resolved.
        takes: name -> folder the stage takes; those in `recipe["takes"]` count too.

    Raises:
        ValueError: another living process is writing this folder.
    """

    def __init__(self, out: Path, recipe: Mapping[str, Any], takes: Mapping[str, str | Path]) -> None:
        folders = {**(recipe.get("takes") or {}), **takes}
        self.out, self.recipe = out, recipe
        self.takes = {name: {"folder": str(folder), "key": taken_key(folder)} for name, folder in folders.items()}
        self.key = stage_key(recipe, {name: taken["key"] for name, taken in self.takes.items()})
        self.content: dict[str, Any] = {}

    def __enter__(self) -> StageRecord:
        self._started, self._cpu_before = time.monotonic(), _cpu_s()
        before = read_json(self.out / "stage.json") if is_rank_zero() else {}
        if before and before.get("status") == "running" and is_alive(before):
            raise ValueError(
                f"{self.out}: process {before['pid']} is writing this stage; wait for it, stop it, or choose another out="
            )
        taken = {name: entry["key"] for name, entry in self.takes.items()}
        if before and before.get("key") != self.key and not keeps_what_fits(before, self.recipe, taken):
            set_aside(self.out)
            before = {}
        self._wall_s_before = before.get("wall_s", 0.0) + _lost_wall_s(self.out, before)
        self._cpu_s_before, self._peak_before = before.get("cpu_s", 0.0), before.get("peak_memory_mb", 0.0)
        self.content = {
            "status": "running",
            "key": self.key,
            "job": _job(self.recipe),
            "takes": self.takes,
            "versions": dict(versions()),
            "git_commit": git_commit(),
            "seed": self.recipe.get("seed"),
            "attempts": before.get("attempts", 0) + 1,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_birth": _birth(os.getpid()),
            "cpu": _cpu_name(),
        }
        if is_rank_zero():
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out / "recipe.yaml", dump_recipe(self.recipe))
        self._write()
        return self

    def add(self, **entries: Any) -> None:
        """Put entries (metrics, parameter counts, gate, ...) into the record and write it; tensors become numbers."""
        reserved = {"status", "key", "attempts", "wall_s"} & entries.keys()
        assert not reserved, f"the record keeps {reserved} itself"
        self.content.update(entries)
        self._write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None:
            self.content["status"] = "done"
            self._write()
            return
        self.content["status"] = "interrupted" if _is_interrupt(error) else "failed"
        text = " ".join(str(error).split())
        self.content["reason"] = f"{type(error).__name__}: {text}" if text else type(error).__name__
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
            self._write()

    def _write(self) -> None:
        if not is_rank_zero():
            return
        self.content["wall_s"] = round(self._wall_s_before + time.monotonic() - self._started, 3)
        self.content["cpu_s"] = round(self._cpu_s_before + _cpu_s() - self._cpu_before, 3)
        self.content["peak_memory_mb"] = round(max(self._peak_before, _peak_memory_mb()), 1)
        write_atomic(self.out / "stage.json", json.dumps(self.content, indent=1, default=jsonable) + "\n")


class Progress:
    """How far a stage is, for those who watch: `progress.json`, written at most once a second and at the end.

    Args:
        out: the stage folder.
        total: steps of the whole stage.
    """

    def __init__(self, out: str | Path, total: int) -> None:
        self.path, self.total, self._written = Path(out) / "progress.json", total, float("-inf")

    def step(self, n: int, **numbers: Any) -> None:
        """`n` steps are done; `numbers` (a loss, a rate) are shown beside it."""
        now = time.monotonic()
        if is_rank_zero() and (now - self._written >= 1.0 or n >= self.total):
            self._written = now
            content = {"step": n, "total": self.total, "numbers": numbers, "time": time.time()}
            write_atomic(self.path, json.dumps(content, default=jsonable) + "\n")


def is_rank_zero() -> bool:
    """Whether this process is the only or the first one of a distributed run, as its launcher's environment says."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank), "0") == "0"


def jsonable(value: Any) -> Any:
    """What json cannot write by itself: 0-d tensors and numpy scalars as numbers, arrays as lists, the rest as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


@functools.cache
def git_commit() -> str | None:
    """Commit of the code that runs (with `-dirty` when files differ); None when it does not come from a git checkout."""
    package = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(package)]
    try:
        # an installed copy inside somebody else's checkout is not tracked there
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True, timeout=10)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            timeout=10,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _is_interrupt(error: BaseException) -> bool:
    """Ctrl-C, also where Lightning has turned it into SystemExit, and the answers to SIGTERM."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit)
        and (isinstance(error.__context__, KeyboardInterrupt) or type(error).__name__ in ("SIGTERMException", "Preempted"))
    )


def is_alive(record: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a record still runs on this machine (and is another than this one)."""
    pid = record.get("pid")
    if record.get("host") != socket.gethostname() or not isinstance(pid, int) or pid == os.getpid():
        return False
    if Path("/proc/self/stat").exists():
        # a number is used again some day, so the time of birth must agree, too
        return (birth := _birth(pid)) is not None and birth == record.get("pid_birth")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _birth(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (Linux); None when it has ended, even if nobody has collected it yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third field on; see proc(5)
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _lost_wall_s(out: Path, record: Mapping[str, Any]) -> float:
    """Seconds of a killed attempt after its record was last written: up to its last sign of life."""
    if record.get("status") != "running":
        return 0.0
    written = (out / "stage.json").stat().st_mtime
    return max(0.0, read_json(out / "progress.json").get("time", written) - written)


def _cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _peak_memory_mb() -> float:
    """Peak resident memory of this process or of its largest child that has ended; ru_maxrss counts kB, on macOS bytes."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def _cpu_name() -> str:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} x {os.cpu_count()}"
