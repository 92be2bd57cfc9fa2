"""Pieces of the report's page: its frame, tables, histograms and the segments of a sample. Every text is escaped here."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from bcaudio.data.schema import Sample
from bcaudio.data.tasks import segments_of
from bcaudio.evaluation.report_charts import HEIGHT, WIDTH, linear_ticks, short_number
from bcaudio.evaluation.report_data import format_value
from bcaudio.evaluation.report_results import absent
from data_prep.report_kept import bins

TOP = 20  # rows of a table of hours; the rest is one row
MAX_TEXT = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 24

STYLE = """
.bar { fill: var(--accent); }
.tables { columns: 330px; column-gap: 32px; }
.tables > div { break-inside: avoid; padding-bottom: 18px; }
.tables h3 { margin-top: 6px; }
.clip { min-width: 0; }
.player > .wide { display: block; }
.flow tr.step td { font-weight: 600; border-bottom: 0; padding-top: 12px; }
.flow tr.why td { border-bottom: 0; padding: 1px 14px 1px 0; color: var(--muted); }
.flow tr.why td:first-child { padding-left: 18px; overflow-wrap: anywhere; }
.flow .share { margin-top: 6px; width: 130px; }
.flow .share i.lost { background: var(--c1); }
.lost { color: var(--bad); }
.drawn { position: relative; margin: 4px 0; }
.drawn .wave { margin: 0; height: 52px; position: relative; }
.band { position: absolute; top: 0; height: 52px; background: var(--code); border-left: 2px solid var(--rule); border-radius: 3px;
  font: 600 10px/1 system-ui, sans-serif; color: var(--muted); padding: 2px 3px; overflow: hidden; }
.words { position: absolute; inset: 0; }
.drawn:has(.words) { height: 72px; }
.words span { position: absolute; top: 0; height: 72px; padding: 55px 0 0 3px; border-left: 1px solid var(--c1);
  font-size: 11.5px; line-height: 16px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; color: var(--ink); }
.clip .facts { margin-bottom: 8px; }
.clips.broad { grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); }
.player .muted { font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 640px) { .clips.broad { grid-template-columns: 1fr; }
  .clip dl.facts { grid-template-columns: max-content 1fr; } }
"""


def hours(seconds: float) -> str:
    """Seconds as hours, with as many digits as they need."""
    value = seconds / 3600
    return f"{value:,.4f} h" if abs(value) < 1 else f"{value:,.2f} h" if abs(value) < 1000 else f"{value:,.0f} h"


def time_cell(seconds: float, kind: str = "") -> str:
    """A table cell of hours; the exact seconds are its title."""
    return f'<td class="num {kind}" title="{seconds:.3f} s">{hours(seconds) if seconds else "–"}</td>'


def short(text: str, limit: int = MAX_TEXT) -> str:
    """A text for the page: escaped, and cut where it is long."""
    return escape(text if len(text) <= limit else text[: limit - 1] + "…")


def hours_table(name: str, groups: Mapping[str, Sequence[float]]) -> str:
    """Clips and hours per value of a field, the largest first; what is beyond `TOP` is summed in a last row."""
    rows = sorted(groups.items(), key=lambda row: (-row[1][1], -row[1][0], row[0]))
    shown, rest = rows[:TOP], rows[TOP:]
    lines = [(short(value, 80) or "<i>none</i>", *counts) for value, counts in shown]
    if rest:
        lines.append((f"<i>{len(rest):,} more</i>", sum(e[0] for _, e in rest), sum(e[1] for _, e in rest)))
    body = "".join(
        f'<tr><td class="any">{value}</td><td class="num">{clips:,}</td>{time_cell(seconds)}</tr>'
        for value, clips, seconds in lines
    )
    head = f'<tr><th>{escape(name)}</th><th class="num">samples</th><th class="num">hours</th></tr>'
    title = f'<h3>{escape(name)} <small class="muted">{len(rows):,}</small></h3>'
    return f'<div>{title}<div class="wide"><table>{head}{body}</table></div></div>'


def histogram(title: str, values: array) -> str:
    """A figure: bars of counts over the values, their number, median and extremes below."""
    counts, edges, outside = bins(values)
    numbers = np.frombuffer(values, dtype=np.float64)
    top = linear_ticks(0.0, float(counts.max()))
    x_scale = (WIDTH - _LEFT - _RIGHT) / (edges[-1] - edges[0])
    y_scale = (HEIGHT - _TOP - _BOTTOM) / top[-1]
    base = HEIGHT - _BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="histogram of {escape(title)}">']
    for tick in top:
        y = base - tick * y_scale
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short_number(tick)}</text>')
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        x, width, height = _LEFT + (left - edges[0]) * x_scale, max((right - left) * x_scale - 1, 0.5), count * y_scale
        told = f"{left:.4g} to {right:.4g}: {count:,}"
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
            f"<title>{told}</title></rect>"
        )
    for tick in linear_ticks(float(edges[0]), float(edges[-1]), about=5):
        if edges[0] <= tick <= edges[-1]:
            x = _LEFT + (tick - edges[0]) * x_scale
            anchor = "end" if x > WIDTH - _RIGHT - 12 else "middle"
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short_number(tick)}</text>')
    facts = [(f"{len(numbers):,}", "samples"), *((format_value(float(value)), name) for name, value in (
        ("median", np.median(numbers)), ("least", numbers.min()), ("greatest", numbers.max())))]  # fmt: skip
    if outside:
        facts.append((f"{outside:,}", "outside the drawing"))
    legend = "".join(f"<span>{name} <b>{value}</b></span>" for value, name in facts)
    drawn = f'{"".join(parts)}</svg><div class="legend">{legend}</div>'
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{drawn}</figure>'


def segment_chips(task: str, sample: Sample) -> str:
    """The training sequence of a sample under a task: a chip per segment, filled where its tokens pay loss."""
    try:
        segments = segments_of(task, sample)
    except ValueError as error:
        return absent(str(error))
    chips = []
    for segment in segments:
        pay, told = ("paid", "pays loss") if segment.train else ("unpaid", "no loss")
        text = short(segment.text)
        if segment.modality == "audio":
            span = sample.spans[segment.span]
            text = f"♪ {segment.span + 1} {segment.direction} {span.start_s:.2f}–{span.end_s:.2f} s <small>{text}</small>"
        chips.append(f'<span class="chip k-{segment.modality} {pay}" title="{segment.modality}, {told}">{text or "␣"}</span>')
    return f'<div class="chips">{"".join(chips)}</div>'
