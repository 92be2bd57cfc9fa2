from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.seed_tts import SeedTTS

Write = Callable[[str, str], Path]


def test_a_text_comes_with_its_prompt_and_the_human_recording_where_there_is_one(
    tmp_path: Path, write: Write, make_audio: Callable[..., np.ndarray]
) -> None:
    write(
        "en/meta.lst",
        "p1-u1|The prompt.|prompt-wavs/p1.wav|Say this.\n"
        "p1-u2|The prompt.|prompt-wavs/p1.wav|And this.|wavs/other.wav\n"
        "p2-u3|Another.|prompt-wavs/p2.wav|Not to be said.\n"
        "p1-u4|The prompt.|prompt-wavs/p1.wav|\n",
    )
    make_audio("en/prompt-wavs/p1.wav")
    one, two = make_audio("en/wavs/p1-u1.wav", seed=1), make_audio("en/wavs/other.wav", seed=2)
    items = SeedTTS(tmp_path, "en").items("tts")
    assert [(item.id, item.sample.text, item.problem.partition(":")[0]) for item in items] == [
        ("p1-u1", "Say this.", ""),
        ("p1-u2", "And this.", ""),
        ("p2-u3", "Not to be said.", "missing audio"),
        ("p1-u4", "", "empty reference"),
    ]
    assert items[0].fields["prompt_text"] == "The prompt."
    assert items[0].fields["prompt_audio"] == tmp_path / "en/prompt-wavs/p1.wav"
    assert items[0].sample.spans[0].role == "narrator"
    np.testing.assert_array_equal(items[0].waveform(16_000), one)
    np.testing.assert_array_equal(items[1].waveform(16_000), two)
    assert items[2].audio is None
    write("zh/hardcase.lst", "h1|提示|prompt-wavs/p1.wav|绕口令\n")
    make_audio("zh/prompt-wavs/p1.wav")
    assert [item.sample.language for item in SeedTTS(tmp_path, "zh", "hardcase.lst").items("tts")] == ["zh"]


def test_what_is_absent_or_broken_is_named(tmp_path: Path, write: Write) -> None:
    with pytest.raises(FileNotFoundError, match=r"zh/meta\.lst: not there; .*seed-tts-eval"):
        SeedTTS(tmp_path, "zh").items("tts")
    write("zh/meta.lst", "a|b|c|d\na|b\n")
    with pytest.raises(ValueError, match=r"meta\.lst:2: has 2 columns, expected 4 or 5"):
        SeedTTS(tmp_path, "zh").items("tts")
