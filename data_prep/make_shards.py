"""Sources -> shards, one shard per task on a pool of processes. Finished shards are kept, so a broken run goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bcaudio.data.schema import Sample
from bcaudio.data.shards import FORMAT, SAMPLE_RATE, read_index, shard_path, write_shard
from bcaudio.text.normalize import normalize, units
from data_prep.steps.clip import make_clip
from data_prep.utterance import CorpusUnavailable, Listing, Rejected, Source, Utterance

VERSION = 1  # of what clips sound like; a change makes every shard anew
FINGERPRINT = {"format": FORMAT, "sample_rate": SAMPLE_RATE}


class Reporter(Protocol):
    """What a job tells its progress to (`bcaudio.recipe.record.Progress`)."""

    total: int

    def step(self, n: int, **numbers: Any) -> None:
        """`n` shards are done."""
        ...


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs for one shard."""

    tar: Path
    done: Path
    utterances: tuple[Utterance, ...]
    scratch: Path
    max_duration_s: float

    def inputs_sha256(self) -> str:
        """Hash of everything that decides the shard's bytes."""
        content = [VERSION, FINGERPRINT, self.max_duration_s, [dataclasses.asdict(u) for u in self.utterances]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class MakeShards:
    """The job of `recipes/micro/data.yaml`: make every shard of every corpus.

    Args:
        corpora: sources (`data_prep.utterance.Source`).
        workers: processes; the bytes of the shards do not depend on it.
        max_duration_s: longer clips go to quarantine.
    """

    def __init__(self, corpora: list[Source], workers: int = 2, max_duration_s: float = 20.0) -> None:
        if not corpora:
            raise ValueError("MakeShards: corpora is empty; name at least one source")
        if workers < 1:
            raise ValueError(f"MakeShards: workers is {workers}; it must be at least 1")
        names = Counter(source.corpus for source in corpora)
        if max(names.values()) > 1:
            raise ValueError(f"MakeShards: corpus {names.most_common(1)[0][0]!r} is listed twice; name each corpus once")
        self.corpora, self.workers, self.max_duration_s = corpora, workers, max_duration_s

    def run(self, out: Path, seed: int, progress: Reporter | None = None) -> dict[str, Any]:
        """Write `out/shards/*.tar` with indices, `out/text.txt`, `out/units.json` (the words and hanzi of the training texts),
        `out/quarantine.jsonl` and `out/fingerprint.json`.

        Returns:
            Counts for the record: shards made and kept, samples and hours per corpus and split, quarantine and drops per reason,
            corpora left out and why.
        """
        left_out: dict[str, str] = {}
        dropped: dict[str, dict[str, int]] = {}
        utterances: list[Utterance] = []
        texts: list[str] = []
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="bcaudio-") as scratch:
            tasks: list[ShardTask] = []
            for source in self.corpora:
                try:
                    listing: Listing = source.list_utterances(seed, Path(scratch))
                except CorpusUnavailable as reason:
                    left_out[source.corpus] = str(reason)
                    print(f"WARNING: {reason}", file=sys.stderr)
                    continue
                if listing.dropped:
                    dropped[source.corpus] = listing.dropped
                utterances.extend(listing.utterances)
                texts.extend(_training_texts(source, listing))
                tasks.extend(self._tasks(source, listing, out, Path(scratch)))
            records, made = self._run(tasks, progress)
        quarantined = [item for record in records for item in record["quarantined"]]
        _write_text(out / "quarantine.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in quarantined))
        _write_text(out / "text.txt", "".join(text + "\n" for text in texts))
        words = sorted({unit for text in texts for unit in units(text, "zh")})
        _write_text(out / "units.json", json.dumps(words, ensure_ascii=False))
        _write_text(out / "fingerprint.json", json.dumps(FINGERPRINT, indent=1) + "\n")
        return {
            "shards_made": made,
            "shards_kept": len(tasks) - made,
            **_totals(records),
            "dropped": dropped,
            "left_out": left_out,
            "quarantined": dict(sorted(Counter(item["reason"] for item in quarantined).items())),
            "num_texts": len(texts),
            "test_texts_seen_in_train": count_leaks(utterances),
        }

    def _tasks(self, source: Source, listing: Listing, out: Path, scratch: Path) -> Iterator[ShardTask]:
        for split in ("train", "test"):
            chosen = [u for u in listing.utterances if u.split == split]
            for number, start in enumerate(range(0, len(chosen), source.samples_per_shard)):
                tar = shard_path(out / "shards", f"{source.corpus}-{split}", number)
                part = tuple(chosen[start : start + source.samples_per_shard])
                yield ShardTask(tar, out / "done" / f"{tar.stem}.json", part, scratch, self.max_duration_s)

    def _run(self, tasks: list[ShardTask], progress: Reporter | None) -> tuple[list[dict[str, Any]], int]:
        """Records of all shards in the order of the tasks, and how many shards were made now."""
        if progress is not None:
            progress.total = len(tasks)
        records = {task.tar: record for task in tasks if (record := finished(task))}
        todo = [task for task in tasks if task.tar not in records]
        made = 0
        for task, record in self._results(todo):
            records[task.tar] = record
            made += 1
            if progress is not None:
                progress.step(len(records))
        if progress is not None:
            progress.step(len(tasks))
        return [records[task.tar] for task in tasks], made

    def _results(self, tasks: list[ShardTask]) -> Iterator[tuple[ShardTask, dict[str, Any]]]:
        if self.workers == 1 or len(tasks) < 2:
            yield from ((task, make_shard(task)) for task in tasks)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(self.workers, len(tasks)), mp_context=context) as pool:
            futures = {pool.submit(make_shard, task): task for task in tasks}
            try:
                yield from ((futures[future], future.result()) for future in as_completed(futures))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def finished(task: ShardTask) -> dict[str, Any] | None:
    """The done-record of a shard that is there, whole and made from the same inputs; else None."""
    try:
        record = json.loads(task.done.read_text(encoding="utf-8"))
        if record["num_samples"] == 0:
            return record if record["inputs_sha256"] == task.inputs_sha256() else None
        index = read_index(task.tar)
        same = record["inputs_sha256"] == task.inputs_sha256() and record["sha256"] == index["sha256"]
        return record if same and task.tar.stat().st_size == index["num_bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


def make_shard(task: ShardTask) -> dict[str, Any]:
    """Make one shard and its done-record, which it returns. A bad utterance is noted in it, and the shard goes on."""
    quarantined: list[dict[str, Any]] = []
    durations_s: list[float] = []
    task.done.unlink(missing_ok=True)

    def clips() -> Iterator[tuple[Sample, np.ndarray | None]]:
        for utterance in task.utterances:
            try:
                sample, waveform = make_clip(utterance, task.scratch, task.max_duration_s)
            except Rejected as rejected:
                quarantined.append({"key": utterance.key, "reason": rejected.reason, "value": rejected.value})
                continue
            durations_s.append(sample.duration_s)
            yield sample, waveform

    write_shard(clips(), task.tar, FINGERPRINT)
    index = read_index(task.tar)
    record = {
        "shard": task.tar.stem,
        "inputs_sha256": task.inputs_sha256(),
        "sha256": index["sha256"],
        "num_samples": len(durations_s),
        "duration_s": round(sum(durations_s), 3),
        "quarantined": quarantined,
    }
    task.done.parent.mkdir(parents=True, exist_ok=True)
    _write_text(task.done, json.dumps(record, ensure_ascii=False) + "\n")
    return record


def _training_texts(source: Source, listing: Listing) -> Iterator[str]:
    if not source.for_tokenizer:
        return
    for utterance in listing.utterances:
        if utterance.split == "train":
            yield from (text for text in (utterance.text, utterance.translation, utterance.answer) if text)


def count_leaks(utterances: list[Utterance]) -> int:
    """Test strings of two or more numbers that also occur in training (they are held out by construction, so the count is 0)."""

    def strings(split: str) -> set[str]:
        return {
            normalize(part.text, u.language)
            for u in utterances
            if u.split == split and u.language in ("en", "zh")
            for part in u.parts
            if "," in part.text or "，" in part.text
        }

    return len(strings("test") & strings("train"))


def _totals(records: list[dict[str, Any]]) -> dict[str, Any]:
    samples: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for record in records:
        name = record["shard"].rpartition("-")[0]
        samples[name] += record["num_samples"]
        seconds[name] += record["duration_s"]
    hours = {name: round(value / 3600, 4) for name, value in seconds.items()}
    return {"num_samples": dict(samples), "hours": hours, "total_hours": round(sum(seconds.values()) / 3600, 3)}


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
