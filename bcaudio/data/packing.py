"""Packing: documents of known lengths into rows of equal budgets, and rows to ranks. Documents are never cut."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

import numpy as np

TIGHTENED = 16  # budgets between the mean and the whole that best fit is tried with


def pack_rows(lengths: np.ndarray, num_rows: int, row_tokens: int) -> np.ndarray:
    """The row of every document, [D].

    The longest come first, each into the emptiest row, which leaves all rows about equally full. Where a document does not fit
    that way, all are packed again by best fit, each into the fullest row that has room, with the smallest budget that suffices.

    Args:
        lengths: tokens of the documents, [D], none above `row_tokens`.
        num_rows: rows to fill; best fit opens further ones (num_rows, num_rows + 1, ...) where these do not suffice.
        row_tokens: the budget of a row.
    """
    evenly = pack_evenly(lengths, num_rows, row_tokens)
    if evenly is not None:
        return evenly
    order = np.argsort(-lengths, kind="stable")
    ordered, mean = lengths[order].tolist(), lengths.sum() / num_rows
    rows: list[int] = []
    for share in range(1, TIGHTENED + 1):
        budget = row_tokens - int(max(row_tokens - mean, 0) * (1 - share / TIGHTENED))
        if budget >= ordered[0]:
            rows = _best_fit(ordered, num_rows, budget)
            if max(rows) < num_rows:
                break
    placed = np.empty(len(lengths), dtype=int)
    placed[order] = rows
    return placed


def pack_evenly(lengths: np.ndarray, num_rows: int, row_tokens: int) -> np.ndarray | None:
    """As `pack_rows`, into the emptiest rows; None where a document does not fit."""
    assert len(lengths) == 0 or lengths.max() <= row_tokens
    order = np.argsort(-lengths, kind="stable")
    heap = [(0, row) for row in range(num_rows)]
    rows = []
    for length in lengths[order].tolist():
        tokens, row = heap[0]
        if tokens + length > row_tokens:
            return None
        heapq.heapreplace(heap, (tokens + length, row))
        rows.append(row)
    placed = np.empty(len(lengths), dtype=int)
    placed[order] = rows
    return placed


def _best_fit(lengths: list[int], num_rows: int, row_tokens: int) -> list[int]:
    room = [(row_tokens, row) for row in range(num_rows)]  # sorted
    rows = []
    for length in lengths:
        at = bisect_left(room, (length, -1))
        if at == len(room):
            free, row = row_tokens, num_rows
            num_rows += 1
        else:
            free, row = room.pop(at)
        insort(room, (free - length, row))
        rows.append(row)
    return rows


def deal(tokens: np.ndarray, num_groups: int) -> list[list[int]]:
    """Rows in groups of equal number and nearly equal tokens; every group in ascending order.

    Args:
        tokens: of each row, [R]; R is a multiple of `num_groups`.
    """
    size, rest = divmod(len(tokens), num_groups)
    assert rest == 0
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    heap = [(0, group) for group in range(num_groups)]
    for row in np.argsort(-tokens, kind="stable").tolist():
        total, group = heapq.heappop(heap)
        groups[group].append(row)
        if len(groups[group]) < size:
            heapq.heappush(heap, (total + int(tokens[row]), group))
    return [sorted(group) for group in groups]
