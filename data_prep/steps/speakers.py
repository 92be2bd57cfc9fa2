"""Speakers over all clips: who is who in crawled sound, and who sounds unlike their name (paper section 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from data_prep.steps.one_speaker import MelStatistics, SpeakerEmbedder
from data_prep.utterance import Clip, Drops


def _look(embedder: SpeakerEmbedder, clip: Clip) -> list[float] | None:
    """An embedding as JSON, None for text only."""
    return [round(float(x), 5) for x in embedder.embed(clip.waveform, clip.sample_rate)] if len(clip.waveform) else None


class ClusterSpeakers:
    """A survey: gives every clip a speaker id by the cosine of its voice to those before it.

    A clip joins the nearest speaker (the mean direction of its clips) if it is near enough, else it begins a new one; a second
    pass puts every clip to the speaker that is nearest once all are known. The ids depend on the order of the shards alone.

    Drops: `rare speaker` (fewer than `min_clips` clips). The speaker becomes `<prefix>00017`.

    Args:
        embedder: `MelStatistics()` unless given.
        min_similarity: cosine from which a clip is of a speaker; that of the embedder unless given.
        min_clips: speakers with fewer are dropped.
        prefix: of the ids.
    """

    def __init__(
        self,
        embedder: SpeakerEmbedder | None = None,
        min_similarity: float | None = None,
        min_clips: int = 1,
        prefix: str = "speaker-",
    ) -> None:
        self.embedder = MelStatistics() if embedder is None else embedder
        self.min_similarity = _checked(self, self.embedder, min_similarity, min_clips)
        self.min_clips, self.prefix = min_clips, prefix

    def look(self, clip: Clip) -> Any:
        return _look(self.embedder, clip)

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        keys, vectors = [], []
        for key, look in seen:
            if look is not None:
                keys.append(key)
                vectors.append(np.array(look))
        sums: list[np.ndarray] = []
        for vector in vectors:
            similarities = _centres(sums) @ vector if sums else np.array([-2.0])
            nearest = int(similarities.argmax())
            if similarities[nearest] >= self.min_similarity:
                sums[nearest] = sums[nearest] + vector
            else:
                sums.append(vector)
        if not vectors:
            return {}
        owner = [int((_centres(sums) @ vector).argmax()) for vector in vectors]
        counts, names = np.bincount(owner, minlength=len(sums)), {}
        verdicts = {}
        for key, number in zip(keys, owner, strict=True):
            name = f"{self.prefix}{names.setdefault(number, len(names)):05d}"
            verdicts[key] = {"speaker": name, "clips": int(counts[number])}
        return verdicts

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        if verdict is None:
            return clip
        if verdict["clips"] < self.min_clips:
            drops.add(clip, self, "rare speaker", verdict["clips"])
            return None
        return replace(clip, utterance=replace(clip.utterance, speaker=verdict["speaker"]))


class CheckSpeakers:
    """A survey: the speaker filter. Clips that sound unlike the others of their named speaker are dropped.

    Drops: `unlike its speaker`, `rare speaker`. Adds the measure `speaker_match`: the cosine to the mean of the speaker's other
    clips. Clips without a speaker, and speakers of one clip, cannot be judged and pass (unless `min_clips` forbids).

    Args:
        embedder: `MelStatistics()` unless given.
        min_similarity: clips below are dropped; that of the embedder unless given.
        min_clips: speakers with fewer are dropped.
    """

    def __init__(self, embedder: SpeakerEmbedder | None = None, min_similarity: float | None = None, min_clips: int = 1) -> None:
        self.embedder = MelStatistics() if embedder is None else embedder
        self.min_similarity = _checked(self, self.embedder, min_similarity, min_clips)
        self.min_clips = min_clips

    def look(self, clip: Clip) -> Any:
        vector = _look(self.embedder, clip) if clip.utterance.speaker else None
        return None if vector is None else {"speaker": clip.utterance.speaker, "vector": vector}

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        of: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
        for key, look in seen:
            if look is not None:
                of[look["speaker"]].append((key, np.array(look["vector"])))
        verdicts = {}
        for clips in of.values():
            total = np.sum([vector for _, vector in clips], axis=0)
            for key, vector in clips:
                others = total - vector
                length = float(np.linalg.norm(others))
                match = round(float(others @ vector) / length, 4) if len(clips) > 1 and length > 0 else None
                verdicts[key] = {"match": match, "clips": len(clips)}
        return verdicts

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        if verdict is None:
            return clip
        if verdict["clips"] < self.min_clips:
            drops.add(clip, self, "rare speaker", verdict["clips"])
            return None
        if verdict["match"] is None:
            return clip
        if verdict["match"] < self.min_similarity:
            drops.add(clip, self, "unlike its speaker", verdict["match"])
            return None
        return replace(clip, measures={**clip.measures, "speaker_match": verdict["match"]})


def _checked(step: object, embedder: SpeakerEmbedder, min_similarity: float | None, min_clips: int) -> float:
    least = embedder.same_speaker if min_similarity is None else min_similarity
    if not -1 <= least <= 1 or min_clips < 1:
        name = type(step).__name__
        raise ValueError(f"{name}: min_similarity {least} must lie in [-1, 1] and min_clips {min_clips} be at least 1")
    return least


def _centres(sums: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack(sums)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
