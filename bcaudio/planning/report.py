"""A plan as text: tables for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bcaudio.planning.hardware import find_gpu
from bcaudio.planning.parameters import sum_of
from bcaudio.planning.plan import Machine, Option, StagePlan
from bcaudio.planning.workload import CHARS_PER_S, CHARS_PER_TOKEN
from bcaudio.recipe.load import load_recipe

STAGES = {0: "0 (DDP)", 1: "1", 2: "2", 3: "3"}


@dataclass(frozen=True)
class Section:
    """A table with its title; the first column is text, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def plan(
    path: Path,
    overrides: Sequence[str],
    gpu: str,
    nodes: int,
    gpus_per_node: int,
    mfu: float,
    price: float | None,
    clip_s: float,
    markdown: Path | None = None,
    command: str = "",
) -> None:
    """Print the plan of a stage, or a table over the stages of a pipeline that train.

    Args:
        path: recipe of a stage or of a pipeline; overrides: dotted `key=value`.
        gpu, nodes, gpus_per_node, mfu, price: see `Machine`.
        clip_s: seconds of audio of a typical sample.
        markdown: file to write as well; command: the command line that stands in it.

    Raises:
        ValueError: an unknown GPU, a number out of range, a recipe that lacks what a plan needs.
    """
    machine = Machine(find_gpu(gpu), nodes, gpus_per_node, mfu, price)
    if clip_s <= 0:
        raise ValueError(f"--clip-s: is {clip_s}, but must be above 0")
    recipe = load_recipe(path, missing_ok=True)
    if "stages" in recipe:
        headline, sections = pipeline_report(path, overrides, machine, clip_s)
    else:
        stage = StagePlan(load_recipe(path, overrides, missing_ok=True), path, machine, clip_s)
        headline, sections = verdict(stage), stage_report(stage)
    _print(headline, sections)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(as_markdown(headline, sections, command), encoding="utf-8")


def verdict(stage: StagePlan) -> str:
    """The first line: whether the recipe fits as it stands, and what to do if it does not."""
    own, gpu = stage.as_written, stage.machine.gpu
    peak, where = gib(stage.memory(own).peak), f"of {gpu.memory_gib:g} GiB per GPU ({stage.machine.world_size} x {gpu.name})"
    if stage.fits(own):
        return f"{stage.name}: fits as written: {peak} {where}"
    if stage.advised is None:
        return f"{stage.name}: DOES NOT FIT, whatever is changed: {peak} {where} as written; shorten rows or add GPUs"
    after = gib(stage.memory(stage.advised).peak)
    return f"{stage.name}: DOES NOT FIT as written: {peak} {where}; {after} with {'; '.join(stage.changes(stage.advised))}"


def stage_report(stage: StagePlan) -> list[Section]:
    """All tables of a stage."""
    return [_parameters(stage), _memory(stage), _advice(stage), _compute(stage), _time(stage), _disk(stage), _next(stage)]


def pipeline_report(path: Path, overrides: Sequence[str], machine: Machine, clip_s: float) -> tuple[str, list[Section]]:
    """A table over the training stages of a pipeline."""
    from bcaudio.recipe.graph import load_pipeline

    rows, unfit, hours, skipped = [], 0, 0.0, []
    for entry in load_pipeline(path, overrides).stages.values():
        if entry.command != "train":
            continue
        try:
            stage = StagePlan(entry.recipe, entry.recipe_path, machine, clip_s)
        except ValueError as error:
            skipped.append(f"{entry.name}: {str(error).splitlines()[0]}")
            continue
        own, total = stage.as_written, sum_of(stage.parts)
        option = stage.advised or own
        taken = stage.hours(option.checkpointing)
        unfit, hours = unfit + (not stage.fits(own)), hours + taken
        rows.append(
            [
                entry.name,
                *(f"{number:,}" for number in (total.total, total.trained)),
                gib(stage.memory(own).peak),
                "yes" if stage.fits(own) else "no: " + ("; ".join(stage.changes(option)) if stage.advised else "nothing helps"),
                _hours(taken),
                *([] if machine.price is None else [f"{taken * machine.world_size * machine.price:,.0f}"]),
            ]
        )
    columns = ["stage", "parameters", "trained", "peak per GPU", "fits", "time", *([] if machine.price is None else ["cost"])]
    gpus = f"{machine.world_size} x {machine.gpu.name}"
    fit = "all stages fit" if not unfit else f"{unfit} of {len(rows)} stages DO NOT FIT as written"
    headline = f"{path.stem}: {fit} on {gpus}; {_hours(hours)} of training at MFU {machine.mfu:g}"
    return headline, [
        Section("Stages", columns, rows, skipped),
        Section("Next", ["command"], [[f"bcaudio plan {path.parent}/STAGE.yaml"], [f"bcaudio run {path}"]]),
    ]


