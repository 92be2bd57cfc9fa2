from __future__ import annotations

import numpy as np

from data_prep.sources.kespeech import KeSpeech


def test_utterances_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    first = make_audio("Audio/1000001/phase1/1000001_ba7a3f0d.wav")
    folder = "Tasks/ASR/train_phase1"
    write(
        f"{folder}/wav.scp", "1000001_ba7a3f0d Audio/1000001/phase1/1000001_ba7a3f0d.wav\n1000002_c Audio/1000002/phase1/c.wav\n"
    )
    write(f"{folder}/text", "1000001_ba7a3f0d 我想<SPOKEN_NOISE>回家\n1000002_c 好\n")
    write(f"{folder}/utt2spk", "1000001_ba7a3f0d 1000001\n1000002_c 1000002\n")
    write(f"{folder}/utt2subdialect", "1000001_ba7a3f0d Zhongyuan\n1000002_c Mandarin\n")
    utterances, dropped = listed(KeSpeech(tmp_path, ["train_phase1"]))
    assert told(utterances, "key", "text", "speaker", "split", "language") == [
        ("kespeech-train-1000001_ba7a3f0d", "我想回家", "1000001-Zhongyuan", "train", "zh"),
    ]
    assert dropped == {"missing audio file": 1}
    assert np.array_equal(waveform(utterances[0]), first)
