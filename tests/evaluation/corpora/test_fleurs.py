from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.fleurs import Fleurs

EN = (
    '1\t111.wav\tHe said "so".\the said so\th e | s o |\t8000\tMALE\n'
    "1\t112.wav\tHe said.\the said\th e |\t16000\tFEMALE\n"
    "2\t113.wav\tOnly here.\tonly here\to |\t8000\tMALE\n"
)
ZH = "1\t900.wav\t他说。\t他 说\t他 | 说 |\t8000\tMALE\n"


@pytest.fixture(params=["folder", "tar"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, make_audio: Callable[..., np.ndarray], write: Callable[[str, str], Path]
) -> Path:
    write("en_us/test.tsv", EN)
    write("cmn_hans_cn/test.tsv", ZH)
    for seed, name in enumerate(("111", "113")):
        make_audio(f"en_us/audio/test/{name}.wav", seed=seed)
    if request.param == "tar":
        with tarfile.open(tmp_path / "en_us/audio/test.tar.gz", "w:gz") as tar:
            for name in ("113", "111"):
                tar.add(tmp_path / f"en_us/audio/test/{name}.wav", f"test/{name}.wav")
                (tmp_path / f"en_us/audio/test/{name}.wav").unlink()
        (tmp_path / "en_us/audio/test").rmdir()
    return tmp_path


def test_every_reading_of_a_sentence_is_an_item_packed_or_not(root: Path, make_audio: Callable[..., np.ndarray]) -> None:
    items = Fleurs(root, "en_us").items("asr")
    assert [(item.id, item.sample.text, item.sample.duration_s) for item in items] == [
        ("1-111", 'He said "so".', 0.5),
        ("1-112", "He said.", 1.0),
        ("2-113", "Only here.", 0.5),
    ]
    for i, seed in ((0, 0), (2, 1)):
        np.testing.assert_array_equal(items[i].waveform(16_000), make_audio("again.wav", seed=seed))
    packed = (root / "en_us/audio/test.tar.gz").exists()  # then it is found when the item is asked: listing would unpack it
    assert bool(items[1].problem) != packed
    with pytest.raises(Exception, match=r"1-112: .*112\.wav"):
        items[1].waveform(16_000)


def test_translations_go_by_the_sentence_and_lonely_sentences_stay_out(root: Path) -> None:
    items = Fleurs(root, "en_us", target_locale="cmn_hans_cn").items("s2tt")
    assert [(item.id, item.sample.translation, item.sample.target_language) for item in items] == [
        ("1-111", "他说。", "zh"),
        ("1-112", "他说。", "zh"),
    ]
    assert items[0].sample.language == "en"


def test_what_is_absent_or_broken_is_named(root: Path, write: Callable[[str, str], Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"fr_fr/test\.tsv: not there; .*huggingface\.co/datasets/google/fleurs"):
        Fleurs(root, "fr_fr").items("asr")
    with pytest.raises(FileNotFoundError, match=r"cmn_hans_cn/audio/test\.tar\.gz: not there"):
        Fleurs(root, "cmn_hans_cn").items("asr")
    write("en_us/test.tsv", EN.replace("\t8000\tMALE", "\tmany\tMALE", 1))
    with pytest.raises(ValueError, match=r"test\.tsv:1: number of samples is 'many'"):
        Fleurs(root, "en_us").items("asr")
