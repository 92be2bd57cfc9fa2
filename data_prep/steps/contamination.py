"""Contamination: training clips whose sound or text lies in an evaluation set are dropped and listed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.audio.fingerprint import RATE, Contents, fingerprint, pack, unpack
from bcaudio.audio.io import read_audio
from bcaudio.data.index import ShardIndex, expand_paths
from bcaudio.text.quotes import Quotes
from data_prep.steps.words import units_of
from data_prep.utterance import Clip, Drops


class Contamination:
    """A survey against evaluation sets.

    Drops: `leaked audio` (the evaluation clip lies in the training clip), `leaked text` (the units of an
    evaluation text occur in the training text in one run). The value names the evaluation sample and the share.

    Memory does not grow with the corpus, and a clip is compared with at most eight evaluation clips (`fingerprint.Contents`):
    against 2,000 of them, one million clips of 10 s take about 14 minutes of judging (scaled from 40,000).

    Args:
        shards: tars (or patterns with *) of the evaluation sets.
        manifests: JSONL files with `key`, `text`, `language` and, if there is sound, `audio`, a path relative to the manifest.
        min_share: of the landmarks of the evaluation clip.
        min_units: shorter evaluation texts (words, hanzi) are no leak when they occur: everybody says "yes".
        audio, text: what to compare.

    Raises:
        ValueError: nothing to compare with, min_share outside (0, 1], or a manifest line without its fields.
        FileNotFoundError: a shard or manifest is not there.
    """

    def __init__(
        self,
        shards: Sequence[str] = (),
        manifests: Sequence[str] = (),
        min_share: float = 0.35,
        min_units: int = 8,
        audio: bool = True,
        text: bool = True,
    ) -> None:
        if not shards and not manifests:
            raise ValueError("Contamination: names neither shards nor manifests; give the evaluation sets")
        if not 0 < min_share <= 1 or min_units < 1:
            raise ValueError(f"Contamination: min_share {min_share} must lie in (0, 1] and min_units {min_units} be at least 1")
        self.shards, self.manifests = list(shards), list(manifests)
        self.min_share, self.min_units, self.audio, self.text = min_share, min_units, audio, text

    def look(self, clip: Clip) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        if self.audio and len(clip.waveform):
            seen["audio"] = pack(fingerprint(clip.waveform, clip.sample_rate))
        if self.text:
            seen["text"] = " ".join(units_of(clip.utterance.text, clip.utterance.language))
        return seen

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        sounds, texts = Contents(), Quotes(self.min_units)
        for key, language, text, waveform in self._evaluation():
            if self.text:
                texts.add(key, units_of(text, language))
            if self.audio and len(waveform):
                sounds.add(key, fingerprint(waveform, RATE))
        verdicts: dict[str, Any] = {}
        for key, look in seen:
            of = next(texts.found(look.get("text", "").split()), None)
            sound = sounds.best(unpack(look["audio"])) if look.get("audio") else None
            if sound is not None and sound[1] >= self.min_share:
                verdicts[key] = {"reason": "leaked audio", "of": sound[0], "share": sound[1]}
            elif of is not None:
                verdicts[key] = {"reason": "leaked text", "of": of}
        return verdicts

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        if verdict is None:
            return clip
        drops.add(clip, self, verdict["reason"], {name: value for name, value in verdict.items() if name != "reason"})
        return None

    def _evaluation(self) -> Iterator[tuple[str, str, str, np.ndarray]]:
        """(key, language, text, waveform at RATE, empty without sound) of every evaluation sample."""
        if self.shards:
            index = ShardIndex(expand_paths(self.shards))
            for i in range(len(index)):
                sample = index.sample(i)
                spoken = self.audio and sample.duration_s > 0
                yield sample.key, sample.language, sample.text, index.waveform(i, RATE) if spoken else np.zeros(0, np.float32)
        for name in self.manifests:
            path = Path(name)
            if not path.is_file():
                raise FileNotFoundError(f"Contamination: {path}: no such manifest")
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    entry = json.loads(line)
                    key, language, text = entry["key"], entry["language"], entry["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}:{number}: needs JSON with key, language and text ({error!r})") from error
                spoken = self.audio and entry.get("audio")
                yield key, language, text, read_audio(path.parent / entry["audio"], RATE) if spoken else np.zeros(0, np.float32)
