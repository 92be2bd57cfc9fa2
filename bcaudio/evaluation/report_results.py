"""The report's tables: results, stages with their curves, conditions."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bcaudio.evaluation.report_charts import line_chart
from bcaudio.evaluation.report_data import ResultRow, Series, Stage, as_table, format_value, is_number

CHARTS_SHOWN, MAX_CHARTS = 4, 16  # per stage: at once, and folded away; the names of those left out are told
_USAGE = "codebook/used_"  # as the callback CodebookHealth logs it

# First word of a key -> what its numbers are
GROUPS = {
    "asr": "speech recognition; timbres never heard in training",
    "s2tt": "speech to translated text",
    "aqa": "questions answered; text or speech in, text or speech out",
    "tts": "speech made from text, as the auditor hears it",
    "itts": "speech made from text in turn",
    "auditor": "the recogniser that judges spoken output, on ground-truth audio",
    "reconstruction": "audio tokenizer: sound made again from its codes",
    "codebook": "use of the codebooks",
    "flow": "flow decoder",
    "vocoder": "vocoder",
    "retention": "text ability of the language model, kept or lost",
    "choice": "right or wrong last sentence, by perplexity",
    "human": "real recordings of a human voice",
    "stage1": "pre-training stage 1: the language model is frozen",
    "stage2": "pre-training stage 2",
    "frozen": "proof that frozen tensors stayed frozen",
}


def absent(reason: str) -> str:
    """The box that stands where a part could not be had."""
    return f'<p class="absent">not available: {escape(reason)}</p>'


def pill(holds: bool | None, yes: str, no: str, none: str) -> str:
    """A small label: green, red, or grey; never by colour alone."""
    mark, word, kind = ("✓ ", yes, "good") if holds else ("✗ ", no, "bad") if holds is False else ("", none, "")
    return f'<span class="pill {kind}">{mark}{escape(word)}</span>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """A list of names and values; a value of None or "" is left out."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value) if isinstance(value, int) else format_value(value))}</dd>"
        for name, value in pairs
        if value not in (None, "")
    )
    return f'<dl class="facts">{items}</dl>' if items else ""


RESULT_HEAD, RESULT_RIGHT = ("key", "value", "95 % interval", "items", "counts", "bar", "holds"), frozenset({1, 2, 3, 5})


def result_cells(row: ResultRow) -> tuple[str, ...]:
    """A result in plain words, column by column of RESULT_HEAD."""
    holds = {True: "yes", False: "NO", None: "-"}[row.holds]
    return row.key, format_value(row.value), row.interval_text, row.items_text, row.counts, row.bar, holds


def results_section(rows: Sequence[ResultRow]) -> str:
    """The table of results, grouped by the first word of the key."""
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        groups.setdefault(row.key.split(".")[0], []).append(row)
    lines = []
    for group, members in groups.items():
        lines.append(f'<tr class="group"><td colspan="7">{escape(group)}<span>{escape(GROUPS.get(group, ""))}</span></td></tr>')
        for row in members:
            note = f'<br><small class="muted">{escape(row.note)}</small>' if row.note else ""
            verdict = pill(row.holds, "holds", "missed", "no bar") if is_number(row.value) or row.bar else ""
            lines.append(
                f'<tr><td class="any"><code>{escape(row.key)}</code>{note}</td>{_value_cell(row.value)}'
                f'<td class="num muted">{escape(row.interval_text)}</td><td class="num">{_items_cell(row)}</td>'
                f'<td class="muted any counts">{escape(row.counts)}</td>'
                f'<td class="{"num" if len(row.bar) < 24 else "any"}">{escape(row.bar)}</td><td>{verdict}</td></tr>'
            )
    head = (
        '<tr><th>key</th><th class="num">value</th><th class="num">95 % interval</th><th class="num">items</th><th>counts</th>'
        '<th class="num">bar</th><th>holds</th></tr>'
    )
    return f'<div class="wide"><table>{head}{"".join(lines)}</table></div>'


def _value_cell(value: Any) -> str:
    text = format_value(value)
    if len(text) <= 24:
        return f'<td class="num"><b>{escape(text)}</b></td>'
    return f'<td class="num"><code title="{escape(text)}">{escape(text[:12])}…</code></td>'


def _items_cell(row: ResultRow) -> str:
    failed = f'<br><span class="pill bad">✗ {row.num_failed:,} failed</span>' if row.num_failed else ""
    return f"{escape(row.scored_text)}{failed}"


