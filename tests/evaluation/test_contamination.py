from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bcaudio.audio import fingerprint as fingerprints
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import rewrite_with_codes, write_shard
from bcaudio.evaluation import contamination
from bcaudio.evaluation.bootstrap import confidence_interval
from bcaudio.evaluation.contamination import Leak, find_leaks, training_shards, with_and_without
from bcaudio.inference.item import Item
from bcaudio.metrics.error_rate import ErrorRate

RATE = 24_000


def _sound(seed: int, duration_s: float = 3.0) -> np.ndarray:
    """Bursts of tones: has landmarks, and no two seeds have the same."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(0.1 * RATE)) / RATE
    bursts = [np.hanning(len(t)) * np.sin(2 * np.pi * rng.uniform(200, 3000) * t) for _ in range(round(duration_s * 10))]
    return (0.3 * np.concatenate(bursts)).astype(np.float32)


def _sample(key: str, text: str, duration_s: float = 0.0, language: str = "en") -> Sample:
    return Sample(key, "c", "train", language, "", text, (Span(text, 0.0, duration_s, "narrator"),), duration_s=duration_s)


def _item(key: str, text: str, sound: np.ndarray | None = None, language: str = "en") -> Item:
    def audio(sample_rate: int) -> np.ndarray:
        return fingerprints.resample(sound, RATE, sample_rate)

    return Item(_sample(key, text, language=language), None if sound is None else audio)


def _shard(path: Path, clips: Sequence[tuple[str, str, np.ndarray | None]], language: str = "en") -> str:
    pairs = [(_sample(key, text, 0.0 if wave is None else len(wave) / RATE, language), wave) for key, text, wave in clips]
    return str(write_shard(pairs, path, {"sample_rate": RATE}))


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    """30 clips, among them copies of sound 0 of the items (quieter, shifted, inside), and of 1 and 2 (in turn, with noise)."""
    rng = np.random.default_rng(0)
    clips: list[tuple[str, str, np.ndarray | None]] = [
        (f"own-{i}", f"own text number {i} with quite some more words", _sound(1000 + i)) for i in range(30)
    ]
    shifted = np.concatenate([_sound(500, 1.0)[:12_345], 0.3 * _sound(0), _sound(501, 0.5)])
    both = np.concatenate([_sound(1), _sound(502, 1.0), _sound(2)])
    clips[4] = ("leak-0", "said otherwise", shifted)
    clips[20] = ("leak-1-2", "said otherwise too", both + rng.normal(0, 0.003, len(both)).astype(np.float32))
    _shard(tmp_path / "train-000000.tar", clips[:10])
    _shard(tmp_path / "train-000001.tar", clips[10:])
    return [str(tmp_path / "train-*.tar")]


@pytest.fixture
def items() -> list[Item]:
    return [_item(f"e{i}", f"evaluation text {i} of some length that nobody has read", _sound(i)) for i in range(8)]


def test_planted_copies_of_sounds_are_found_and_unlike_clips_are_not(training: list[str], items: list[Item]) -> None:
    leaks = find_leaks(items, training)
    assert {id: (leak.kind, leak.training_key, Path(leak.shard).name) for id, leak in leaks.items()} == {
        "e0": ("audio", "leak-0", "train-000000.tar"),
        "e1": ("audio", "leak-1-2", "train-000001.tar"),
        "e2": ("audio", "leak-1-2", "train-000001.tar"),
    }
    assert all(leak.share >= 0.5 for leak in leaks.values())
    assert find_leaks(items, training, audio=False) == {}
    assert find_leaks([_item("t", "no sound here"), Item(items[0].sample, items[0].audio, problem="bad")], training) == {}


def test_texts_leak_in_one_run_and_short_ones_only_as_a_whole(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine"
    path = _shard(
        tmp_path / "text.tar",
        [("t0", f"He said: {long.upper().replace(' ', ', ')}!", None), ("t1", "Yes.", None), ("t2", "yes we can", None)],
    )
    zh = _shard(tmp_path / "zh.tar", [("z0", "他说:今天天气很好,我们去公园。", None)], language="zh")
    items = [
        _item("long", long),
        _item("cut", long + " ten"),
        _item("gap", long.replace("five", "")),
        _item("yes", "yes"),
        _item("can", "we can"),
        _item("whole", "Yes, we can!"),
        _item("zh", "今天天气很好我们去", language="zh"),
        _item("yue", "天气很好 我们去公园", language="yue"),
        _item("empty", ""),
    ]
    expected = {"long": ("t0", path), "yes": ("t1", path), "whole": ("t2", path), "zh": ("z0", zh), "yue": ("z0", zh)}
    assert find_leaks(items, [path, zh]) == {id: Leak("text", key, tar, 1.0) for id, (key, tar) in expected.items()}
    assert "can" in find_leaks(items, [path, zh], text_units=2)


def test_a_leak_of_the_sound_stands_before_one_of_the_text(tmp_path: Path) -> None:
    text = "one two three four five six seven eight"
    _shard(tmp_path / "a.tar", [("text", text, None)])
    _shard(tmp_path / "b.tar", [("half", "x", np.concatenate([_sound(0)[:50_000], _sound(9)])), ("both", text, _sound(0))])
    leak = find_leaks([_item("e", text, _sound(0))], [str(tmp_path / "*.tar")])["e"]
    assert (leak.kind, leak.training_key, leak.share > 0.95) == ("audio", "both", True)


def test_fingerprints_are_kept_by_the_shards_content_and_made_anew_if_damaged(
    training: list[str], items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, made = tmp_path / "cache", []
    real = contamination.fingerprint
    monkeypatch.setattr(contamination, "fingerprint", lambda *given: made.append(1) or real(*given))
    first = find_leaks(items, training, cache=cache)
    assert (len(first), len(made)) == (3, 8 + 30)
    files = sorted(cache.iterdir())
    assert [re.fullmatch(r"[0-9a-f]{64}\.landmarks-1", file.name) is not None for file in files] == [True, True]
    made.clear()
    assert find_leaks(items, training, cache=cache) == first
    assert len(made) == 8
    files[0].write_bytes(files[0].read_bytes()[:-3])
    made.clear()
    assert find_leaks(items, training, cache=cache) == first
    assert len(made) in (8 + 10, 8 + 20)
    assert find_leaks(items, training, cache=cache) == first
    assert sorted(cache.iterdir()) == files  # and no half-written file


def test_a_shard_and_the_same_with_codes_are_heard_once(training: list[str], items: list[Item], tmp_path: Path) -> None:
    tar = tmp_path / "train-000000.tar"
    (tmp_path / "codes").mkdir()
    codes = {key: (np.zeros((3, 2), np.int16), [3]) for key in ("leak-0", *(f"own-{i}" for i in range(10) if i != 4))}
    rewrite_with_codes(tar, tmp_path / "codes", codes, {"tokenizer": "x"})
    cache = tmp_path / "cache"
    leaks = find_leaks(items, [*training, str(tmp_path / "codes/*.tar")], cache=cache)
    assert set(leaks) == {"e0", "e1", "e2"}
    assert len(list(cache.iterdir())) == 2


def test_progress_is_said_when_it_takes_longer(
    training: list[str], items: list[Item], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_leaks(items, training)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(contamination, "PROGRESS_S", 0.0)
    find_leaks(items, training)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 30
    assert re.fullmatch(r"contamination: 1 of 2 training shards, 30 samples, 3 leaks; reading .*train-000001\.tar", lines[-1])


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none-\*\.tar"):
        find_leaks([], [str(tmp_path / "none-*.tar")])
    with pytest.raises(ValueError, match=r"min_share 0 lie in"):
        find_leaks([], ["a.tar"], min_share=0)


def _stage(folder: Path, out: str, takes: dict[str, str], shards: Sequence[Any] = ()) -> None:
    folder.mkdir(parents=True)
    recipe: dict[str, Any] = {"name": folder.name, "out": out, "takes": takes}
    if shards:
        train = [{"_target_": "bcaudio.data.datamodule.Source", "shards": entry, "task": "asr"} for entry in shards]
        recipe["data"] = {"train": train, "val": [{"shards": "runs/r/prepare/shards/x-test-*.tar"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "moved" / "run"
    _stage(run / "prepare", "runs/r/prepare", {})
    _stage(run / "base", "runs/r/base", {"data": "runs/r/prepare"}, ["runs/r/prepare/shards/text-train-*.tar"])
    _stage(run / "codes", "runs/r/codes", {"data": "runs/r/prepare"})
    many = [["s3://b/x-*.tar", "runs/r/codes/shards/a-train-*.tar"], "data/own/*.tar"]
    _stage(run / "sft", "runs/r/sft", {"codes": "runs/r/codes", "llm": "runs/r/base"}, many)
    _stage(run / "vocoder", "runs/r/vocoder", {"data": "runs/r/prepare"}, ["runs/r/prepare/shards/v-train-*.tar"])
    return run


def test_the_shards_of_a_stage_are_its_own_and_those_of_the_stages_it_takes(run: Path) -> None:
    of_base = [f"{run}/prepare/shards/text-train-*.tar"]
    of_sft = sorted([*of_base, f"{run}/codes/shards/a-train-*.tar", "data/own/*.tar", "s3://b/x-*.tar"])
    assert training_shards(run / "base") == of_base
    assert training_shards(run / "sft") == of_sft
    assert training_shards(run) == sorted([*of_sft, f"{run}/prepare/shards/v-train-*.tar"])
    with pytest.raises(FileNotFoundError, match=r"no recipe\.yaml there or right below"):
        training_shards(run / "sft" / "logs")


def test_a_run_that_was_not_moved_keeps_its_paths(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    os.rename(run, tmp_path / "runs/r")
    monkeypatch.chdir(tmp_path)
    assert training_shards("runs/r/base") == ["runs/r/prepare/shards/text-train-*.tar"]


def test_the_score_without_leaked_items_is_that_of_the_others() -> None:
    texts = [("a b c d", "a b c d"), ("a b", "a x"), ("a b c", "a b"), ("a b c d e", "b c d e"), ("q r", "q r")]
    references, hypotheses = zip(*texts, strict=True)
    ids = [f"i{n}" for n in range(5)]
    metric, clean = ErrorRate("en"), ErrorRate("en")
    metric.update(list(hypotheses), list(references), ids=ids)
    clean.update([hypotheses[n] for n in (1, 2, 3)], [references[n] for n in (1, 2, 3)], ids=["i1", "i2", "i3"])
    value, interval = with_and_without(metric, {"i0", "i4", "other"}, seed=3)
    assert value == pytest.approx(3 / 10)  # one error each in 2, 3 and 5 words
    assert interval == confidence_interval(clean, seed=3)
    assert metric.value().item() == pytest.approx(3 / 16)
    assert all(np.isnan(number) for number in (lambda v, ci: (v, *ci))(*with_and_without(metric, ids)))
