from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.sources.kaldi import Kaldi, Table


def test_segments_name_stretches_of_recordings(tmp_path, make_audio, write, listed, told, waveform):
    samples = make_audio("audio/r1.flac", duration_s=3.0)
    write("wav.scp", "r1 audio/r1.flac\n")
    write("segments", "u1 r1 0.5 1.25\nu2 r1 2.0 -1\nu3 r1 2.0\nu4 r9 0.0 1.0\nu5 r1 1.0 x\nu6 r1 1.0 2.0\n")
    write("text", "u1 hello there\nu2 good bye\nu7 nobody\n")
    write("utt2spk", "u1 anna\n")
    utterances, dropped = listed(Kaldi(tmp_path, "en", licence="CC0"))
    assert told(utterances, "key", "text", "speaker", "split", "start_s", "end_s", "licence") == [
        ("kaldi-train-u1", "hello there", "anna", "train", 0.5, 1.25, "CC0"),
        ("kaldi-train-u2", "good bye", "", "train", 2.0, None, "CC0"),
    ]
    assert dropped == {"wrong column count": 1, "no such recording": 1, "bad time": 1, "no text": 1, "text without audio": 1}
    assert np.array_equal(waveform(utterances[0]), samples[8_000:20_000])
    assert np.array_equal(waveform(utterances[1]), samples[32_000:])


def test_without_segments_every_recording_is_an_utterance(tmp_path, make_audio, write, listed, told, waveform):
    samples = make_audio("b.wav")
    write("data/wav.scp", f"b {tmp_path}/b.wav\na b.wav\nc c.wav\n")  # not in order
    write("data/text", "c none\nb second\na first\n")
    utterances, dropped = listed(Kaldi(tmp_path / "data", "en", audio_root=tmp_path, split="test", corpus="mine"))
    assert told(utterances, "key", "text") == [("mine-test-b", "second"), ("mine-test-a", "first")]
    assert dropped == {"missing audio file": 1}
    assert np.array_equal(waveform(utterances[1]), samples)


@pytest.mark.parametrize("line", ["r1 sph2pipe -f wav a.sph |", "r1 touch owned|", "r1 |cat a.wav"])
def test_commands_in_wav_scp_are_refused(tmp_path, write, line):
    write("wav.scp", f"r0 a.wav\n{line}\n")
    write("text", "r1 hello\n")
    with pytest.raises(ValueError, match=r"wav\.scp:2: .*is a command, and no code of a corpus is run"):
        list(Kaldi(tmp_path, "en").utterances({}))
    assert not Path("owned").exists()


@pytest.mark.parametrize("order", ["abcd", "adbc", "dcba"])
@pytest.mark.parametrize("asked", ["abxd", "dabb", "bbbb"])
def test_table_finds_every_id_in_any_order(tmp_path, write, order, asked):
    table = Table(write("text", "".join(f"{key} {key}1\n" for key in order)), Counter())
    assert [table.get(key) for key in asked] == [None if key == "x" else f"{key}1" for key in asked]


def test_table_in_order_is_not_held_in_memory(tmp_path, write):
    table = Table(write("text", "".join(f"u{i:05d} words\n" for i in range(2_000))), Counter())
    assert all(table.get(f"u{i:05d}") == "words" for i in range(0, 2_000, 3))
    assert table._rows is None
