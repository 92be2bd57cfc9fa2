"""Bars: what a result has to reach, written in the recipe as `"<= 0.05"` or against another result, `">=
retention.text_accuracy.text_llm - 0.02"`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OPERATORS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_FORM = re.compile(rf"\s*(<=|>=|<|>)\s*(?:(-?{_NUMBER})|(?:({_NUMBER})\s*\*\s*)?([A-Za-z][\w.]*)(?:\s*([+-])\s*({_NUMBER}))?)\s*")


@dataclass(frozen=True)
class Bar:
    """`op` and either a number or `factor` times another result's value plus a number."""

    text: str
    op: str
    other: str | None
    number: float
    factor: float = 1.0

    def limit(self, results: Mapping[str, Mapping[str, Any]]) -> float | None:
        """The number to reach; None where the other result has no value."""
        if self.other is None:
            return self.number
        value = results.get(self.other, {}).get("value")
        return None if value is None else self.factor * value + self.number

    def holds(self, value: float | None, results: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether `value` reaches the bar; a value or a limit that is missing does not."""
        limit = self.limit(results)
        return value is not None and limit is not None and OPERATORS[self.op](value, limit)


def parse_bar(text: Any, where: str) -> Bar:
    """A bar from its text; ValueError naming `where` for another form."""
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'{where}: {text!r} is no bar; write "<= 0.05", ">= 0.9 * some.result" or ">= some.other.result - 0.02"')
    op, number, factor, other, sign, offset = found.groups()
    plus = float(number or 0.0) if other is None else float(f"{sign or '+'}{offset or 0.0}")
    return Bar(text.strip(), op, other, plus, float(factor or 1.0))
