"""Where tasks run: a pool of processes on this machine, or a Ray cluster. Both give the same results; only the order differs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from data_prep.utterance import MissingExtra

T = TypeVar("T")
R = TypeVar("R")

ENGINES = ("local", "ray")
MAX_TRIES = 4  # of a task whose worker died; more means that the task itself kills it


class WorkerLost(RuntimeError):
    """A task's worker died again and again."""


@dataclass(frozen=True)
class Engine:
    """How tasks are run; what they make does not depend on it.

    Args:
        kind: "local", or "ray": the cluster of RAY_ADDRESS, which is sent the packages `bcaudio` and `data_prep` and must see the
            same files; else one is started on this machine, without dashboard and on the loopback address (unless Ray was
            imported before: it reads at its import where it may listen).
        workers: processes, or CPUs of a Ray that is started here.

    Raises:
        ValueError: an unknown kind, or no worker.
    """

    kind: str = "local"
    workers: int = 2

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise ValueError(f"engine is {self.kind!r}; choose one of {', '.join(ENGINES)}")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Call `function` for every task and give (task, result) as they come.

        A worker that dies (out of memory, kill -9) is replaced and its task tried again; an exception of the function is raised.

        Args:
            function: importable by its name; called again for a task after a crash, so it must leave whole results or none.
            tasks: picklable.

        Raises:
            WorkerLost: a task lost its worker MAX_TRIES times.
            MissingExtra: Ray is not installed.
        """
        if self.kind == "ray":
            return _on_ray(function, tasks, self.workers)
        if self.workers == 1 or len(tasks) < 2:
            return ((task, function(task)) for task in tasks)
        return _in_processes(function, tasks, self.workers)


IN_THIS_PROCESS = Engine(workers=1)


def _in_processes(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    context = multiprocessing.get_context("spawn")
    waiting, tries = list(range(len(tasks)))[::-1], [0] * len(tasks)
    while waiting:
        running: dict[Future[R], int] = {}
        with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=_begin) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:  # few in flight, so that a crash costs few
                        number = waiting.pop()
                        running[pool.submit(function, tasks[number])] = number
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        result = future.result()
                        yield tasks[running.pop(future)], result
            except BrokenProcessPool:
                for number in sorted(running.values(), reverse=True):
                    tries[number] += 1
                    if tries[number] == MAX_TRIES:
                        raise _lost(tasks[number]) from None
                    waiting.append(number)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _lost(task: object) -> WorkerLost:
    return WorkerLost(
        f"{task}: its worker died {MAX_TRIES} times; look for a lack of memory, and lower workers or samples_per_shard"
    )


def _environment() -> dict[str, str]:
    """Of workers: one thread each, unless the user says otherwise, or the workers would only wait for each other."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _begin() -> None:
    """A worker has its threads set before it loads what uses them, and does not go on alone when its driver is killed."""
    os.environ.update(_environment())

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    ray = _ray(workers)
    remote = ray.remote(num_cpus=1, max_retries=MAX_TRIES - 1)(function)
    waiting, running = list(tasks)[::-1], {}
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                task = waiting.pop()
                running[remote.remote(task)] = task
            (reference,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
                raise _lost(task) from error
            yield task, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _ray(workers: int) -> ModuleType:
    """Ray, connected. One that is started here goes on until this process ends: a start takes seconds, and every phase maps."""
    cluster = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not cluster:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's switch for loopback; read when it is imported
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("engine is 'ray', but Ray is not installed; pip install bcaudio[ray]") from error
    if ray.is_initialized():
        return ray
    if cluster:
        packages = [str(Path(find_spec(name).origin).parent) for name in ("bcaudio", "data_prep")]
        ray.init(log_to_driver=False, runtime_env={"py_modules": packages, "env_vars": _environment()})
    else:
        os.environ.update(_environment())
        ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    return ray
