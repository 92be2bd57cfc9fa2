from __future__ import annotations

import numpy as np
import pytest

from data_prep.steps.duplicates import Duplicates
from data_prep.steps.loudness import Loudness
from data_prep.steps.only import Only
from data_prep.task import specification
from data_prep.utterance import Clip, Drops, Part, Utterance


def _clip(key: str, corpus: str, peak: float) -> Clip:
    waveform = np.full(2400, peak, np.float32)
    return Clip(Utterance(key, corpus, "train", "en", (Part("hello", "user"),), "hello"), waveform, 24_000)


def test_the_other_corpora_pass_in_their_place() -> None:
    clips = [_clip("a", "calm", 1.0), _clip("b", "loud", 1.0), _clip("c", "loud", 0.1), _clip("d", "calm", 0.1)]
    step = Only(Loudness(target_dbfs=-40.0), ["loud"])
    drops = Drops({id(step): "Only-2"})
    kept = list(step(iter(clips), drops))
    assert [(clip.utterance.key, round(float(clip.waveform[0]), 4)) for clip in kept] == [("a", 1.0), ("c", 0.01), ("d", 0.1)]
    assert [(drop.key, drop.step, drop.reason) for drop in drops] == [("b", "Only-2", "clipped")]


def test_the_step_inside_is_part_of_what_a_shard_is_made_of() -> None:
    assert specification(Only(Loudness(), ["a"])) != specification(Only(Loudness(min_dbfs=-50.0), ["a"]))


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"Only: corpora of Loudness is \[\]; give a list of at least one corpus"):
        Only(Loudness(), [])
    with pytest.raises(ValueError, match="Only: Duplicates is a survey, which sees all clips"):
        Only(Duplicates(), ["a"])
