from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bcaudio.data.index import ShardIndex, _hashes
from bcaudio.data.index_file import index_path
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import rewrite_with_codes, write_shards


def make(folder: Path, corpus: str, count: int, fingerprint: dict[str, int]) -> list[Path]:
    def samples() -> list[tuple[Sample, np.ndarray]]:
        made = []
        for i in range(count):
            wave = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2400 * (i + 1)) / 24_000).astype(np.float32)
            duration_s = 0.1 * (i + 1)
            spans = (Span("x", 0.0, duration_s, "user"),)
            sample = Sample(
                key=f"{corpus}-train-en-{i}",
                corpus=corpus,
                split="train",
                language="en",
                speaker=f"s{i}",
                text="x" * i,
                spans=spans,
                duration_s=duration_s,
            )
            made.append((sample, wave))
        return made

    return write_shards(samples(), folder, f"{corpus}-train", 2, fingerprint)


def test_index_lists_all_shards_of_globs_and_paths_once(tmp_path: Path) -> None:
    make(tmp_path, "a", 3, {})
    make(tmp_path, "b", 1, {})
    index = ShardIndex([str(tmp_path / "a-*.tar"), tmp_path / "b-train-000000.tar", tmp_path / "a-train-000000.tar"])
    assert [index.key(i) for i in range(4)] == ["a-train-en-0", "a-train-en-1", "a-train-en-2", "b-train-en-0"]
    np.testing.assert_allclose(index.durations_s, [0.1, 0.2, 0.3, 0.1])
    assert (index.entry(2).speaker, index.entry(2).num_text_chars, index.entry(2).duration_s) == ("s2", 2, 0.3)
    assert index.num_text_chars.tolist() == [0, 1, 2, 0]
    assert index.keys.tolist()[3] == b"b-train-en-0"
    assert len(index) == 4
    with pytest.raises(IndexError, match="sample 4 of 4"):
        index.entry(4)


def test_samples_are_chosen_by_their_names(tmp_path: Path) -> None:
    make(tmp_path, "a", 3, {})
    make(tmp_path, "b", 2, {})
    index = ShardIndex([tmp_path / "*.tar"])
    assert index.where(corpus="b").tolist() == [False, False, False, True, True]
    assert index.where(corpus=["a", "c"], speaker=["s0", "s2"]).tolist() == [True, False, True, False, False]
    names, ids = index.labels("speaker")
    assert [names[i] for i in ids] == ["s0", "s1", "s2", "s0", "s1"]
    assert (index.find("b-train-en-1"), index.find("b-train-en-2")) == (4, None)
    with pytest.raises(ValueError, match="where: 'key' is not in the index; it has corpus, split"):
        index.where(key="a")


def test_more_shards_than_are_kept_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcaudio.data.index.KEPT_OPEN", 2)
    index = ShardIndex(make(tmp_path, "a", 8, {}))  # four shards of two
    assert [index.sample(i).key for i in (0, 7, 3, 5, 1)] == [f"a-train-en-{i}" for i in (0, 7, 3, 5, 1)]
    assert [len(index.waveform(i)) for i in (0, 7, 3, 5, 1)] == [2400, 19200, 9600, 14400, 4800]


def test_sample_and_codes_are_read_by_offset(tmp_path: Path) -> None:
    tar = make(tmp_path, "a", 2, {})[0]
    codes = {f"a-train-en-{i}": (np.full((i + 1, 4), 7 + i), [i + 1]) for i in range(2)}
    index = ShardIndex([rewrite_with_codes(tar, tmp_path / "c", codes, {"t": 1})])
    assert index.num_codes.tolist() == [1, 2]
    assert index.fingerprint == {"t": 1}
    assert index.sample(1).codes.tolist() == [[8] * 4] * 2
    assert index.sample(0).key == "a-train-en-0"


def test_waveform_is_resampled_and_keeps_its_tone(tmp_path: Path) -> None:
    index = ShardIndex(make(tmp_path, "a", 2, {}))
    assert index.waveform(1).shape == (4800,)
    assert index.waveform(1).dtype == np.float32
    wave = index.waveform(1, sample_rate=16_000)
    assert wave.shape == (3200,)
    assert np.argmax(np.abs(np.fft.rfft(wave))) * 16_000 / 3200 == 1000


def _key(index: ShardIndex) -> tuple[str, float]:
    return index.sample(1).key, float(index.waveform(0)[1])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_index_with_open_files_works_in_workers(tmp_path: Path, method: str) -> None:
    index = ShardIndex(make(tmp_path, "a", 2, {}))
    here = _key(index)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        key = pool.submit(ShardIndex.sample, index, 1).result().key
        wave = pool.submit(ShardIndex.waveform, index, 0).result()
    assert (key, float(wave[1])) == here


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing-\*\.tar: no such tar"):
        ShardIndex([tmp_path / "nothing-*.tar"])
    tar = make(tmp_path, "a", 1, {})[0]
    index_path(tar).unlink()
    with pytest.raises(FileNotFoundError, match=r"a-train-000000\.idx is missing"):
        ShardIndex([tar])


def test_short_tar_is_refused_with_file_and_remedy(tmp_path: Path) -> None:
    tar = make(tmp_path, "a", 1, {})[0]
    index = ShardIndex([tar])
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"a-train-000000\.tar: 1000 bytes on disk.*copy it again"):
        ShardIndex([tar])
    with pytest.raises(ValueError, match=r"a-train-000000\.tar: ends inside a-train-en-0\.json.*copy it again"):
        index.sample(0)


def test_different_fingerprints_name_both_values(tmp_path: Path) -> None:
    make(tmp_path, "a", 1, {"codebooks": 8})
    make(tmp_path, "b", 1, {"codebooks": 4})
    with pytest.raises(ValueError, match=r"'codebooks': 8 in .*a-train.*, 4 in .*b-train"):
        ShardIndex([tmp_path / "*.tar"])


@pytest.mark.parametrize("count", [1, 2], ids=["copies", "one key of two"])
def test_same_key_in_two_shards_is_refused(tmp_path: Path, count: int) -> None:
    make(tmp_path / "x", "a", 1, {})
    make(tmp_path / "y", "a", count, {})
    with pytest.raises(ValueError, match=r"y/a-train-000000\.tar: key 'a-train-en-0' is also in .*x/a-train-000000\.tar"):
        ShardIndex([tmp_path / "*" / "*.tar"])


def test_keys_of_every_width_have_their_own_hash(tmp_path: Path) -> None:
    keys = [f"{'k' * (i % 70)}-{i}".encode() for i in range(20_000)]
    narrow, wide = np.array(keys[:1], "S8"), np.array(keys, "S80")
    assert _hashes(narrow)[0] == _hashes(wide)[0]
    assert len(np.unique(_hashes(wide))) == 20_000
