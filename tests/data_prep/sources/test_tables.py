from __future__ import annotations

import pytest

from data_prep.sources.corpus import make_key


@pytest.mark.parametrize("name", ["a.b/c", "ü", "x" * 200, "", "a b"])
def test_keys_hold_plain_letters_and_stay_short(name):
    key = make_key("corpus", "train", name)
    assert len(key) <= 80
    assert key.isascii()
    assert not set(key) & set("./\\ ")
    assert key == make_key("corpus", "train", name)


def test_keys_of_names_that_differ_late_or_in_odd_letters_differ():
    names = ["x" * 200, "x" * 199 + "y", "a.b", "a/b", "a-b"]
    assert len({make_key("c", "train", name) for name in names}) == 5
    assert make_key("c", "train", "84-121_A") == "c-train-84-121_A"
