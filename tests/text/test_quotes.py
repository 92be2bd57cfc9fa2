from __future__ import annotations

from bcaudio.text.quotes import Quotes


def test_texts_are_found_where_they_occur_in_one_run() -> None:
    quotes = Quotes(3)
    for key, text in (("abcd", "a b c d"), ("bcd", "b c d"), ("abx", "a b x"), ("ab", "a b"), ("again", "a b c d")):
        quotes.add(key, text.split())
    assert list(quotes.found(list("zabcdzbcd"))) == ["abcd", "again", "bcd", "bcd"]
    assert list(quotes.found(list("abce"))) == []
    assert list(quotes.found(list("ab"))) == []  # too short to say anything


def test_short_texts_are_found_only_as_the_whole_of_another() -> None:
    quotes = Quotes(3, whole=True)
    for key, text in (("ab", "a b"), ("a", "a"), ("abc", "a b c"), ("none", "")):
        quotes.add(key, text.split())
    assert list(quotes.found(["a", "b"])) == ["ab"]
    assert list(quotes.found(["a"])) == ["a"]
    assert list(quotes.found(["b"])) == []
    assert list(quotes.found(["a", "b", "c"])) == ["abc"]
    assert list(quotes.found([])) == []
