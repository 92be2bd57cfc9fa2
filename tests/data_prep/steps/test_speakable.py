from __future__ import annotations

import pytest

from data_prep.steps.speakable import Speakable
from data_prep.utterance import Clip, Drops, Part, Utterance

GOOD = [
    ("Tom has three apples, and Mia has two.", "en"),
    ("He said: “Don't import goods (or sell them); return them!”", "en"),
    ("Yes.", "en"),
    ("The class of 1999 cost $5 and 20 % more, i.e. €3.50.", "en"),
    ("Select one from the list - it is 3 < 4, he said.", "en"),
    ("L'eau est à 20 degrés, n'est-ce pas ?", "fr"),
    ("你好，世界！三加四等于七。", "zh"),
]
BAD = [
    ("```python\nx = 1\n```", "code"),
    ("def add(a, b): return a", "code"),
    ("Then write x += 1 in the loop.", "code"),
    ("import numpy", "code"),
    ("Use <b>bold</b> here.", "code"),
    ("SELECT name FROM users", "code"),
    ("See https://example.org for more", "url"),
    ("write to me@example.org please", "url"),
    ("go to example.com now", "url"),
    ("Euler says $e^{i\\pi} = -1$ of course", "latex"),
    ("we take \\frac{1}{2} of it", "latex"),
    ("| a | b |\n|---|---|\n| 1 | 2 |", "table"),
    ("name\tage\tcity", "table"),
    ("# Title\nSome text", "markup"),
    ("this is **very** good", "markup"),
    ("- milk\n- bread", "markup"),
    ("That is great 😀", "emoji"),
    ("你好👍", "emoji"),
    ("call 12345678901234 now", "long digits"),
    ("+-+-+ a -+-+-", "symbols"),
    ("?!", "no text"),
    ("word " * 301, "too long"),
    ("字" * 301, "too long"),
]


def test_planted_texts_are_found() -> None:
    step = Speakable()
    found = {text: step.fault(text, "zh" if text[0] > "一" else "en") for text, _ in BAD}
    hits = sum(fault is not None for fault in found.values())
    alarms = [text for text, language in GOOD if step.fault(text, language)]
    recall, precision = hits / len(BAD), hits / (hits + len(alarms))
    assert (recall, precision) == (1.0, 1.0), f"recall {recall:.2f}, precision {precision:.2f}, false alarms {alarms}"


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_each_kind_has_its_reason(text: str, reason: str) -> None:
    fault = Speakable().fault(text, "en")
    assert fault is not None
    assert fault[0] == reason


def test_parts_answer_and_translation_are_looked_at() -> None:
    import numpy as np

    def clip(part: str = "fine", **fields: str) -> Clip:
        utterance = Utterance("k", "c", "train", "en", (Part("fine", "user"), Part(part, "assistant")), "fine", **fields)
        return Clip(utterance, np.zeros(0, np.float32), 24_000)

    drops = Drops()
    clips = [clip(), clip("`x`"), clip(answer="www.a.b"), clip(translation="😀", target_language="zh")]
    assert list(Speakable()(iter(clips), drops)) == clips[:1]
    assert [(d.reason, d.value) for d in drops] == [("code", "`x`"), ("url", "www.a"), ("emoji", "😀")]


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_units 0"):
        Speakable(max_units=0)
