"""`python -m data_prep status`: how far a data folder is, and where its hours went.

`python -m data_prep.status OUT MINUTES` measures what the steps of its recipe cost on the first minutes of its own sound.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bcaudio.data.index_file import index_path
from bcaudio.data.shards import write_shard
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import read_json
from data_prep.pipeline import FINGERPRINT, Phase, Pipeline
from data_prep.steps.clip import make_clip
from data_prep.task import clip_of, from_line, sample_of, step_names
from data_prep.utterance import Clip, Drops, Rejected


def status(out: Path, console: Console | None = None) -> int:
    """Print the state of a data folder: shards done of those planned, hours kept, hours dropped by step and reason. Returns 0.

    Raises:
        FileNotFoundError: no data folder.
    """
    record, console = read_json(out / "stage.json"), console or Console(soft_wrap=True)
    if not record:
        raise FileNotFoundError(f"{out}: no stage.json, so no data recipe has run here; python -m data_prep run RECIPE out={out}")
    planned = len(list((out / "plan").glob("*.jsonl")))
    folders = [*sorted(out.glob("phase-*")), out]
    done = [len(list((folder / "done").glob("*.json"))) for folder in folders if (folder / "done").is_dir()]
    console.print(f"{out}: {record['status']}, attempt {record['attempts']}, {record['wall_s']:.0f} s")
    if reason := record.get("reason"):
        console.print(f"  {reason}", style="red", markup=False)
    for number, count in enumerate(done):
        console.print(f"  phase {number}: {count} of {planned} shards")
    for corpus, reason in record.get("left_out", {}).items():
        console.print(f"  left out: {corpus}: {reason}", style="yellow", markup=False)
    if "hours" in record:
        table = Table("corpus", "samples", "hours", title="kept")
        for name, hours in sorted(record["hours"].items()):
            table.add_row(name, str(record["num_samples"][name]), f"{hours:.3f}")
        console.print(table)
        _print_dropped(record, console)
    return 0


def _print_dropped(record: dict, console: Console) -> None:
    table = Table("step", "reason", "clips", "hours", title="dropped")
    for step, reasons in record["dropped"].items():
        for reason, entry in reasons.items():
            table.add_row(step, reason, str(entry["clips"]), f"{entry['hours']:.3f}")
    for corpus, reasons in record["dropped_when_listed"].items():
        for reason, count in reasons.items():
            table.add_row(f"listing {corpus}", reason, str(count), "-")
    if table.row_count:
        console.print(table)


def step_costs(out: Path, minutes: float, console: Console | None = None) -> dict[str, float]:
    """Open the first clips of a data folder again, pass them through the steps of its recipe one step after the other, print and
    return the CPU hours of each per 1,000 hours of sound that were opened; then what the shard takes on disk.

    All of it in this process and on one thread; models are loaded before the clock starts. The sound is held in memory.

    Raises:
        FileNotFoundError: no plan; run the recipe first.
        ValueError: the job is no pipeline, or none of its clips has sound.
    """
    import torch

    torch.set_num_threads(1)
    plans = sorted((out / "plan").glob("*.jsonl"))
    if not plans:
        raise FileNotFoundError(f"{out}: no plan/, so no data recipe has run here; python -m data_prep run RECIPE out={out}")
    job = build(load_recipe(out / "recipe.yaml")["job"], "job")
    if not isinstance(job, Pipeline):
        raise ValueError(f"{out}/recipe.yaml: its job is a {type(job).__name__}; step costs are measured of a Pipeline")
    spent: dict[str, float] = {}
    clips: list[Clip] = []
    with _clock(spent, "open"):
        seconds = 0.0
        for clip in _opened(plans, out, job.max_duration_s):
            clips.append(clip)
            seconds += clip.duration_s
            if seconds >= 60 * minutes:
                break
    if not seconds:
        raise ValueError(f"{out}: none of its clips that can still be opened has sound; costs are told per hour of sound")
    for phase in job.phases:
        clips = _passed(phase, clips, spent)
    kept_s = sum(clip.duration_s for clip in clips)
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as scratch:
        tar = Path(scratch) / "costs-train-000000.tar"
        with _clock(spent, "write"):
            write_shard(((sample_of(clip), clip.waveform) for clip in clips), tar, dict(FINGERPRINT))
        sizes = {"tar": tar.stat().st_size, "index": index_path(tar).stat().st_size}
    table = Table("step", "CPU hours per 1,000 h", title=f"costs, on {seconds / 60:.1f} minutes of sound, {kept_s / 60:.1f} kept")
    costs = {name: cpu_s / seconds * 1000 for name, cpu_s in spent.items()}
    for name, value in costs.items():
        table.add_row(name, f"{value:.2f}")
    console = console or Console(soft_wrap=True)
    console.print(table)
    if kept_s:
        told = ", ".join(f"{name} {size / kept_s * 3600 / 1e6:.3f} MB" for name, size in sizes.items())
        console.print(f"on disk, per hour kept ({len(clips)} samples): {told}")
    return costs


def _passed(phase: Phase, clips: list[Clip], spent: dict[str, float]) -> list[Clip]:
    """The clips after the steps of a phase and the survey at its end."""
    names = step_names(phase.steps)
    for step in phase.steps:
        list(step(iter(clips[:1]), Drops()))  # loads its model
        with _clock(spent, names[id(step)]):
            clips = list(step(iter(clips), Drops()))
    if (survey := phase.after) is not None:
        list(map(survey.look, clips[:1]))
        with _clock(spent, f"{type(survey).__name__}, looking"):
            looks = [(clip.utterance.key, survey.look(clip)) for clip in clips]
        with _clock(spent, f"{type(survey).__name__}, judging"):
            verdicts = survey.judge(iter(looks))
        judged = [survey.apply(clip, verdicts.get(clip.utterance.key), Drops()) for clip in clips]
        clips = [clip for clip in judged if clip is not None]
    return clips


@contextmanager
def _clock(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds of this process to `spent`; a step that is listed twice is counted once."""
    start = time.process_time()
    yield
    spent[name] = spent.get(name, 0.0) + time.process_time() - start


def _opened(plans: Sequence[Path], out: Path, max_duration_s: float) -> Iterator[Clip]:
    for path in plans:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                with suppress(Rejected):
                    yield clip_of(*make_clip(from_line(line), out, max_duration_s))
