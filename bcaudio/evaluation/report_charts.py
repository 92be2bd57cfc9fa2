"""Line and bar charts as inline SVG. Colours are CSS classes, so that a chart follows the light or dark scheme of its page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from bcaudio.evaluation.report_data import format_value

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 380, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 24
MAX_POINTS = 200
BAR_WIDTH, BAR_LEFT, BAR_HEIGHT = 760, 260, 24


@dataclass(frozen=True)
class Bar:
    """One value of a bar chart with its interval and the figures it is to be seen beside."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    marks: Sequence[float] = ()


def line_chart(title: str, series: Mapping[str, Points], *, dots_below: int = 12, linear: bool = False) -> str:
    """A figure with one line per series and a legend that tells each one's last value.

    The y axis is logarithmic where all values are positive and span a factor of 30 or more (not if `linear`). More than
    `MAX_POINTS` points are averaged in equal groups.

    Args:
        title: what is drawn; escaped here.
        series: name -> (x, y) in the order of x; finite, each with at least one point.
        dots_below: series with fewer points than this show them as dots too.
        linear: never a logarithmic axis.
    """
    drawn = {name: thin(points) for name, points in series.items() if points}
    if not drawn:
        raise ValueError(f"chart {title!r}: no series has a point")
    xs = [points[i][0] for points in series.values() if points for i in (0, -1)]
    ys = [y for points in drawn.values() for _, y in points]
    x_low, x_high = _span(min(xs), max(xs))
    logarithmic = not linear and min(ys) > 0 and max(ys) / min(ys) >= 30
    warp = math.log10 if logarithmic else float
    y_ticks = log_ticks(min(ys), max(ys)) if logarithmic else linear_ticks(*_span(min(ys), max(ys)))
    y_low, y_high = _span(min(warp(y_ticks[0]), warp(min(ys))), max(warp(y_ticks[-1]), warp(max(ys))))

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        return across, HEIGHT - _BOTTOM - (warp(y) - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short_number(tick)}</text>')
    for tick in linear_ticks(x_low, x_high, about=5):
        if x_low <= tick <= x_high:
            x, _ = place(tick, ys[0])
            anchor = "end" if x > WIDTH - _RIGHT - 12 else "middle"
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short_number(tick)}</text>')
    legend = []
    for number, (name, points) in enumerate(drawn.items()):
        colour = f"c{number % 8}"
        places = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        if len(points) < dots_below:
            parts.extend(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)
        last = format_value(float(series[name][-1][1]))
        legend.append(f'<span><i class="key {colour}"></i>{escape(name)} <b>{last}</b></span>')
    parts.append("</svg>")
    scale = ' <small class="muted">log scale</small>' if logarithmic else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{scale}</figcaption>'
        f'{"".join(parts)}<div class="legend">{"".join(legend)}</div></figure>'
    )


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """A figure with one horizontal bar per value, from zero; its interval is a whisker, other people's figures are diamonds.

    Args:
        title: what is drawn; escaped here.
        bars: at least one; finite values.
    """
    values = [x for bar in bars for x in (bar.value, *(bar.interval or ()), *bar.marks)]
    ticks = linear_ticks(*_span(min(0.0, *values), max(0.0, *values)))
    low, high = ticks[0], ticks[-1]

    def across(x: float) -> float:
        return BAR_LEFT + (x - low) / (high - low) * (BAR_WIDTH - BAR_LEFT - 60)

    height = BAR_HEIGHT * len(bars) + 22
    parts = [f'<svg viewBox="0 0 {BAR_WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 20}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{short_number(tick)}</text>')
    for number, bar in enumerate(bars):
        middle = BAR_HEIGHT * (number + 0.5)
        name = bar.name if len(bar.name) <= 36 else f"{bar.name[:13]}…{bar.name[-22:]}"
        start, end = sorted((across(0.0), across(bar.value)))
        parts.append(f'<text class="label" x="{BAR_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{start:.1f}" y="{middle - 6:.1f}" width="{end - start:.1f}" height="12" rx="2"/>')
        if bar.interval:
            left, right = map(across, bar.interval)
            shape = f"M{left:.1f} {middle - 4}v8m0 -4H{right:.1f}m0 -4v8"
            parts.append(f'<path class="whisker" d="{shape}"/>')
        for mark in bar.marks:
            parts.append(f'<path class="mark" d="M{across(mark):.1f} {middle - 6}l5 6l-5 6l-5 -6z"/>')
        text = format_value(bar.value)
        furthest = max(across(x) for x in (bar.value, 0.0, *(bar.interval or ()), *bar.marks))
        parts.append(
            f'<text class="label" x="{furthest + 9:.1f}" y="{middle + 4:.1f}"><tspan class="value">{text}</tspan></text>'
        )
    return f'<figure class="chart bars"><figcaption>{escape(title)}</figcaption>{"".join(parts)}</svg></figure>'


def envelope(peaks: Sequence[float], height: int = 44) -> str:
    """A clip's outline: one bar for each peak in [0, 1]."""
    bars = "".join(
        f'<rect x="{3 * i}" y="{(1 - size) * height / 2:.1f}" width="2" height="{max(size * height, 1):.1f}"/>'
        for i, size in enumerate(min(abs(peak), 1.0) for peak in peaks)
    )
    width = max(3 * len(peaks), 3)
    return f'<svg class="wave" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'


def thin(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means over equal groups; the last point of all stays exact so that the end is not blurred."""
    if len(points) <= limit:
        return list(points)
    groups = limit - 1
    edges = [round(i * (len(points) - 1) / groups) for i in range(groups + 1)]
    means = [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in (points[a:b] for a, b in pairwise(edges))
    ]
    return [*means, points[-1]]


def linear_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high]."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that cover [low, high], at most six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 5))
    return [10.0**power for power in range(first, last + stride, stride)]


def short_number(value: float) -> str:
    """A tick label: 12000 -> 12k, 0.0001 -> 1e-04."""
    if value and abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if value and abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.0e}" if value and abs(value) < 1e-3 else f"{value:g}"


def _span(low: float, high: float) -> tuple[float, float]:
    """[low, high], widened where it has no width."""
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        return low, high
    margin = abs(low) * 0.1 or 0.5
    return low - margin, high + margin
