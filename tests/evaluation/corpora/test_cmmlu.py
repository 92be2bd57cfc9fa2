"""CMMLU's table as four statements."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bcaudio.evaluation.corpora.cmmlu import CMMLU

HEADER = ",Question,A,B,C,D,Answer\n"


def test_a_question_is_a_story_with_four_endings(
    write: Callable[[str, str], Path], make_audio: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    write("test/agronomy.csv", HEADER + "0,牛,一,二,三,四,C\n1,羊,一,二,三,四,A\n2,猪,一,二,三,四,A\n")
    write("test/arts.csv", HEADER + "0,画,一,二,三,四,D\n")
    items = CMMLU(tmp_path).items("x")
    assert [item.id for item in items] == ["agronomy-00000", "agronomy-00001", "agronomy-00002", "arts-00000"]
    assert [span.role for span in items[0].sample.spans] == ["narrator", "wrong", "wrong", "right", "wrong"]
    assert (items[0].sample.spans[0].text, items[0].fields["category"], items[0].sample.language) == ("牛", "agronomy", "zh")
    assert [item.id for item in CMMLU(tmp_path, subjects=["arts"]).items("x")] == ["arts-00000"]

    for part in ("question", "A", "B", "C", "D"):
        make_audio(f"wav/agronomy-00001-{part}.wav", 0.25)
    make_audio("wav/agronomy-00002-A.wav")
    spoken = CMMLU(tmp_path, audio=tmp_path / "wav").items("x")
    assert [(item.id, item.problem[:13]) for item in spoken] == [("agronomy-00001", ""), ("agronomy-00002", "missing audio")]
    assert spoken[0].sample.duration_s == 1.25
    assert len(CMMLU(tmp_path, audio=tmp_path / "wav", spoken_only=False).items("x")) == 4
