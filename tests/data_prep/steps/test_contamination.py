from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bcaudio.audio.io import write_audio
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shard
from data_prep.steps.contamination import Contamination
from data_prep.utterance import Clip, Drops, Part, Utterance

RATE = 24_000


def _noise(seed: int, duration_s: float) -> np.ndarray:
    """Bursts of tones: has landmarks, and no two seeds have the same."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(0.1 * RATE)) / RATE
    bursts = [np.hanning(len(t)) * np.sin(2 * np.pi * rng.uniform(200, 3000) * t) for _ in range(round(duration_s * 10))]
    return (0.3 * np.concatenate(bursts)).astype(np.float32)


def _clip(key: str, text: str, waveform: np.ndarray) -> Clip:
    utterance = Utterance(key, "c", "train", "en", (Part(text, "narrator"),), text)
    return Clip(utterance, waveform.astype(np.float32), RATE)


def _survey(step: Contamination, clips: list[Clip]) -> tuple[list[str], Drops]:
    looks = ((clip.utterance.key, json.loads(json.dumps(step.look(clip)))) for clip in clips)
    verdicts = json.loads(json.dumps(step.judge(looks)))
    drops = Drops()
    kept = [step.apply(clip, verdicts.get(clip.utterance.key), drops) for clip in clips]
    return [clip.utterance.key for clip in kept if clip is not None], drops


def _sample(number: int, text: str) -> Sample:
    return Sample(f"eval-{number}", "eval", "test", "en", "", text, (Span(text, 0.0, 3.0, "narrator"),), duration_s=3.0)


def test_planted_leaks_of_sound_and_text_are_found(tmp_path: Path) -> None:
    texts = [" ".join(f"w{number}x{i}" for i in range(9)) for number in range(10)]
    shard = tmp_path / "eval-test-000000.tar"
    write_shard([(_sample(i, texts[i]), _noise(i, 3.0)) for i in range(10)], shard, {})
    rng = np.random.default_rng(0)
    clips, planted = [], {}
    for number in range(40):
        own, text = _noise(1000 + number, 4.0), f"own text number {number} with some more words in it"
        if number % 8 == 0:  # an evaluation clip lies inside a longer one, quieter and with noise
            of = number // 8
            own = np.concatenate([own, 0.3 * _noise(of, 3.0), own[:RATE]])
            own = own + rng.normal(0, 0.003, len(own))
            planted[f"k{number}"] = ("leaked audio", f"eval-{of}")
        elif number % 8 == 4:  # the text only, spelt otherwise
            of = 5 + number // 8
            text = f"Somebody said: {texts[of].upper().replace(' ', ', ')}! And left."
            planted[f"k{number}"] = ("leaked text", f"eval-{of}")
        clips.append(_clip(f"k{number}", text, own))
    kept, drops = _survey(Contamination([str(tmp_path / "eval-*.tar")]), clips)
    found = {drop.key: (drop.reason, drop.value["of"]) for drop in drops}
    right = {key for key in found if planted.get(key) == found[key]}
    recall, precision = len(right) / len(planted), len(right) / max(len(found), 1)
    assert len(planted) == 10
    assert (recall, precision) == (1.0, 1.0), f"recall {recall:.2f}, precision {precision:.2f}"
    assert len(kept) == 30


def test_a_manifest_serves_too_and_short_texts_leak_nothing(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", _noise(0, 3.0), RATE)
    lines = [
        {"key": "m0", "language": "en", "text": "yes", "audio": "a.wav"},
        {"key": "m1", "language": "en", "text": "one two three"},
    ]
    manifest = tmp_path / "eval.jsonl"
    manifest.write_text("\n".join(json.dumps(line) for line in lines))
    clips = [
        _clip("a", "yes", _noise(5, 2.0)),
        _clip("b", "yes", _noise(0, 3.0)),
        _clip("c", "zero one two three four", _noise(6, 2.0)),
    ]
    kept, drops = _survey(Contamination(manifests=[str(manifest)], min_units=3), clips)
    assert kept == ["a"]
    assert [(d.key, d.reason, d.value["of"]) for d in drops] == [("b", "leaked audio", "m0"), ("c", "leaked text", "m1")]


def test_missing_sets_and_broken_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither shards nor manifests"):
        Contamination()
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        Contamination(manifests=[str(tmp_path / "none.jsonl")]).judge(iter([]))
    (tmp_path / "bad.jsonl").write_text('{"key": "a"}')
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: needs JSON"):
        Contamination(manifests=[str(tmp_path / "bad.jsonl")]).judge(iter([]))
