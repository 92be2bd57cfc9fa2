"""A comparison as tables and as a page with the items that differ: what was said, what was counted, and the sounds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jiwer

from bcaudio.audio.io import write_audio
from bcaudio.evaluation.benchmark import Item as Asked
from bcaudio.evaluation.benchmark import Output
from bcaudio.evaluation.compare import Comparison, Evaluation, Item, joined_warnings
from bcaudio.evaluation.report_data import ResultRow, file_inside, format_value
from bcaudio.evaluation.report_examples import player
from bcaudio.evaluation.report_media import AudioShelf
from bcaudio.evaluation.report_page import card, page
from bcaudio.evaluation.report_results import pill
from bcaudio.evaluation.report_table import Table, markdown_text
from bcaudio.inference.item import ItemError
from bcaudio.text.normalize import normalizer

ITEMS_SHOWN, ITEMS_PLAYED = 20, 5  # per key and pair
INPUT_RATE = 16000
_TOKEN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\s\u3400-\u9fff\uf900-\ufaff]+")
VERDICTS = {"no difference shown": "–"}  # short, since it is what most rows say
_MARKS = {"html": ("<del>{}</del>", "<ins>{}</ins>"), "markdown": ("~~{}~~", "**{}**")}


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Key by key: both values over the common items, their difference with its interval, and what was left out."""
    cells = [
        [
            one.key,
            f"{one.first.label}, {one.second.label}",
            *map(format_value, one.values),
            _signed(one.paired.difference),
            f"{_signed(one.paired.low)} – {_signed(one.paired.high)}",
            f"{one.paired.p_value:.3f}",
            VERDICTS.get(one.verdict, one.verdict),
            f"{one.paired.num_items:,}",
            f"{one.left_out[0]:,} + {one.left_out[1]:,}" if any(one.left_out) else "0",
            f"{len(one.items):,}",
        ]
        for one in comparisons
    ]
    head = ("key", "pair", "first", "second", "difference", "95 % interval", "p", "second is", "items", "left out", "differ")
    return Table(head, cells, frozenset({2, 3, 4, 5, 6, 8, 9, 10}))


def _signed(number: float) -> str:
    return f"{number:+.4g}" if number else "0"


class Said(NamedTuple):
    """What one side said to an item, and the form in which it was scored."""

    reference: str
    hypothesis: str
    reference_units: list[str]
    hypothesis_units: list[str]
    language: str
    output: Output

    @property
    def scored_otherwise(self) -> bool:
        """Whether the scored form is another than the text itself."""
        return self.hypothesis_units != _TOKEN.findall(self.hypothesis) or self.reference_units != _TOKEN.findall(self.reference)


def said(side: Evaluation, key: str, id: str) -> Said:
    """A side's output for an item of a key: of the mode, the levels and the field that the key names."""
    figure, words = side.figures[key], key.split(".")
    by_id = side.outputs(figure.benchmark)
    name, _, task = id.rpartition(" ")  # as one item that is asked in two tasks is called
    outputs = by_id.get(id) or [out for out in by_id.get(name, ()) if out.get("task") == task] or [{}]
    named = [
        out
        for out in outputs
        if out.get("mode", words[0]) in words
        and ("levels" not in out or f"levels_{out['levels']}" in words or "levels_" not in key)
    ]
    out = (named or outputs)[0]
    prefix = next((word.removesuffix(figure.metric.name) for word in words if word.endswith(figure.metric.name)), "")
    names = (f"{prefix}hypothesis", prefix.removesuffix("_"), "hypothesis")
    hypothesis = next((str(out[name]) for name in names if name and name in out), None)
    if hypothesis is None:
        rest = {name: value for name, value in out.items() if name not in ("id", "language", "mode", "reference", "audio")}
        hypothesis = format_value(rest)
    references = out.get("references")
    reference = str(out.get("reference") or (references[0] if isinstance(references, list) and references else ""))
    language = str(out.get("language", ""))
    units = _units_of(side.rows.get(key, ResultRow(key, None)), language)
    return Said(reference, hypothesis, units(reference), units(hypothesis), language, out)


def _units_of(row: ResultRow, language: str) -> Callable[[str], list[str]]:
    """What a figure counts: the units of its normaliser; words and hanzi as they stand where it has none (BLEU)."""
    name = row.stamps.get("normalizer")
    if not name or "signature" in row.stamps:
        return _TOKEN.findall
    form = normalizer(str(name))

    def units(text: str) -> list[str]:
        try:
            return form.units(text, language)
        except ValueError:
            return _TOKEN.findall(text)

    return units