def stages_section(stages: Sequence[Stage]) -> str:
    """What every stage trained and froze, and what it cost; details below the table."""
    head = (
        '<tr><th>stage</th><th>status</th><th class="num">time</th><th class="num">peak memory</th><th class="num">steps</th>'
        '<th class="num">attempts</th><th class="num">trained</th><th class="num">frozen</th>'
        "<th>frozen bytes</th><th>gate</th></tr>"
    )
    table = f'<div class="wide"><table>{head}{"".join(_stage_row(stage) for stage in stages)}</table></div>'
    problems = "".join(absent(stage.problem) for stage in stages if stage.problem)
    details = "".join(_stage_details(stage) for stage in stages)
    folded = f"<details><summary>Tensors, hashes and last metrics of every stage</summary>{details}</details>" if details else ""
    return table + problems + folded


def _stage_row(stage: Stage) -> str:
    record = stage.record
    trained, frozen = _table(record, "trainable").get("num_parameters"), _table(record, "frozen").get("num_parameters")
    share = ""
    if is_number(trained) and is_number(frozen) and trained + frozen > 0:
        share = f'<span class="share"><i style="width:{100 * trained / (trained + frozen):.1f}%"></i></span>'
    memory, status = record.get("peak_memory_mb"), str(record.get("status", "unknown"))
    return (
        f"<tr><td><b>{escape(stage.name)}</b></td>"
        f"<td>{pill({'done': True, 'failed': False}.get(status), status, status, status)}</td>"
        f'<td class="num">{escape(duration(record.get("wall_s")))}</td>'
        f'<td class="num">{f"{memory:,.0f} MB" if is_number(memory) else "–"}</td>'
        f'<td class="num">{escape(format_value(num_steps(stage)))}</td>'
        f'<td class="num">{escape(format_value(record.get("attempts")))}</td>'
        f'<td class="num">{_parameters(trained)}{share}</td><td class="num">{_parameters(frozen)}</td>'
        f"<td>{_frozen_proof(_table(record, 'frozen'))}</td><td>{_gate(record.get('gate'))}</td></tr>"
    )


def num_steps(stage: Stage) -> Any:
    """Steps as the record tells them, else the last step that was logged, else None."""
    for place in (stage.record, _table(stage.record, "metrics")):
        for name in ("num_steps", "steps", "step", "global_step"):
            if is_number(place.get(name)):
                return int(place[name])
    last = [points[-1][0] for points in stage.series.values()]
    return int(max(last)) if last else None


def frozen_unchanged(frozen: Mapping[str, Any]) -> bool | None:
    """Whether the SHA-256 of the frozen tensors is the same before and after; None where one of the two is missing."""
    before, after = frozen.get("sha256_before"), frozen.get("sha256_after")
    return before == after if before and after else None


def _frozen_proof(frozen: Mapping[str, Any]) -> str:
    same = frozen_unchanged(frozen)
    if same is None:
        return '<span class="muted">–</span>'
    digests = f"{str(frozen['sha256_before'])[:8]}" + ("" if same else f" → {str(frozen['sha256_after'])[:8]}")
    return f'{pill(same, "unchanged", "CHANGED", "")} <code class="muted">{escape(digests)}</code>'


def _gate(gate: Any) -> str:
    if gate in (None, "", {}, []):
        return '<span class="muted">–</span>'
    if isinstance(gate, Mapping) and all(isinstance(bar, Mapping) and "holds" in bar for bar in gate.values()):
        held = sum(bool(bar["holds"]) for bar in gate.values())
        told = f"{held} of {len(gate)} hold"
        few = {name: {k: v for k, v in bar.items() if k != "holds"} for name, bar in gate.items()} if len(gate) <= 3 else {}
        return f'{pill(held == len(gate), told, told, "")} <small class="muted">{escape(format_value(few))}</small>'
    if isinstance(gate, bool):
        return pill(gate, "passed", "not passed", "")
    if not isinstance(gate, Mapping):
        return escape(format_value(gate))
    holds = next((gate[name] for name in ("holds", "passed", "ok") if isinstance(gate.get(name), bool)), None)
    if "value" in gate and "bar" in gate:
        told = f"{gate.get('metric', '')} {format_value(gate['value'])} {gate.get('op', '')} {format_value(gate['bar'])}"
        return f'{pill(holds, "passed", "not passed", "set")} <small class="muted">{escape(told.strip())}</small>'
    rest = {name: value for name, value in gate.items() if name not in ("holds", "passed", "ok")}
    return f'{pill(holds, "passed", "not passed", "set")} <small class="muted">{escape(format_value(rest))}</small>'


def _stage_details(stage: Stage) -> str:
    trained, frozen = _table(stage.record, "trainable"), _table(stage.record, "frozen")
    body = facts(
        [
            ("trained patterns", trained.get("patterns")),
            ("trained tensors, some", trained.get("names_sample")),
            ("frozen SHA-256 before", frozen.get("sha256_before")),
            ("frozen SHA-256 after", frozen.get("sha256_after")),
            ("last metrics", _table(stage.record, "metrics")),
            ("reason", stage.record.get("reason")),
        ]
    )
    return f"<h3>{escape(stage.name)}</h3>{body}" if body else ""


