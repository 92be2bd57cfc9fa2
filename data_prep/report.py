"""`python -m data_prep report OUT`: one HTML file that shows what a data recipe kept, what it dropped, and lets one hear both."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from bcaudio.data.index import ShardIndex
from bcaudio.evaluation.report_data import format_value
from bcaudio.evaluation.report_page import card, page
from bcaudio.evaluation.report_results import absent, facts
from bcaudio.recipe.record import read_json, write_atomic
from data_prep.report_flow import LISTED, OPEN, WRITE, Dropped, Flow, Row, Ticker, read_flow
from data_prep.report_kept import Kept, read_kept
from data_prep.report_page import STYLE, histogram, hours, hours_table, segment_chips, short, time_cell
from data_prep.report_sounds import MAX_CLIP_S, Found, find_dropped, found, players

PER_REASON, PER_TASK = 5, 3
MAX_REASONS = 40  # with samples; a table has all of its rows up to MAX_ROWS
MAX_ROWS = 30
DROPPED_BYTES, KEPT_BYTES = 1_800_000, 1_500_000  # of encoded sound; the page with it stays below 8 MB


def report(out: Path, seed: int = 0) -> Path:
    """Write `out/report/index.html`, in one move, and return its path.

    Args:
        out: the folder of a data recipe, finished or not.
        seed: of the random samples.

    Raises:
        FileNotFoundError: no data recipe has run there. Anything else that cannot be read is told in the page.
    """
    path = out / "report" / "index.html"
    content = render(out, seed)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, content)
    return path


def render(out: Path, seed: int = 0) -> str:
    """The page. Raises FileNotFoundError where there is no done-record."""
    ticker, record = Ticker(), read_json(out / "stage.json")
    flow = read_flow(out, seed, PER_REASON, ticker)
    kept = read_kept(out, flow.clips_out, seed, PER_TASK, ticker)
    problems = "".join(absent(problem) for problem in [*flow.problems, *kept.problems][:MAX_ROWS])
    sections = [
        (
            "flow",
            "Flow",
            "Hours into every step, and what was dropped there for which reason. A phase ends where a step must see all "
            "clips. What could not be opened counts with the seconds that its header told, else as a clip of 0 s.",
            problems + _left_out(record) + _flow_table(flow),
        ),
        ("kept", "Kept", "Hours in the shards." + escape(_partly(kept)), _kept_tables(kept)),
        ("measures", "Measures", "Of the samples kept. A unit of speech is a word, or a hanzi.", _histograms(kept)),
        ("lists", "Duplicates and leaks", "Clips dropped as copies, and as parts of an evaluation set.", _lists(flow)),
        (
            "dropped",
            "Dropped samples",
            f"Up to {PER_REASON} at random per reason, as they came into their phase; at most {MAX_CLIP_S:g} s are played.",
            _dropped(out, flow, ticker),
        ),
        (
            "inspector",
            "Inspector",
            f"Up to {PER_TASK} samples at random per task, as training reads them. A filled chip pays loss, a dashed one "
            "does not; ♪ n is the n-th span of the drawing.",
            _inspector(kept, ticker),
        ),
    ]
    source = "Its numbers are summed from the done-records and the shards of this folder; every dropped clip is in drops.jsonl."
    return page(out.resolve().name, "data report", _subtitle(record, flow), [_cards(flow)], sections, STYLE, source)


def _subtitle(record: Mapping[str, Any], flow: Flow) -> str:
    shards = ", ".join(f"phase {phase}: {done:,} of {flow.planned:,} shards" for phase, done in enumerate(flow.done))
    return " · ".join(filter(None, (str(record.get("status", "")), str(record.get("started", "")), shards)))


def _cards(flow: Flow) -> str:
    lost = flow.lost_s
    told = "cannot be told" if lost is None else f"{lost:,.3f} s"
    cards = [
        card(hours(flow.seconds_in), f"in, {flow.clips_in:,} clips and texts"),
        card(hours(flow.seconds_out), f"out, {flow.clips_out:,} samples"),
        card(hours(flow.dropped_s), f"dropped, {flow.num_drops:,} notes"),
        card(told, "unaccounted", lost == 0.0 and flow.missing_clips == 0),
    ]
    if flow.made_s:
        cards.append(card(hours(flow.made_s), "made by steps"))
    if flow.waiting_s:
        cards.append(card(hours(flow.waiting_s), "not yet through"))
    if flow.missing_clips:
        cards.append(card(f"{flow.missing_clips:,}", "planned, but neither opened nor dropped", False))
    return "".join(cards)


def _left_out(record: Mapping[str, Any]) -> str:
    """What never came into the flow: corpora that could not be had, lines that their sources refused."""
    told = "".join(absent(f"{corpus} was left out: {reason}") for corpus, reason in (record.get("left_out") or {}).items())
    listed = {corpus: format_value(reasons) for corpus, reasons in (record.get("dropped_when_listed") or {}).items()}
    return told + (f"<h3>Refused when listed</h3>{facts(listed.items())}" if listed else "")


def _flow_table(flow: Flow) -> str:
    head = (
        '<tr><th>step, reason</th><th class="num">clips in, notes</th><th class="num">hours in</th><th class="num">dropped</th>'
        '<th>of all hours in</th><th class="num">unaccounted</th></tr>'
    )
    whole = max((row.seconds for row in flow.rows), default=0.0)
    lines = "".join(_flow_row(row, whole) for row in flow.rows if row.dropped or row.name != WRITE or row.lost_s)
    end = f'<tr class="step"><td>shards</td><td class="num">{flow.clips_out:,}</td>{time_cell(flow.seconds_out)}' + (
        f"<td></td><td>{_share(flow.seconds_out, 0.0, whole)}</td><td></td></tr>"
    )
    return f'<div class="wide"><table class="flow">{head}{lines}{end}</table></div>'


def _flow_row(row: Row, whole: float) -> str:
    name = {OPEN: "open the recordings and texts" if row.phase == 0 else "read back", WRITE: "write"}.get(row.name, row.name)
    gone = sum(seconds for _, seconds in row.dropped.values())
    unaccounted = "<td class='num muted'>not told: a step is listed twice</td>"
    if row.lost_s is not None:
        made = f"<br><small class='muted'>made {hours(row.made_s)}</small>" if row.made_s else ""
        unaccounted = f'<td class="num {"lost" if row.lost_s else "muted"}">{row.lost_s:,.3f} s{made}</td>'
    lines = [
        f'<tr class="step"><td>{escape(name)} <small class="muted">phase {row.phase}</small></td>'
        f'<td class="num">{row.clips:,}</td>'
        f"{time_cell(row.seconds)}{time_cell(gone)}<td>{_share(row.seconds - gone, gone, whole)}</td>{unaccounted}</tr>"
    ]
    reasons = sorted(row.dropped.items(), key=lambda entry: (-entry[1][1], -entry[1][0], entry[0]))
    for reason, (count, seconds) in reasons[:MAX_ROWS]:
        lines.append(
            f'<tr class="why"><td>{short(reason, 120)}</td><td class="num">{count:,}</td><td></td>{time_cell(seconds)}'
            f"<td>{_share(0.0, seconds, whole)}</td><td></td></tr>"
        )
    if rest := reasons[MAX_ROWS:]:
        count, seconds = sum(e[0] for _, e in rest), sum(e[1] for _, e in rest)
        lines.append(
            f'<tr class="why"><td>{len(rest):,} more reasons</td><td class="num">{count:,}</td><td></td>{time_cell(seconds)}'
            "<td></td><td></td></tr>"
        )
    return "".join(lines)


def _share(stays: float, goes: float, whole: float) -> str:
    if whole <= 0 or stays + goes <= 0:
        return ""
    parts = f'<i style="width:{100 * stays / whole:.2f}%"></i>' if stays > 0 else ""
    parts += f'<i class="lost" style="width:{100 * goes / whole:.2f}%"></i>' if goes > 0 else ""
    return f'<span class="share">{parts}</span>'


def _partly(kept: Kept) -> str:
    if kept.num_shards_read == kept.num_shards:
        return ""
    return (
        f" Read were {kept.num_samples:,} samples of {kept.num_shards_read:,} of the {kept.num_shards:,} shards, evenly spread."
    )


def _kept_tables(kept: Kept) -> str:
    if not kept.num_samples:
        return absent("the shards hold no sample")
    return f'<div class="tables">{"".join(hours_table(name, groups) for name, groups in kept.groups.items())}</div>'


def _histograms(kept: Kept) -> str:
    drawn = "".join(histogram(name, values) for name, values in kept.values.items())
    left = (
        f'<p class="muted">Not drawn: {escape(", ".join(sorted(kept.measures_left_out)))}.</p>' if kept.measures_left_out else ""
    )
    return (f'<div class="charts">{drawn}</div>' if drawn else absent("no sample has sound or a measure")) + left


def _lists(flow: Flow) -> str:
    if not flow.lists:
        return absent("no clip was dropped as a duplicate or a leak")
    blocks = []
    for name, (total, first) in sorted(flow.lists.items()):
        rows = "".join(
            f"<tr><td class='any'><code>{escape(drop.key)}</code></td><td>{short(drop.reason, 80)}</td>"
            f"<td class='any'>{short(format_value(drop.value))}</td>{time_cell(drop.duration_s)}</tr>"
            for drop in first
        )
        more = f'<p class="muted">The first {LISTED} are shown.</p>' if total > LISTED else ""
        head = '<tr><th>clip</th><th>reason</th><th>what was found</th><th class="num">hours</th></tr>'
        blocks.append(f'<h3>{total:,} {escape(name)}</h3>{more}<div class="wide"><table>{head}{rows}</table></div>')
    return "".join(blocks)


def _dropped(out: Path, flow: Flow, ticker: Ticker) -> str:
    if not flow.picks:
        return absent("nothing was dropped")
    chosen = sorted(flow.picks.items(), key=lambda entry: -entry[1].seen)[:MAX_REASONS]
    # the first sample of every reason is served before the second of any, should the room for sound run out
    ranked = sorted(((rank, place) for place, pick in chosen for rank in range(len(pick.kept))), key=lambda entry: entry[0])
    drops = [flow.picks[place].kept[rank] for rank, place in ranked]
    clips = find_dropped(out, drops, ticker)
    cards: dict[tuple[str, str], list[str]] = {place: [] for place, _ in chosen}
    for (_, place), drop, clip, player in zip(ranked, drops, clips, players(clips, DROPPED_BYTES, ticker), strict=True):
        cards[place].append(_drop_card(drop, clip, player))
    blocks = [
        f'<h3>{short(reason, 120)} <small class="muted">{escape(step)}, {flow.picks[step, reason].seen:,} in all</small></h3>'
        f'<div class="clips">{"".join(found)}</div>'
        for (step, reason), found in cards.items()
    ]
    if left := len(flow.picks) - len(chosen):
        blocks.append(f'<p class="muted">{left:,} rarer reasons are left out here.</p>')
    return "".join(blocks)


def _drop_card(drop: Dropped, clip: Found | str, player: str) -> str:
    value = None if drop.value is None else format_value(drop.value)[:400]
    told = [("value", value), ("dropped", f"{drop.duration_s:.2f} s"), ("shard", f"{drop.shard}, phase {drop.phase}")]
    if isinstance(clip, Found):
        told.append(("text", _cut_text(clip.sample.text)))
    return f'<article class="clip"><h3 class="mono">{escape(drop.key)}</h3>{facts(told)}{player}</article>'


def _cut_text(text: str) -> str:
    return text if len(text) <= 400 else text[:399] + "…"


def _inspector(kept: Kept, ticker: Ticker) -> str:
    if not kept.picks:
        return absent("no sample is shaped for a task")
    entries = sorted(
        ((rank, task, place) for task, pick in kept.picks.items() for rank, place in enumerate(pick.kept)),
        key=lambda entry: (entry[0], entry[1]),
    )
    samples, clips = [], []
    for done, (_, _, (tar, i)) in enumerate(entries):
        ticker.tell("sample", done, len(entries))
        index = ShardIndex([tar])
        samples.append(index.sample(i))
        try:
            clips.append(found(samples[-1], index.waveform(i)) if samples[-1].duration_s else None)
        except ValueError as error:
            clips.append(str(error))
    cards: dict[str, list[str]] = {task: [] for task in sorted(kept.picks)}
    for (_, task, _), sample, player in zip(entries, samples, players(clips, KEPT_BYTES, ticker), strict=True):
        told = [(name, getattr(sample, name)) for name in ("language", "speaker")]
        told += [(name, _cut_text(format_value(value))) for name, value in sample.measures.items()]
        cards[task].append(
            f'<article class="clip"><h3 class="mono">{escape(sample.key)}</h3>'
            f"{segment_chips(task, sample)}{facts(told)}{player}</article>"
        )
    return "".join(f'<h3>{escape(task)}</h3><div class="clips broad">{"".join(made)}</div>' for task, made in cards.items())