def _parameters(stage: StagePlan) -> Section:
    rows = [[p.name, f"{p.total:,}", f"{p.trained:,}", f"{p.frozen:,}"] for p in [*stage.parts, sum_of(stage.parts)]]
    return Section("Parameters", ["part", "total", "trained", "frozen"], rows, stage.subject.notes)


def _memory(stage: StagePlan) -> Section:
    own, rows = stage.as_written, []
    for number in sorted({0, own.sharding.stage} if not stage.subject.can_checkpoint else {0, 1, 2, 3}):
        for checkpointing in (False, True) if stage.subject.can_checkpoint else (False,):
            sharding = replace(own.sharding, stage=number, offload_optimizer=False, offload_parameters=False)
            option = Option(sharding, checkpointing, own.rows)
            memory = stage.memory(option)
            state = memory.state
            figures = (
                *(state.weights, state.gradients, state.optimizer, memory.activations, memory.loss + memory.buffers),
                *(memory.communication, memory.peak),
            )
            fits = "yes" if stage.fits(option) else "no"
            rows.append(
                [STAGES[number], "on" if checkpointing else "off", *(f"{figure / 2**30:,.4g}" for figure in figures), fits]
            )
    kind = ("row" if stage.work.row is not None else "clip") + ("s" if own.rows > 1 else "")
    each = f"{stage.work.row_tokens:,} tokens" if stage.work.row is not None else f"{stage.work.clip_s:g} s"
    notes = [
        f"Per GPU, {own.rows} {kind} of {each} at a time, {'bf16' if own.sharding.bf16 else 'fp32'}. As written: "
        f"ZeRO stage {STAGES[own.sharding.stage]}, checkpointing {'on' if own.checkpointing else 'off'}.",
        "Peak: all together with 5 % for gaps and 2 GiB for the runtime (both assumed); or the optimizer's step, if more.",
        *stage.work.notes,
    ]
    columns = ["ZeRO", "checkpointing", "weights", "gradients", "optimizer", "activations", "loss, buffers", "communication"]
    return Section("Memory per GPU, GiB", [*columns, "peak", "fits"], rows, notes)


def _advice(stage: StagePlan) -> Section:
    """Single and joined changes, the cheapest first, up to the first that fits."""
    if stage.fits(stage.as_written):
        return Section(
            "What to change", ["change", "peak per GPU", "fits"], [["nothing", gib(stage.memory(stage.as_written).peak), "yes"]]
        )
    rows = []
    for option in stage.ways:
        fits = stage.fits(option)
        rows.append(["; ".join(stage.changes(option)) or "as written", gib(stage.memory(option).peak), "yes" if fits else "no"])
        if fits or len(rows) == 12:
            break
    return Section("What to change, the cheapest first", ["change", "peak per GPU", "fits"], rows)


def _compute(stage: StagePlan) -> Section:
    flops, per = stage.flops, stage.work.row_tokens
    names = list(dict.fromkeys([*flops.forward, *flops.backward]))
    rows = [
        [name, *(f"{x / per / 1e9:,.3f}" for x in (flops.forward.get(name, 0), flops.backward.get(name, 0)))] for name in names
    ]
    rows.append(["all", *(f"{sum(x.values()) / per / 1e9:,.3f}" for x in (flops.forward, flops.backward))])
    if stage.subject.can_checkpoint:
        rows.append(["again, with checkpointing", f"{flops.forward['language model'] / per / 1e9:,.3f}", ""])
    unit = "token" if stage.work.row is not None else "80 ms of sound"
    both = stage.flops_per_token(False)
    notes = [
        f"Forward and backward: {both / 1e9:,.3f} GFLOP ({both:.4g} FLOP) per {unit}, counted operation by operation in a "
        "step with one row; attention: pairs of positions that see each other."
    ]
    if stage.work.row is not None:
        notes.append(
            f"Documents of {stage.work.clip_s:g} s of audio and {CHARS_PER_S / CHARS_PER_TOKEN:g} text tokens/s (assumed), "
            f"tasks by their weights; {stage.work.frames_per_token:.0%} of the positions are audio. The text head works on "
            "paid text alone and makes its gradients in the forward pass, the audio head works on paid frames."
        )
    return Section(f"GFLOP per {unit}", ["part", "forward", "backward"], rows, notes)


