"""A bounded memory of what was made last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Made = TypeVar("Made")


class Recent:
    """Keeps what was used last, up to a capacity; a copy sent to another process starts empty.

    Args:
        capacity: entries, or whatever `size_of` counts. One value beyond it is handed out and not kept.
        size_of: of a value; 1 each if not given. It must be a function of a module, to be sent to another process.
    """

    def __init__(self, capacity: float, size_of: Callable[[Any], float] | None = None) -> None:
        self.capacity, self.size_of, self.size = capacity, size_of, 0.0
        self._kept: OrderedDict[Hashable, tuple[Any, float]] = OrderedDict()

    def __call__(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value of `key`, made now if it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        size = 1.0 if self.size_of is None else self.size_of(value)
        self._kept[key] = value, size
        self.size += size
        while self.size > self.capacity:
            self.size -= self._kept.popitem(last=False)[1][1]
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "size": 0.0, "_kept": OrderedDict()}
