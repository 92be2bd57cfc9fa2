from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from data_prep.steps.speakers import NUM_TREES, CheckSpeakers, ClusterSpeakers, cluster, leaves
from data_prep.utterance import Clip, Drops, Part, Timbre, Utterance


class First:
    """The first two samples are the direction."""

    same_speaker = 0.9

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        return waveform[:2].astype(np.float64) / np.linalg.norm(waveform[:2])


def _clip(key: str, degrees: float | None, speaker: str = "") -> Clip:
    waveform = [] if degrees is None else [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]
    return Clip(Utterance(key, "c", "train", "en", (Part("", "user"),), "", speaker), np.array(waveform, np.float32), 1)


def _survey(step: Any, clips: list[Clip]) -> tuple[dict[str, Clip], Drops]:
    looks = ((clip.utterance.key, json.loads(json.dumps(step.look(clip)))) for clip in clips)
    verdicts = json.loads(json.dumps(step.judge(looks)))
    drops = Drops()
    kept = [step.apply(clip, verdicts.get(clip.utterance.key), drops) for clip in clips]
    return {clip.utterance.key: clip for clip in kept if clip is not None}, drops


def test_near_voices_get_one_name_and_rare_ones_go() -> None:
    clips = [_clip("a", 0), _clip("b", 90), _clip("c", 5), _clip("d", 85), _clip("e", 180), _clip("t", None)]
    kept, drops = _survey(ClusterSpeakers(First()), clips)
    names = {key: clip.utterance.speaker for key, clip in kept.items()}
    assert names == dict(zip("abcdet", [f"speaker-0000{i}" for i in (0, 1, 0, 1, 2)] + [""], strict=True))
    assert not drops
    kept, drops = _survey(ClusterSpeakers(First(), min_clips=2, prefix="s"), clips)
    assert [(d.key, d.reason, d.value) for d in drops] == [("e", "rare speaker", 1)]


def test_the_second_pass_puts_a_clip_to_the_nearest_of_all_speakers() -> None:
    # a cosine of 0.9 is 25.8 degrees: b joins a (mean 10), c begins its own, d joins c; then the means are 10 and 35
    clips = [_clip("a", 0), _clip("b", 20), _clip("c", 40), _clip("d", 30)]
    kept, _ = _survey(ClusterSpeakers(First()), clips)
    assert [clip.utterance.speaker[-1] for clip in kept.values()] == ["0", "0", "1", "1"]


def test_a_clip_unlike_the_others_of_its_name_is_dropped() -> None:
    clips = [*(_clip(f"a{i}", i, "ann") for i in range(3)), _clip("x", 120, "ann"), _clip("solo", 0, "bob"), _clip("none", 50)]
    kept, drops = _survey(CheckSpeakers(First(), min_similarity=0.5), clips)
    assert set(kept) == {"a0", "a1", "a2", "solo", "none"}
    [drop] = drops
    assert (drop.key, drop.reason) == ("x", "unlike its speaker")
    assert drop.value == pytest.approx(np.cos(np.radians(119)), abs=1e-3)  # the mean of the others points to 1 degree
    assert "speaker_match" not in kept["solo"].measures
    assert [d.key for d in _survey(CheckSpeakers(First(), 0.5, min_clips=2), clips)[1]] == ["x", "solo"]


def test_espeak_voices_are_told_apart() -> None:
    pytest.importorskip("espeakng_loader")
    from data_prep.steps.synthesize import synthesize

    voices = [Timbre(*voice, 185) for voice in (("Hugo", 42), ("f1", 48), ("klatt2", 45), ("pablo", 50))]
    texts = [
        "tom has three red apples and gives them to me",
        "now there are seven of them in the big house",
        "leo buys nine more",
    ]
    clips, truth = [], []
    for text in texts:
        for voice in voices:
            utterance = Utterance(f"k{len(clips)}", "c", "train", "en", (Part(text, "user"),), text)
            clips.append(Clip(utterance, synthesize(text, "en", voice).waveform, 24_000))
            truth.append(voice.id)
    kept, _ = _survey(ClusterSpeakers(), clips)
    pairs = {(name, clip.utterance.speaker) for name, clip in zip(truth, kept.values(), strict=True)}
    assert len(pairs) == 4, pairs
    assert len({speaker for _, speaker in pairs}) == 4


def _voices(num_clips: int, clips_each: int) -> tuple[np.ndarray, np.ndarray]:
    """float [N, 24] directions in random order with a cosine of 0.97 to their speaker's, and the speaker of each."""
    rng = np.random.default_rng(0)
    speaker = rng.permutation(np.arange(num_clips) // clips_each)
    means = rng.normal(size=(num_clips // clips_each, 24))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    vectors = means[speaker] + 0.25 / np.sqrt(24) * rng.normal(size=(num_clips, 24))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), speaker


def test_many_speakers_are_found_and_comparisons_grow_with_the_corpus_only() -> None:
    compared = []
    for num_clips in (1500, 3000, 6000):
        vectors, speaker = _voices(num_clips, clips_each=10)
        owner, count = cluster(vectors, 0.85, max_compared=128)
        pairs = np.unique(np.stack([speaker, owner]), axis=1).shape[1]
        assert pairs <= 1.03 * num_clips / 10  # a speaker in two parts counts twice
        assert len(np.unique(owner)) >= 0.98 * num_clips / 10
        compared.append(count)
    assert compared[2] <= 4.8 * compared[0], compared  # linear would be 4, quadratic 16


def test_few_speakers_are_compared_with_all_of_them() -> None:
    vectors, speaker = _voices(600, clips_each=30)
    owner, compared = cluster(vectors, 0.85, max_compared=64)
    assert len({*zip(speaker.tolist(), owner.tolist(), strict=True)}) == 20
    assert compared <= 2 * 600 * 20


def test_leaves_part_every_tree_wholly() -> None:
    vectors, _ = _voices(1000, clips_each=10)
    found = leaves(vectors, 30)
    assert found.shape == (1000, NUM_TREES)
    for tree in range(NUM_TREES):
        sizes = np.unique(found[:, tree], return_counts=True)[1]
        assert sizes.sum() == 1000
        assert sizes.max() <= 30
    assert len(np.unique(found)) == sum(len(np.unique(found[:, tree])) for tree in range(NUM_TREES))
    assert (leaves(np.ones((100, 3)), 30) >= 0).all()  # equal vectors are halved too


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="max_compared is 10"):
        ClusterSpeakers(First(), max_compared=10)
    with pytest.raises(ValueError, match="ClusterSpeakers: min_similarity 2"):
        ClusterSpeakers(First(), min_similarity=2)
    with pytest.raises(ValueError, match=r"min_similarity .* must lie"):
        CheckSpeakers(First(), min_clips=0)
