"""What the suite `data` measures in processes of its own; nothing here loads torch, as `python -m data_prep` does not."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import read_header
from bcaudio.data.shards import write_shard
from data_prep.pipeline import Pipeline
from data_prep.sources.manifest import Manifest
from data_prep.task import Task


def open_step(folder: str) -> Callable[[], ShardIndex]:
    """For `peak_growth`: opening the shards of a folder."""
    return lambda: ShardIndex(f"{folder}/*.tar")


class Pretend:
    """An engine that leaves an empty shard and a done-record for every task, as if its work were done."""

    def map(self, function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """`function` is not called."""
        for task in tasks:
            write_shard([], task.tar, dict(task.fingerprint))
            record = {"shard": task.tar.stem, "inputs_sha256": task.inputs_sha256, "sha256": read_header(task.tar)["sha256"]}
            record |= {"num_samples": 0, "duration_s": 0.0, "into": {}, "drops": []}
            task.done.parent.mkdir(parents=True, exist_ok=True)
            task.done.write_text(json.dumps(record), encoding="utf-8")
            yield task, record


def plan(folder: Path, pretend: bool) -> dict[str, float]:
    """Run the pipeline over `folder/manifest.jsonl`: its shards are done already, or are made by `Pretend`.

    Returns:
        Seconds, peak bytes of this process, shards made and kept.
    """
    start = time.perf_counter()
    pipeline = Pipeline([Manifest(folder / "manifest.jsonl", "zh", check_audio=False)])
    result = pipeline.run(folder / "out", 0, **({"engine": Pretend()} if pretend else {}))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": _peak_bytes(), "made": result["shards_made"], "kept": result["shards_kept"]}


def _peak_bytes() -> int:
    """Peak of resident memory. Unlike ru_maxrss, it knows nothing of the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(plan(Path(sys.argv[1]), sys.argv[2] == "1")))
