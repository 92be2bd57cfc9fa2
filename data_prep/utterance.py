"""What a source hands on: an utterance still without audio, and the reasons to drop one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


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
        audio: a recording, relative to the scratch folder; None where the parts are synthesised or text only.
        speaker: speaker id.
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


class Rejected(Exception):
    """An utterance goes to quarantine.

    Args:
        reason: one of a few words, counted per reason.
        value: what was found.
    """

    def __init__(self, reason: str, value: Any) -> None:
        super().__init__(f"{reason}: {value}")
        self.reason, self.value = reason, value
