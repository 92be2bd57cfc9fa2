"""The sample: what a shard holds and every stage reads (docs/design.md, section 3)."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LANGUAGE = re.compile("[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # en, zh, yue, zh-Hant
SPLITS = ("train", "dev", "test")
ROLES = ("user", "assistant", "narrator", "right", "wrong")
TIME_SLACK_S = 1e-3  # times are stored with four digits


def _fail(key: Any, field: str, value: Any, remedy: str) -> None:
    raise ValueError(f"sample {key!r}: field {field!r} is {value!r}; {remedy}")


@dataclass(frozen=True)
class Span:
    """A stretch of speech and what it says.

    Args:
        text: the words of this span.
        start_s, end_s: seconds from the start of the clip; both 0.0 in a text-only sample.
        role: one of `ROLES`; `right` and `wrong` are the two endings of a choice item.
    """

    text: str
    start_s: float
    end_s: float
    role: str


@dataclass(frozen=True)
class Sample:
    """One clip (or one text) with its spans, and its codes once `data_prep.encode_codes` has run.

    Args:
        key: unique name, e.g. `numbers-train-en-000017`.
        corpus, split, language, speaker: where it belongs; `speaker` is a timbre id, empty for text only.
        text: transcript of the whole clip.
        spans: in time order, covering the speech.
        translation, target_language, answer: present where the corpus has them.
        source, licence: where the sample comes from.
        duration_s: length of the clip in seconds, 0.0 for text only.
        span_num_codes: frames of `codes` per span; empty before encoding.
        words: (text, start_s, end_s) of every word, where the sample was aligned.
        measures: what data preparation found, by name (`snr_db`, `mos`, ...); JSON values.
        codes: int16 [T, K], all spans joined along time, or None. Not part of the JSON.

    Raises:
        ValueError: naming key, field and value, when a field breaks the rules above.
    """

    key: str
    corpus: str
    split: str
    language: str
    speaker: str
    text: str
    spans: tuple[Span, ...]
    translation: str | None = None
    target_language: str | None = None
    answer: str | None = None
    source: str = ""
    licence: str = ""
    duration_s: float = 0.0
    span_num_codes: tuple[int, ...] = ()
    words: tuple[tuple[str, float, float], ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)
    codes: np.ndarray | None = field(default=None, compare=False)  # arrays have no single truth

    def __post_init__(self) -> None:
        key = self.key
        for name in ("key", "corpus", "split", "language", "speaker", "text", "source", "licence"):
            if not isinstance(getattr(self, name), str):
                _fail(key, name, getattr(self, name), "it must be a string")
        if not key or any(c in key for c in "./\\ ") or not key.isascii() or len(key) > 80:
            _fail(key, "key", key, "use 1 to 80 ASCII characters without dot, slash or space")
        if self.split not in SPLITS:
            _fail(key, "split", self.split, f"it must be one of {SPLITS}")
        for name in ("language", "target_language"):
            if getattr(self, name) is not None and not LANGUAGE.fullmatch(getattr(self, name)):
                _fail(key, name, getattr(self, name), "it must be a language code such as en, zh or yue")
        for name in ("translation", "answer"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), str):
                _fail(key, name, getattr(self, name), "it must be a string or null")
        if not _is_number(self.duration_s) or self.duration_s < 0:
            _fail(key, "duration_s", self.duration_s, "it must be a number of seconds >= 0")
        self._check_spans()
        self._check_codes()

    def _check_spans(self) -> None:
        if not self.spans:
            _fail(self.key, "spans", self.spans, "give at least one span")
        previous_end_s = 0.0
        for i, span in enumerate(self.spans):
            if not isinstance(span.text, str):
                _fail(self.key, f"spans[{i}].text", span.text, "it must be a string")
            if span.role not in ROLES:
                _fail(self.key, f"spans[{i}].role", span.role, f"it must be one of {ROLES}")
            for name in ("start_s", "end_s"):
                if not _is_number(getattr(span, name)):
                    _fail(self.key, f"spans[{i}].{name}", getattr(span, name), "it must be a number of seconds")
            if span.start_s < previous_end_s - TIME_SLACK_S:
                _fail(self.key, f"spans[{i}].start_s", span.start_s, f"spans go in time order; one ends at {previous_end_s}")
            if span.end_s < span.start_s or span.end_s > self.duration_s + TIME_SLACK_S:
                _fail(
                    self.key,
                    f"spans[{i}].end_s",
                    span.end_s,
                    f"it must lie between start_s {span.start_s} and duration_s {self.duration_s}",
                )
            previous_end_s = span.end_s

    def _check_codes(self) -> None:
        counts = self.span_num_codes
        if counts and len(counts) != len(self.spans):
            _fail(self.key, "span_num_codes", counts, f"give one count per span ({len(self.spans)})")
        if any(not isinstance(count, int) or isinstance(count, bool) or count < 0 for count in counts):
            _fail(self.key, "span_num_codes", counts, "counts are integers >= 0")
        if self.codes is None:
            return
        if self.codes.ndim != 2 or self.codes.dtype != np.int16:
            _fail(self.key, "codes", f"{self.codes.dtype} {self.codes.shape}", "they must be int16 [T, K]")
        if sum(counts) != len(self.codes):
            remedy = f"they must sum to the {len(self.codes)} frames of codes; run data_prep.encode_codes again"
            _fail(self.key, "span_num_codes", counts, remedy)

    def span_codes(self, i: int) -> np.ndarray:
        """Codes of span `i`, int16 [T_i, K]. Raises ValueError where the sample has no codes."""
        if self.codes is None:
            raise ValueError(f"sample {self.key!r}: field 'codes' is empty; encode its shard with data_prep.encode_codes")
        start = sum(self.span_num_codes[:i])
        return self.codes[start : start + self.span_num_codes[i]]

    def to_json(self) -> str:
        """One line of JSON with every field but `codes`, and without `words` and `measures` where there are none."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "codes"}
        for name in ("words", "measures"):
            if not fields[name]:
                del fields[name]
        fields["duration_s"] = round(self.duration_s, 4)
        fields["spans"] = [
            {"text": span.text, "start_s": round(span.start_s, 4), "end_s": round(span.end_s, 4), "role": span.role}
            for span in self.spans
        ]
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, codes: np.ndarray | None = None) -> Sample:
        """The sample of a line of JSON, with `codes` attached.

        Raises:
            ValueError: naming key, field and value: not JSON, an unknown or missing field, or a broken rule.
        """
        try:
            fields = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"sample JSON cannot be read ({error}); make its shard again") from error
        if not isinstance(fields, dict):
            raise ValueError(f"sample JSON is a {type(fields).__name__}, not an object; make its shard again")
        key = fields.get("key", "?")
        spans = fields.get("spans")
        if not isinstance(spans, list):
            _fail(key, "spans", spans, "it must be a list of objects")
        spans = tuple(_build(Span, key, f"spans[{i}].", item) for i, item in enumerate(spans))
        counts, words = fields.get("span_num_codes", []), fields.get("words", [])
        if not isinstance(counts, list):
            _fail(key, "span_num_codes", counts, "it must be a list of counts")
        if not isinstance(words, list) or not all(isinstance(word, list) and len(word) == 3 for word in words):
            _fail(key, "words", words, "it must be a list of [text, start_s, end_s]")
        lists = {"spans": spans, "span_num_codes": tuple(counts), "words": tuple(tuple(word) for word in words)}
        return _build(cls, key, "", {**fields, **lists, "codes": codes})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _build(cls: type, key: Any, where: str, fields: Any) -> Any:
    if not isinstance(fields, dict):
        _fail(key, where.rstrip("."), fields, "it must be an object")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name in fields:
        if name not in known:
            _fail(key, where + name, fields[name], f"the field is unknown; known are {', '.join(known)}")
    for name, entry in known.items():
        if name not in fields and entry.default is entry.default_factory is dataclasses.MISSING:
            _fail(key, where + name, None, "the field is missing")
    return cls(**fields)
