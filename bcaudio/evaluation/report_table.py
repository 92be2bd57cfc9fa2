"""A table of texts, written as HTML, as Markdown, or for the terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_SPECIAL = re.compile(r"([\\`*\[\]|~])")


@dataclass(frozen=True)
class Table:
    """Rows under a head; the cells are plain text and are escaped when they are written.

    Args:
        head: names of the columns.
        rows: one text per column.
        right: columns of numbers, aligned to the right.
        code: columns of keys, written in fixed width.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    code: frozenset[int] = frozenset({0})

    def html(self) -> str:
        """A table that scrolls sideways where it is too wide; a line break in a cell stays one."""
        head = "".join(f"<th{self._class(i, '')}>{escape(name)}</th>" for i, name in enumerate(self.head))
        rows = "".join(f"<tr>{''.join(self._cell(i, text) for i, text in enumerate(row))}</tr>" for row in self.rows)
        return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'

    def _cell(self, i: int, text: str) -> str:
        shown = escape(text).replace("\n", "<br>")
        return f"<td{self._class(i, text)}>{f'<code>{shown}</code>' if i in self.code and text else shown}</td>"

    def _class(self, i: int, text: str) -> str:
        return ' class="num"' if i in self.right else ' class="any"' if len(text) > 24 else ' class="short"'

    def markdown(self) -> str:
        """GitHub's form of a table; no text can end its cell or become markup."""
        rule = "|".join("---:" if i in self.right else "---" for i in range(len(self.head)))
        rows = [f"| {' | '.join(self._marked(i, text) for i, text in enumerate(row))} |" for row in self.rows]
        return "\n".join([f"| {' | '.join(map(markdown_text, self.head))} |", f"|{rule}|", *rows]) + "\n"

    def _marked(self, i: int, text: str) -> str:
        return f"`{text}`" if i in self.code and re.fullmatch(r"[\w.:/ -]+", text) else markdown_text(text)

    def text(self) -> str:
        """Aligned columns with a rule under the head; wide characters count twice."""
        rows = [[cell.replace("\n", " ") for cell in row] for row in (self.head, *self.rows)]
        widths = [max(_width(row[i]) for row in rows) for i in range(len(self.head))]
        lines = []
        for row in rows:
            pads = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
            cells = [pad + cell if i in self.right else cell + pad for i, (cell, pad) in enumerate(zip(row, pads, strict=True))]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)


def markdown_text(text: str) -> str:
    """A text on one line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", escape(" ".join(text.split()), quote=False))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
