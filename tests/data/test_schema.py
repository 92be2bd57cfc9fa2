from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span

SAMPLE = Sample(
    key="dialogue-train-zh-000003",
    corpus="dialogue",
    split="train",
    language="zh",
    speaker="f1-p48-r200",
    text="三加四等于几七",
    spans=(Span("三加四等于几", 0.0, 1.25, "user"), Span("七", 1.4, 1.9, "assistant")),
    answer="七",
    source="s",
    licence="l",
    duration_s=1.9,
    span_num_codes=(2, 1),
    codes=np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int16),
)


def test_json_round_trip_keeps_every_field_but_codes() -> None:
    again = Sample.from_json(SAMPLE.to_json())
    assert again == dataclasses.replace(SAMPLE, codes=None)
    assert "codes" not in json.loads(SAMPLE.to_json())


def test_span_codes_cuts_the_joined_codes_by_counts() -> None:
    assert SAMPLE.span_codes(0).tolist() == [[1, 2], [3, 4]]
    assert SAMPLE.span_codes(1).tolist() == [[5, 6]]
    with pytest.raises(ValueError, match="encode its shard"):
        Sample.from_json(SAMPLE.to_json()).span_codes(0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"language": "English"}, ["'language'", "'English'"]),
        ({"split": "valid"}, ["'split'", "'valid'"]),
        ({"words": [["a", 0.0]]}, ["'words'", "[['a', 0.0]]"]),
        ({"duration_s": -1}, ["'duration_s'", "-1"]),
        ({"duration_s": float("nan")}, ["'duration_s'", "nan"]),
        ({"spans": []}, ["'spans'"]),
        ({"spans": [{"text": "a", "start_s": 0.0, "end_s": 2.5, "role": "user"}]}, ["spans[0].end_s", "2.5", "1.9"]),
        ({"spans": [{"text": "a", "start_s": 0.0, "end_s": 1.0, "role": "boss"}]}, ["spans[0].role", "'boss'"]),
        ({"spans": [{"text": "a", "start_s": 0.0, "role": "user"}]}, ["spans[0].end_s", "missing"]),
        ({"colour": "red"}, ["'colour'", "'red'", "unknown"]),
        ({"span_num_codes": [1]}, ["'span_num_codes'", "(1,)"]),
        ({"text": None}, ["'text'", "None"]),
        ({"key": "a/b"}, ["'key'", "'a/b'"]),
    ],
)
def test_from_json_names_key_field_and_value(change: dict[str, object], named: list[str]) -> None:
    fields = {**json.loads(SAMPLE.to_json()), **change}
    with pytest.raises(ValueError, match="field") as caught:
        Sample.from_json(json.dumps(fields))
    for text in [fields["key"], *named]:
        assert text in str(caught.value)


def test_spans_out_of_time_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"spans\[1\].start_s"):
        dataclasses.replace(SAMPLE, spans=SAMPLE.spans[::-1])


def test_codes_must_match_the_counts_and_be_int16() -> None:
    with pytest.raises(ValueError, match="sum to the 2 frames"):
        dataclasses.replace(SAMPLE, codes=SAMPLE.codes[:2])
    with pytest.raises(ValueError, match="int64"):
        dataclasses.replace(SAMPLE, codes=SAMPLE.codes.astype(np.int64))
