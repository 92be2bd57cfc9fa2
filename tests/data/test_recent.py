"""A memory with a bound."""

import pickle

from bcaudio.data.recent import Recent


def test_what_was_used_last_is_kept_up_to_the_capacity() -> None:
    made: list[str] = []
    recent = Recent(5, len)

    def get(text: str) -> str:
        return recent(text, lambda: made.append(text) or text)

    assert [get(text) for text in ("aa", "bbb", "aa", "cc", "aa", "bbb")] == ["aa", "bbb", "aa", "cc", "aa", "bbb"]
    assert made == ["aa", "bbb", "cc", "bbb"]  # cc drove out bbb, which had not been used since
    assert recent.size == 5


def test_a_value_beyond_the_capacity_is_handed_out_and_not_kept() -> None:
    recent = Recent(3, len)
    assert recent("x", lambda: "long one") == "long one"
    assert recent.size == 0
    assert recent("x", lambda: "y") == "y"


def test_a_copy_for_another_process_starts_empty() -> None:
    recent = Recent(3)
    recent(1, lambda: 10)
    assert pickle.loads(pickle.dumps(recent))(1, lambda: 20) == 20
