"""Texts found inside other texts, by their units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence


class Quotes:
    """Texts under keys, to be found where they occur in another text in one run.

    Finding takes time in proportion to the other text, however many texts there are.

    Args:
        min_units: a text of fewer units (words, hanzi) is no quote where it occurs: everybody says "yes".
        whole: such a short text is found where it is the whole of the other one.
    """

    def __init__(self, min_units: int, whole: bool = False) -> None:
        self.min_units, self.whole = min_units, whole
        self._by_head: dict[tuple[str, ...], list[tuple[str, list[str]]]] = defaultdict(list)

    def add(self, key: str, units: Sequence[str]) -> None:
        """Adds one; a text without units is never found."""
        if len(units) >= self.min_units or (self.whole and units):
            self._by_head[tuple(units[: self.min_units])].append((key, list(units)))

    def found(self, units: Sequence[str]) -> Iterator[str]:
        """The keys of the texts in it, in the order in which they begin; a key comes as often as its text."""
        units = list(units)
        if 0 < len(units) < self.min_units:
            yield from (key for key, _ in self._by_head.get(tuple(units), ()))
        for i in range(len(units) - self.min_units + 1):
            for key, other in self._by_head.get(tuple(units[i : i + self.min_units]), ()):
                if units[i : i + len(other)] == other:
                    yield key
