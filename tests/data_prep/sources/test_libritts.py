from __future__ import annotations

import numpy as np
import pytest

from data_prep.sources.libritts import LibriTTS


@pytest.fixture
def corpus(tmp_path, make_audio, write):
    write(
        "train-clean-360/14/208/14_208.trans.tsv",
        '14_208_000001_000000\tMr. "B" paid 5 pounds.\tMister "B" paid five pounds.\n14_208_000002_000000\tonly one\n',
    )
    return make_audio("train-clean-360/14/208/14_208_000001_000000.wav")


@pytest.mark.parametrize(
    ("text", "expected"), [("normalized", 'Mister "B" paid five pounds.'), ("original", 'Mr. "B" paid 5 pounds.')]
)
def test_utterances_of_the_published_layout(tmp_path, corpus, listed, told, waveform, text, expected):
    utterances, dropped = listed(LibriTTS(tmp_path, ["train-clean-360"], text=text))
    assert told(utterances, "key", "text", "speaker", "split") == [
        ("libritts-train-14_208_000001_000000", expected, "14", "train")
    ]
    assert utterances[0].parts[0].role == "narrator"
    assert dropped == {"wrong column count": 1}
    assert np.array_equal(waveform(utterances[0]), corpus)


def test_unknown_transcript_is_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'normalized'"):
        LibriTTS(tmp_path, ["dev-clean"], text="normalised")