def curves_section(stages: Sequence[Stage]) -> str:
    """Charts of every stage's `train/x` and `val/x`, one chart for each x."""
    blocks = [_stage_curves(stage) for stage in stages if stage.series]
    return "".join(blocks) or absent("no stage has a logs/metrics.csv with numbers in it")


def _stage_curves(stage: Stage) -> str:
    charts: dict[str, Series] = {}
    for name, points in stage.series.items():
        phase, slash, quantity = name.rpartition("/")
        if _USAGE not in name:
            charts.setdefault(quantity if slash else name, {})[phase or "logged"] = points
    # losses first, then what validation measures, then what was logged beside (learning rate, speed)
    first = sorted(
        charts, key=lambda name: ("loss" not in name, "val" not in charts[name], "train" not in charts[name], len(name), name)
    )
    drawn = [line_chart(name, dict(sorted(charts[name].items())), linear=name.startswith("lr")) for name in first[:MAX_CHARTS]]
    shown, folded, left = drawn[:CHARTS_SHOWN], drawn[CHARTS_SHOWN:], first[MAX_CHARTS:]
    body = f'<h3>{escape(stage.name)}</h3><div class="charts">{"".join(shown)}</div>'
    if folded:
        names = ", ".join(first[CHARTS_SHOWN:MAX_CHARTS])
        charts_folded = f'<div class="charts">{"".join(folded)}</div>'
        body += f"<details><summary>{len(folded)} more: {escape(names)}</summary>{charts_folded}</details>"
    return body + (f'<p class="muted">Not drawn: {escape(", ".join(left))}.</p>' if left else "")


def codebook_section(stages: Sequence[Stage], rows: Sequence[ResultRow]) -> str:
    """Codebook usage per level over training, and the results that speak of codebooks or reconstruction."""
    parts = []
    for stage in stages:
        usage = {name: points for name, points in stage.series.items() if _USAGE in name}
        levels = sorted(usage, key=lambda name: (len(name), name))
        if levels:
            lines = {f"level {name.rpartition(_USAGE)[2]}": usage[name] for name in levels}
            chart = line_chart("codebook/used, share of entries by step", lines)
            parts.append(f'<h3>{escape(stage.name)}</h3><div class="levels">{chart}</div>')
    related = [row for row in rows if row.key.startswith(("codebook", "reconstruction"))]
    if not parts:
        parts.append(absent(f"no metrics.csv has columns {_USAGE}0, {_USAGE}1, ..."))
    if related:
        parts.append(f"<h3>Measured at the end</h3>{results_section(related)}")
    return "".join(parts)


def conditions_section(stages: Sequence[Stage], conditions: Mapping[str, Any]) -> str:
    """Seed, commit, versions (where stages differ: which), and the machine; `conditions` are those of results.json."""
    pairs: list[tuple[str, Any]] = [(name, _agreed(stages, name)) for name in ("seed", "git_commit", "host", "cpu", "device")]
    pairs += [(f"evaluation: {name}", value) for name, value in conditions.items() if name not in ("seed", "versions")]
    scorers = _table(conditions, "versions")
    stages = [*stages, Stage("evaluation", Path(), {"versions": scorers})] if scorers else list(stages)
    versions = sorted({name for stage in stages for name in _table(stage.record, "versions")})
    table = "".join(
        f"<tr><td>{escape(name)}</td><td class='any'><code>{escape(_agreed(stages, name, 'versions'))}</code></td></tr>"
        for name in versions
    )
    pairs += [
        ("report written on", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_memory()}"),
        ("Python of the report", platform.python_version()),
    ]
    body = facts(pairs)
    return body + (f"<h3>Versions</h3><table>{table}</table>" if table else absent("no stage.json tells versions"))


def _agreed(stages: Sequence[Stage], name: str, table: str = "") -> str:
    """The one value all stages share, or every value with the stages that have it."""
    values: dict[str, list[str]] = {}
    for stage in stages:
        record = _table(stage.record, table) if table else stage.record
        if record.get(name) is not None:
            values.setdefault(str(record[name]), []).append(stage.name)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())


def duration(seconds: Any) -> str:
    """Seconds as a person reads them: 42 s, 3 min 5 s, 1 h 2 min."""
    if not is_number(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _parameters(count: Any) -> str:
    if not is_number(count):
        return "–"
    short = f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else f"{count:g}"
    return f'<span title="{count:,}">{short}</span>'


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return as_table(record.get(name))


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (AttributeError, OSError, ValueError):
        return "memory unknown"