def marked(reference: Sequence[str], hypothesis: Sequence[str], language: str, style: str = "html") -> str:
    """The hypothesis against the reference, unit by unit: what is missing is struck out, what is new stands out. Escaped here."""
    gone, new = _MARKS[style]
    text = escape if style == "html" else markdown_text
    space = "" if language == "zh" else " "

    def shown(form: str, units: Sequence[str]) -> list[str]:
        return [form.format(text(space.join(units)))] if units else []

    if not reference or not hypothesis:
        return "".join(shown(gone, reference) or shown("{}", hypothesis))
    found = jiwer.process_words([" ".join(reference)], [" ".join(hypothesis)]).alignments[0]
    parts: list[str] = []
    for piece in found:
        before = reference[piece.ref_start_idx : piece.ref_end_idx]
        after = hypothesis[piece.hyp_start_idx : piece.hyp_end_idx]
        same = piece.type == "equal"
        parts += shown("{}", after) if same else [*shown(gone, before), *shown(new, after)]
    return " ".join(parts)


def markdown_page(sides: Sequence[Evaluation], comparisons: Sequence[Comparison], notes: Sequence[str]) -> str:
    """compare.md: the table, every warning, and the first items that differ."""
    blocks = ["# Comparison", "\n".join(f"- {side.label}: `{side.folder}`" for side in sides)]
    warnings = [f"- **{markdown_text(warning)}**" for warning in joined_warnings(comparisons)] + [
        f"- {markdown_text(n)}" for n in notes
    ]
    blocks += ["\n".join(warnings)] if warnings else []
    blocks += [comparison_table(comparisons).markdown(), "## Items that differ"]
    for one in comparisons:
        if not one.items:
            continue
        lines = []
        for item in one.items[:ITEMS_SHOWN]:
            texts = [said(side, one.key, item.id) for side in (one.first, one.second)]
            lines.append(f"- {markdown_text(item.id)}: {markdown_text(texts[0].reference)}")
            for side, text in zip((one.first, one.second), texts, strict=True):
                marks = marked(text.reference_units, text.hypothesis_units, text.language, "markdown")
                form = f" → {marks}" if text.scored_otherwise else ""
                lines.append(f"  - {side.label}: {markdown_text(text.hypothesis) if form else marks}{form}")
        blocks += [f"### `{one.key}`, {one.first.label} and {one.second.label}", "\n".join(lines), _left(one)]
    return "\n\n".join(block.rstrip("\n") for block in blocks if block) + "\n"


def _left(one: Comparison) -> str:
    left = len(one.items) - ITEMS_SHOWN
    return f"{left:,} more items differ; all are in compare.json." if left > 0 else ""


def html_page(sides: Sequence[Evaluation], comparisons: Sequence[Comparison], notes: Sequence[str]) -> str:
    """compare.html, one file with its sounds."""
    warnings = joined_warnings(comparisons)
    told = "".join(f'<p class="warning">⚠ {escape(warning)}</p>' for warning in warnings)
    told += "".join(f'<p class="muted">{escape(note)}</p>' for note in notes)
    folders = Table(
        ("", "folder", "model", "normaliser", "seed"),
        [
            [side.label, str(side.folder), *(format_value(side.conditions.get(name)) for name in ("model", "normalizer", "seed"))]
            for side in sides
        ],
    )
    differing = [one for one in comparisons if one.items]
    with tempfile.TemporaryDirectory() as folder:
        sounds = Sounds(Path(folder), differing)
        items = "".join(_items(one, sounds, number == 0) for number, one in enumerate(differing))
    verdicts = [one.verdict for one in comparisons]
    cards = [
        card(str(verdicts.count("better")), "figures better in the second"),
        card(str(verdicts.count("worse")), "worse"),
        card(str(verdicts.count("no difference shown")), "where no difference is shown"),
        card(str(len(warnings)), "warnings", not warnings),
    ]
    lead = (
        "Second minus first over the items that both have scored; the interval and p are of a paired bootstrap over items. "
        "A dash stands where the interval holds zero: no difference is shown. Items left out are those that only one side has "
        "scored."
    )
    return page(
        " and ".join(side.label for side in sides),
        "comparison",
        " · ".join(f"{side.label} = {side.folder}" for side in sides),
        cards,
        [
            ("conditions", "What is compared", "Only the answers should differ.", folders.html() + told),
            ("results", "Results", lead, comparison_table(comparisons).html()),
            (
                "items",
                "Items that differ",
                "By how much each would change the first side's figure. <del>Struck out</del>: missing or replaced; "
                "<ins>green</ins>: not in the reference. Below a text stands the form in which it was scored.",
                items or '<p class="muted">No item was scored differently.</p>',
            ),
        ],
    )


