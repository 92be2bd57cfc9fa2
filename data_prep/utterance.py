"""What sources and steps hand on: an utterance still without audio, a clip with it, and the reasons to drop one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Timbre:
    """A synthetic voice: an espeak-ng voice variant, its base pitch (0-99) and rate (words per minute)."""

    variant: str
    pitch: int
    rate: int

    @property
    def id(self) -> str:
        """The speaker name in samples, e.g. `f2-p50-r190`."""
        return f"{self.variant}-p{self.pitch}-r{self.rate}"


@dataclass(frozen=True)
class Part:
    """One span to be: its words, its role and the voice to speak it (None: text only, or recorded)."""

    text: str
    role: str
    timbre: Timbre | None = None


@dataclass(frozen=True)
class Utterance:
    """A sample to be.

    Args:
        key, corpus, split, language, translation, target_language, answer, source, licence: as in `bcaudio.data.schema.Sample`.
        parts: the spans, in order.
        text: transcript of the whole.
        audio: a recording: a path, relative to the scratch folder, or a URL that fsspec opens; `x.tar#member` and `x.parquet#row`
            name one inside a file. None where the parts are synthesised or text only.
        start_s, end_s: the stretch of the recording that is meant, in seconds; end_s None: to its end.
        speaker: speaker id.
        duration_s: what the source says of the stretch's length; a recording that disagrees is dropped.
    """

    key: str
    corpus: str
    split: str
    language: str
    parts: tuple[Part, ...]
    text: str
    speaker: str = ""
    translation: str | None = None
    target_language: str | None = None
    answer: str | None = None
    source: str = ""
    licence: str = ""
    audio: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    duration_s: float | None = None


@dataclass
class Listing:
    """The utterances of a source, and how many it dropped for which reason."""

    utterances: list[Utterance]
    dropped: dict[str, int] = field(default_factory=dict)


class Source(Protocol):
    """A corpus. `samples_per_shard` is its shard size; `for_tokenizer`: its training texts go into `text.txt`."""

    corpus: str
    samples_per_shard: int
    for_tokenizer: bool

    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        """All utterances, a pure function of the source and `seed`; recordings may be unpacked into `scratch`.

        Raises:
            CorpusUnavailable: the corpus cannot be had on this machine; the run goes on without it.
        """
        ...


class CorpusUnavailable(Exception):
    """A corpus cannot be fetched here; the message is the one-line warning."""


class MissingExtra(ValueError):
    """A package is not installed, so no clip would pass: the run stops. The message says which `pip install` brings it."""


class Rejected(Exception):
    """An utterance goes to quarantine.

    Args:
        reason: one of a few words, counted per reason.
        value: what was found.
        duration_s: seconds of sound that are lost by it, as far as they are known.
    """

    def __init__(self, reason: str, value: Any, duration_s: float = 0.0) -> None:
        super().__init__(f"{reason}: {value}")
        self.reason, self.value, self.duration_s = reason, value, duration_s


@dataclass(frozen=True)
class Word:
    """A word (in Chinese mostly one hanzi) and its time in the clip, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Clip:
    """An utterance with its sound, on its way through the steps.

    Args:
        utterance: what it is; a step that cuts, renames or retells replaces it (`dataclasses.replace`).
        waveform: float32 [N] in [-1, 1]; empty for text only.
        sample_rate: Hz.
        words: alignment, in time order; empty until a step aligns.
        spans: (start_s, end_s) of every part of the utterance; empty means one part that fills the clip.
        measures: what steps found, by name: `snr_db`, `mos`, `transcript`, ... JSON values only.
    """

    utterance: Utterance
    waveform: np.ndarray
    sample_rate: int
    words: tuple[Word, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class Drop:
    """Sound that a step left out: all of a clip, or a stretch of it (`duration_s`)."""

    key: str
    step: str
    reason: str
    value: Any
    duration_s: float


class Drops(list[Drop]):
    """The drops of a task, in order; every second that goes in comes out or is here.

    Args:
        names: of the steps, by `id`; a step without one is called by its class.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        super().__init__()
        self.names = names or {}

    def add(self, clip: Clip, step: object, reason: str, value: Any = None, duration_s: float | None = None) -> None:
        """Note that `step` drops a clip, or `duration_s` of it, for a reason of a few words."""
        length = clip.duration_s if duration_s is None else duration_s
        name = self.names.get(id(step), type(step).__name__)
        self.append(Drop(clip.utterance.key, name, reason, value, round(length, 4)))


class Step(Protocol):
    """One transform: clips in, clips out, lazily. Models are loaded at the first call, in the process that works."""

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        """Clips that stay, changed or not, in the order of their sources; the others go to `drops` with a reason."""
        ...


class Survey(Protocol):
    """A step that must see all clips before it judges one: duplicates, speakers, contamination.

    Between the two passes the pipeline writes the clips to disk; `look` runs where the clips are, `judge` once, in the driver.
    """

    def look(self, clip: Clip) -> Any:
        """What the judgement needs of one clip, as JSON: a fingerprint, an embedding."""
        ...

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        """(key, look) of all clips, in the order of the shards -> verdicts by key, as JSON; a missing key has none."""
        ...

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        """The clip, changed or not, or None once it is noted in `drops`."""
        ...


class CorpusSource:
    """Base of sources that read a corpus from disk: a subclass names the corpus and yields its utterances.

    Args:
        corpus: name in keys, shards and reports.
        samples_per_shard: at most so many per tar.
    """

    for_tokenizer = True

    def __init__(self, corpus: str, samples_per_shard: int = 256) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"{corpus}: samples_per_shard is {samples_per_shard}; it must be at least 1")
        self.corpus, self.samples_per_shard = corpus, samples_per_shard

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """All utterances, in an order that depends on the corpus alone; lines that cannot be used are counted in `dropped`.

        Raises:
            FileNotFoundError: the corpus is not there; the message says where it is published and how it must lie.
        """
        raise NotImplementedError

    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        """The same as a list; `seed` and `scratch` are not used."""
        dropped: Counter[str] = Counter()
        return Listing(list(self.utterances(dropped)), dict(dropped))
