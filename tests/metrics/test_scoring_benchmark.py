"""The benchmark of scoring at a tiny size: what is compared must agree, how fast is not asked."""

import sys
from pathlib import Path

import jiwer
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import suite_evaluate
from benchmarks.measure import WrongResultError


def test_scoring_at_tiny_size() -> None:
    (row,) = suite_evaluate.scoring(count=60, words=5, num_samples=50, repeats=1)
    assert (row.name, row.op, row.bar, row.unit) == ("scoring.wer", "<=", 3.0, "s")
    assert row.ratio == pytest.approx(row.ours / row.peer)


def test_the_texts_have_every_kind_of_error() -> None:
    hypotheses, references = suite_evaluate._transcripts(500, 20)
    edits = jiwer.process_words(references, hypotheses)
    assert {len(text.split()) for text in references} == {20}
    assert edits.wer == pytest.approx(0.1, abs=0.01)
    assert min(edits.substitutions, edits.deletions, edits.insertions) > 100


def test_other_counts_than_jiwers_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_evaluate, "confidence_interval", lambda metric, num_samples: (0.9, 1.0))
    with pytest.raises(WrongResultError, match=r"interval 0\.9 to 1"):
        suite_evaluate.scoring(count=60, words=5, num_samples=5, repeats=1)
