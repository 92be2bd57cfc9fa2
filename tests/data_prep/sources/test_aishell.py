from __future__ import annotations

import numpy as np

from data_prep.sources.aishell import Aishell


def test_utterances_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    first = make_audio("wav/train/S0002/BAC009S0002W0122.wav")
    make_audio("wav/train/S0002/BAC009S0002W0999.wav")  # has no line
    make_audio("wav/dev/S0724/BAC009S0724W0121.wav")
    make_audio("wav/test/S0764/BAC009S0764W0121.wav")
    write(
        "transcript/aishell_transcript_v0.8.txt",
        "BAC009S0002W0122 而 对 楼市 成交\nBAC009S0002W0123 抑制\nBAC009S0724W0121 广州市 房地产\nBAC009S0764W0121 甚至\n",
    )
    utterances, dropped = listed(Aishell(tmp_path))
    assert told(utterances, "key", "text", "speaker", "split", "language", "licence") == [
        ("aishell-train-BAC009S0002W0122", "而对楼市成交", "S0002", "train", "zh", "Apache 2.0"),
        ("aishell-dev-BAC009S0724W0121", "广州市房地产", "S0724", "dev", "zh", "Apache 2.0"),
        ("aishell-test-BAC009S0764W0121", "甚至", "S0764", "test", "zh", "Apache 2.0"),
    ]
    assert dropped == {"missing audio file": 1, "no text": 1}
    assert np.array_equal(waveform(utterances[0]), first)
    utterances, dropped = listed(Aishell(tmp_path, ["test"]))
    assert ([u.speaker for u in utterances], dropped) == (["S0764"], {})
