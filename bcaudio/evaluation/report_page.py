"""The page around a report's sections: one file, no script, no request to any server."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from bcaudio.evaluation.report_data import ResultRow

Section = tuple[str, str, str, str]  # anchor, heading, what the reader sees (HTML), body (HTML)


def page(
    title: str, kind: str, subtitle: str, cards: Sequence[str], sections: Sequence[Section], style: str = "", source: str = ""
) -> str:
    """The whole file; title, kind, subtitle and `source` (where its numbers come from) are escaped here, `style` is more CSS."""
    folder = resources.files("bcaudio.evaluation") / "templates"
    return Template((folder / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        kind=escape(kind),
        subtitle=escape(subtitle),
        style=(folder / "report.css").read_text(encoding="utf-8") + style,
        source=escape(source),
        cards="".join(cards),
        navigation="".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _, _ in sections),
        sections="\n".join(
            f'<section id="{anchor}"><h2>{heading}</h2><p class="lead">{lead}</p>{body}</section>'
            for anchor, heading, lead, body in sections
        ),
    )


def card(value: str, label: str, good: bool | None = None) -> str:
    """A figure to be seen at once; green or red where it is a judgement."""
    kind = {True: " good", False: " bad", None: ""}[good]
    return f'<div class="card{kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def share_card(holds: Sequence[bool], label: str) -> str:
    """`3 of 4`, green where it is all of them; a dash for none."""
    return card(f"{sum(holds)} of {len(holds)}" if holds else "–", label, all(holds) if holds else None)


def result_cards(rows: Sequence[ResultRow]) -> list[str]:
    """What the results say at a glance: bars that hold, and items that could not be scored."""
    failed = [row.num_failed for row in rows if row.num_failed is not None]
    lost = card(f"{max(failed):,}", "items failed, at most, in a result", not any(failed)) if failed else ""
    return [share_card([row.holds for row in rows if row.holds is not None], "bars hold"), lost]
