"""Documents into rows, rows to ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcaudio.data.packing import deal, pack_evenly, pack_rows


def test_the_emptiest_row_takes_the_next_document() -> None:
    # 6 | 5 | then 4 beside 5, 3 beside 6
    assert pack_rows(np.array([4, 6, 3, 5]), 2, 10).tolist() == [1, 0, 0, 1]


def test_best_fit_is_taken_where_the_emptiest_row_would_leave_a_document_over() -> None:
    # emptiest first: 4 | 4 | 3 beside the first 4, 3 beside the second, and the 6 comes first: 6 | 4+4 | 3 does not fit with 4+4
    lengths = np.array([6, 4, 4, 3, 3])
    rows = pack_rows(lengths, 2, 10)
    assert sorted(lengths[rows == row].sum() for row in range(2)) == [10, 10]


def test_rows_may_be_exactly_full() -> None:
    assert pack_evenly(np.array([5, 7, 3, 5]), 2, 10).tolist() == [1, 0, 0, 1]
    assert pack_evenly(np.array([5, 7, 4, 5]), 2, 10) is None


def test_what_does_not_fit_opens_a_further_row() -> None:
    assert pack_rows(np.array([6, 6, 6]), 2, 10).tolist() == [0, 1, 2]


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(1, 8))
def test_no_row_is_over_its_budget_and_no_document_is_left_out(lengths: list[int], num_rows: int) -> None:
    rows = pack_rows(np.array(lengths, int), num_rows, 20)
    assert len(rows) == len(lengths)
    sums = np.bincount(rows, weights=lengths, minlength=num_rows)
    assert sums.max() <= 20
    if len(sums) > num_rows:  # best fit opens a row only when no two rows could be one
        assert np.sort(sums)[:2].sum() > 20


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_groups_have_equally_many_rows_and_hold_all_of_them(num_groups: int, size: int, data: st.DataObject) -> None:
    count = num_groups * size
    tokens = data.draw(st.lists(st.integers(0, 100), min_size=count, max_size=count))
    groups = deal(np.array(tokens), num_groups)
    assert {len(group) for group in groups} == {len(tokens) // num_groups}
    assert sorted(row for group in groups for row in group) == list(range(len(tokens)))


def test_groups_have_nearly_equal_tokens() -> None:
    groups = deal(np.array([9, 8, 2, 1]), 2)
    assert groups == [[0, 3], [1, 2]]
