from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.librispeech import LibriSpeech


def test_utterances_of_a_subset_come_with_text_speaker_and_sound(
    tmp_path: Path, make_audio: Callable[..., np.ndarray], write: Callable[[str, str], Path]
) -> None:
    write("test-clean/121/123/121-123.trans.txt", "121-123-0000 THIRD ONE\n121-123-0001 GONE\n121-123-0002\n")
    write("test-clean/1089/134686/1089-134686.trans.txt", "1089-134686-0000 HE HOPED\n1089-134686-0001 STUFF IT\n")
    write("test-other/1/2/1-2.trans.txt", "1-2-0000 NOT OURS\n")
    sounds = {}
    for name in ("1089/134686/1089-134686-0000", "1089/134686/1089-134686-0001", "121/123/121-123-0000", "121/123/121-123-0002"):
        sounds[Path(name).name] = make_audio(f"test-clean/{name}.flac", seed=len(sounds))
    with pytest.warns(UserWarning, match="has 5 utterances of 2620"):
        items = LibriSpeech(str(tmp_path)).items("asr")
    assert [(item.id, item.sample.text, item.sample.speaker, item.problem.partition(":")[0]) for item in items] == [
        ("1089-134686-0000", "HE HOPED", "1089", ""),
        ("1089-134686-0001", "STUFF IT", "1089", ""),
        ("121-123-0000", "THIRD ONE", "121", ""),
        ("121-123-0001", "GONE", "121", "missing audio"),
        ("121-123-0002", "", "121", "empty reference"),
    ]
    assert {(item.sample.language, item.sample.split, item.sample.spans[0].role) for item in items} == {("en", "test", "user")}
    for item in items[:3]:
        np.testing.assert_array_equal(item.waveform(16_000), sounds[item.id])


def test_where_it_is_published_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dev-other: not there; .*openslr\.org/12 and must lie as ROOT/test-clean"):
        LibriSpeech(tmp_path, "dev-other").items("asr")
    with pytest.raises(ValueError, match="subset is 'test'; known are dev-clean"):
        LibriSpeech(tmp_path, "test")
