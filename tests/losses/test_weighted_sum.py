"""Joining loss terms by name."""

import pytest
import torch

from bcaudio.losses.weighted_sum import WeightedSum


def test_total_is_the_weighted_sum_and_terms_stay_unweighted() -> None:
    total, terms = WeightedSum({"a": 2.0, "b": 0.5})({"b": torch.tensor(4.0), "a": torch.tensor(3.0)})
    assert total.item() == 8.0
    assert {name: term.item() for name, term in terms.items()} == {"a": 3.0, "b": 4.0}


def test_names_that_do_not_match_are_refused_both_ways() -> None:
    with pytest.raises(ValueError, match=r"without weight: \['c'\], without term: \['b'\]"):
        WeightedSum({"a": 1.0, "b": 1.0})({"a": torch.tensor(1.0), "c": torch.tensor(1.0)})


def test_no_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum({})
