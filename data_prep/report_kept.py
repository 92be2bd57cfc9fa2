"""What the shards hold, for the report: hours by language, corpus and so on, values for histograms, samples per task."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bcaudio.data.index import ShardIndex
from bcaudio.data.schema import Sample
from bcaudio.data.tasks import PROMPTS, TASKS
from bcaudio.evaluation.report_data import is_number
from bcaudio.text.normalize import units
from data_prep.report_flow import Reservoir, Ticker

GROUPS = ("language", "corpus", "source", "licence", "speaker")
MAX_SAMPLES = 300_000  # read one by one; of more, every n-th shard
MAX_MEASURES = 24
DURATION, RATE = "duration, s", "speaking rate, units per s"


@dataclass
class Kept:
    """Of the samples read: `groups` {field: {value: [clips, seconds]}}, `values` {measure: numbers}, `picks` {task: (tar, i)}."""

    groups: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {name: {} for name in GROUPS})
    values: dict[str, array] = field(default_factory=dict)
    picks: dict[str, Reservoir[tuple[Path, int]]] = field(default_factory=dict)
    num_samples: int = 0
    num_shards: int = 0
    num_shards_read: int = 0
    measures_left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def read_kept(out: Path, num_samples: int, seed: int, examples: int, ticker: Ticker) -> Kept:
    """Read the samples of `out/shards`; a shard that cannot be read is a problem told, not the end.

    Args:
        out: the folder of a data recipe.
        num_samples: how many the done-records promise; beyond `MAX_SAMPLES` only every n-th shard is read.
        seed: of the random samples per task.
        examples: how many per task.
        ticker: told of every shard.
    """
    tars = sorted((out / "shards").glob("*.tar"))
    chosen = tars[:: max(1, -(-num_samples // MAX_SAMPLES))]
    kept = Kept(num_shards=len(tars))
    for number, tar in enumerate(chosen):
        ticker.tell("shard", number, len(chosen))
        try:
            index = ShardIndex([tar])
            for i in range(len(index)):
                _add(kept, index.sample(i), tar, i, seed, examples)
        except (ValueError, OSError) as error:
            kept.problems.append(str(error))
            continue
        kept.num_shards_read += 1
    return kept


def _add(kept: Kept, sample: Sample, tar: Path, i: int, seed: int, examples: int) -> None:
    kept.num_samples += 1
    for name in GROUPS:
        total = kept.groups[name].setdefault(getattr(sample, name), [0, 0.0])
        total[0] += 1
        total[1] += sample.duration_s
    numbers = {name: value for name, value in sample.measures.items() if is_number(value)}
    if sample.duration_s > 0:
        numbers = {DURATION: sample.duration_s, RATE: len(units(sample.text, "zh")) / sample.duration_s, **numbers}
    for name, value in numbers.items():
        if name in kept.values or len(kept.values) < MAX_MEASURES:
            kept.values.setdefault(name, array("d")).append(value)
        else:
            kept.measures_left_out[name] += 1
    for task in tasks_for(sample):
        kept.picks.setdefault(task, Reservoir(examples, f"{seed} {task}")).add((tar, i))


def tasks_for(sample: Sample) -> tuple[str, ...]:
    """Tasks a sample is shaped for: the one the interleave builder chose, else by its spans, roles and fields.

    None for the items of a choice (`right` and `wrong` spans), which no task trains on.
    """
    kind, roles = sample.measures.get("interleave"), {span.role for span in sample.spans}
    if kind in TASKS:
        return (str(kind),)
    if roles & {"right", "wrong"}:
        return ()
    several, translates = len(sample.spans) > 1, bool(sample.translation) and f"s2tt.{sample.target_language}" in PROMPTS
    if sample.duration_s == 0:
        if several:
            return ("text_story",)
        return ("text_repeat", *("text_translate",) * translates, *("text_answer",) * bool(sample.answer))
    if several:
        return ("dialogue",) if "user" in roles else ("itts", "intlv")
    return ("asr", "tts", *("s2tt",) * translates, *("aqa",) * bool(sample.answer))


def bins(values: array, most: int = 40) -> tuple[np.ndarray, np.ndarray, int]:
    """Counts and edges of a histogram, and how many values lie outside it.

    It spans all values, unless that is five times the middle 99 per cent: then those, so that outliers do not hide the rest.
    """
    numbers = np.frombuffer(values, dtype=np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    inner = np.percentile(numbers, [0.5, 99.5])
    if inner[1] > inner[0] and high - low > 5 * (inner[1] - inner[0]):
        low, high = float(inner[0]), float(inner[1])
    if high - low <= 1e-12 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(numbers, bins=min(most, max(5, int(np.sqrt(len(numbers))))), range=(low, high))
    return counts, edges, len(numbers) - int(counts.sum())