class Sounds:
    """The sounds of the items that are played: the input, read through the benchmark where its data are here, and spoken answers.

    Args:
        folder: where inputs are written for the time of writing the page.
        comparisons: whose first ITEMS_PLAYED items are played.
    """

    def __init__(self, folder: Path, comparisons: Sequence[Comparison]) -> None:
        self.folder = folder
        self._asked: dict[str, dict[str, Asked]] = {}
        self._inputs: dict[tuple[str, str], Path | None] = {}
        self._found = {(id(one), item.id): list(self._of(one, item)) for one in comparisons for item in one.items[:ITEMS_PLAYED]}
        paths = []
        for _, find in (sound for sounds in self._found.values() for sound in sounds):
            try:
                paths.append(find())
            except ValueError:
                continue
        self.shelf = AudioShelf(paths)

    def players(self, one: Comparison, item: Item) -> str:
        """The players of an item; nothing where it has no sound."""
        return "".join(player(name, self.shelf, find) for name, find in self._found.get((id(one), item.id), ()))

    def _of(self, one: Comparison, item: Item) -> Iterator[tuple[str, Callable[[], Path]]]:
        if heard := self._input(one.first, one.first.figures[one.key].benchmark, item.id):
            yield "input", lambda: heard
        for side in (one.first, one.second):
            audio: Any = said(side, one.key, item.id).output.get("audio")
            if audio and not (side is one.second and side.root == one.first.root):
                yield f"spoken by {side.label}", partial(file_inside, side.root, audio)

    def _input(self, side: Evaluation, name: str, id: str) -> Path | None:
        if name not in self._asked:
            try:
                self._asked[name] = {item.id: item for item in side.benchmarks[name].items()}
            except (OSError, ValueError):
                self._asked[name] = {}
        if (name, id) not in self._inputs:
            path = self.folder / f"{len(self._inputs)}.flac"
            try:
                write_audio(path, self._asked[name][id].waveform(INPUT_RATE), INPUT_RATE)
                self._inputs[name, id] = path
            except (KeyError, ItemError):
                self._inputs[name, id] = None
        return self._inputs[name, id]


def _items(one: Comparison, sounds: Sounds, is_open: bool) -> str:
    cards = "".join(_item(one, item, sounds) for item in one.items[:ITEMS_SHOWN])
    title = f"<code>{escape(one.key)}</code>, {one.first.label} and {one.second.label}: {len(one.items):,} items"
    left = f'<p class="muted">{_left(one)}</p>' if _left(one) else ""
    state = " open" if is_open else ""
    return f'<details{state}><summary>{title}</summary><div class="clips">{cards}</div>{left}</details>'


def _item(one: Comparison, item: Item, sounds: Sounds) -> str:
    texts = [said(side, one.key, item.id) for side in (one.first, one.second)]
    unjudged = one.higher_is_better is None or not item.influence
    gain = None if unjudged else (item.influence > 0) == one.higher_is_better
    mark = pill(gain, *[f"{item.influence:+.3g}"] * 3)
    lines = (
        [f'<div class="side"><span class="muted">reference</span> {escape(texts[0].reference)}</div>']
        if texts[0].reference
        else []
    )
    for side, text, value in zip((one.first, one.second), texts, item.values, strict=True):
        marks = marked(text.reference_units, text.hypothesis_units, text.language)
        alone = f' <small class="muted">{escape(format_value(value))}</small>' if value == value else ""
        form = f'<div class="scored">{marks}</div>' if text.scored_otherwise else ""
        lines.append(f'<div class="side"><b>{side.label}</b> {escape(text.hypothesis) if form else marks}{alone}{form}</div>')
    title = f'<h3><span class="mono">{escape(item.id)}</span> {mark}</h3>'
    return f'<article class="clip">{title}{"".join(lines)}{sounds.players(one, item)}</article>'