def _time(stage: StagePlan) -> Section:
    option = stage.advised or stage.as_written
    machine, checkpointing = stage.machine, option.checkpointing
    hours = stage.hours(checkpointing)
    rate = stage.tokens_per_s(checkpointing)
    traffic = 2 * (stage.memory(option).state.optimizer + stage.memory(option).state.gradients)
    rows = [
        ["steps", f"{stage.steps:,}"],
        [
            "tokens per step, all GPUs" if stage.work.row is not None else "sound per step, in tokens of 80 ms",
            f"{stage.work.tokens:,.0f}",
        ],
        ["tokens per second, all GPUs", f"{rate:,.0f}"],
        ["hours of audio per hour", f"{rate * stage.work.frames_per_token / 12.5:,.0f}"],
        ["seconds per step", f"{stage.work.tokens / rate:,.2f}"],
        ["of these, optimizer at memory bandwidth", f"{traffic / machine.gpu.bandwidth_gbs / 1e9:,.3f}"],
        ["hours", f"{hours:,.1f}"],
        ["GPU-days", f"{hours * machine.world_size / 24:,.1f}"],
    ]
    if machine.price is not None:
        rows.append([f"cost at {machine.price:g} per GPU-hour", f"{hours * machine.world_size * machine.price:,.0f}"])
    way = "; ".join(stage.changes(option)) or "as written"
    peak = f"{machine.gpu.tflops:g} TFLOP/s: {machine.gpu.source}"
    note = f"{machine.world_size} x {machine.gpu.name} ({peak}), MFU {machine.mfu:g} (given), {way}."
    notes = [note, "Time in which GPUs wait for data or for each other is part of the MFU."]
    if not stage.as_written.sharding.bf16:
        notes.append("The recipe trains in fp32, but the peak is that of bf16: give a smaller --mfu.")
    if stage.work.row is None:
        notes.append(
            "0.4 is what large transformers reach; small convolutions and short clips reach less (not measured): lower --mfu."
        )
    return Section("Time", ["", "value"], rows, notes)


def _disk(stage: StagePlan) -> Section:
    rows = [[name, gigabytes(size)] for name, size in stage.disk().items()]
    note = f"Data: what the whole stage reads, {stage.audio_hours:,.0f} h of audio if none is read twice."
    return Section("Disk", ["", "GB"], rows, [note])


def _next(stage: StagePlan) -> Section:
    changes = [["first: " + change] for change in stage.changes(stage.advised)] if stage.advised else []
    return Section("Next", ["command"], [*changes, [stage.command()]])


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**27 else f"{size / 2**20:,.1f} MiB"


def gigabytes(size: float) -> str:
    """Bytes as GB."""
    return f"{size / 1e9:,.1f}" if size >= 1e8 else f"{size / 1e9:,.4f}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def _print(headline: str, sections: Sequence[Section]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    print(headline)
    for section in sections:
        print(f"\n{section.title}")
        if section.columns == ["command"]:
            for row in section.rows:
                print(f"  {row[0]}")
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i, column in enumerate(section.columns):
            table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0)
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
        for note in section.notes:
            print(note)


def as_markdown(headline: str, sections: Sequence[Section], command: str) -> str:
    """The plan as a Markdown page."""
    lines = [f"`{command}`", "", f"**{headline}**"] if command else [f"**{headline}**"]
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        if section.columns == ["command"]:
            lines += ["```", *(row[0] for row in section.rows), "```"]
            continue
        lines += ["| " + " | ".join(section.columns) + " |", "|" + "---|" + "---:|" * (len(section.columns) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in section.rows]
        lines += ["", *(f"- {note}" for note in section.notes)] if section.notes else []
    return "\n".join(lines) + "\n"
