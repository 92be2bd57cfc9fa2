from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.kespeech import KeSpeech

Write = Callable[[str, str], Path]
FOLDER = "Tasks/ASR/test"


@pytest.fixture
def root(tmp_path: Path, write: Write) -> Path:
    write(f"{FOLDER}/text", "1001_a 你好<SPOKEN_NOISE>吗\n1001_b 再见\n1002_c 早\n1002_e 无\n")
    write(
        f"{FOLDER}/wav.scp",
        "1001_a Audio/1001/phase1/1001_a.wav\n1001_b Audio/1001/phase1/1001_b.wav\n1002_c Audio/1002/phase1/1002_c.wav\n"
        "1002_d Audio/1002/phase1/1002_c.wav\n",
    )
    write(f"{FOLDER}/utt2subdialect", "1001_a Beijing\n1001_b Mandarin\n1002_c Ji-Lu\n1002_d Ji-Lu\n1002_e Ji-Lu\n")
    write(f"{FOLDER}/utt2spk", "1001_a 1001\n1001_b 1001\n1002_c 1002\n1002_d 1002\n1002_e 1002\n")
    return tmp_path


def test_every_utterance_says_its_subdialect_and_one_can_be_chosen(root: Path, make_audio: Callable[..., np.ndarray]) -> None:
    expected = make_audio("Audio/1001/phase1/1001_a.wav")
    make_audio("Audio/1002/phase1/1002_c.wav")
    items = KeSpeech(root).items("asr")
    assert [(item.id, item.sample.text, item.fields["dialect"], item.problem.partition(" /")[0]) for item in items] == [
        ("1001_a", "你好吗", "Beijing", ""),
        ("1001_b", "再见", "Mandarin", "missing audio:"),
        ("1002_c", "早", "Ji-Lu", ""),
        ("1002_e", "无", "Ji-Lu", "missing audio: not in test/wav.scp"),
        ("1002_d", "", "Ji-Lu", "empty reference"),
    ]
    assert {item.sample.speaker for item in items[:2]} == {"1001"}
    np.testing.assert_array_equal(items[0].waveform(16_000), expected)
    assert [item.id for item in KeSpeech(root, "Beijing").items("asr")] == ["1001_a"]
    with pytest.raises(ValueError, match="has no item"):
        KeSpeech(root, "Zhongyuan").items("asr")


def test_commands_unknown_dialects_and_doubled_ids_are_refused(root: Path, write: Write) -> None:
    with pytest.raises(ValueError, match="dialect is 'Wu'; known are Mandarin"):
        KeSpeech(root, "Wu")
    with pytest.raises(FileNotFoundError, match=r"dev_phase1/text: not there; .*github\.com/KeSpeech"):
        KeSpeech(root, subset="dev_phase1").items("asr")
    write(f"{FOLDER}/text", "1001_a 一\n1001_b 二\n1001_a 三\n")
    with pytest.raises(ValueError, match=r"text:3: '1001_a' comes twice, also at .*text:1"):
        KeSpeech(root).items("asr")
    write(f"{FOLDER}/text", "1001_a 一\n")
    write(f"{FOLDER}/wav.scp", "1001_a a.wav\n1001_b sox a.wav -t wav - |\n")
    with pytest.raises(ValueError, match=r"wav\.scp:2: .* is a command"):
        KeSpeech(root).items("asr")
