"""LibriSpeech: read English audiobooks, 16 kHz flac."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Row, choose, split_lines
from bcaudio.evaluation.corpora.recording import Recording
from bcaudio.inference.item import Item

NUM_UTTERANCES = {"dev-clean": 2703, "dev-other": 2864, "test-clean": 2620, "test-other": 2939}


@dataclass(frozen=True)
class LibriSpeech(PublishedCorpus):
    """One of the four evaluation sets of LibriSpeech, the text in capitals as it is published.

    A warning is printed where the number of utterances is not the published one: a chapter that was never unpacked has no list
    in which it would be missed.

    Args:
        root: the folder `LibriSpeech`.
        subset: dev-clean, dev-other, test-clean or test-other.
    """

    root: str | Path
    subset: str = "test-clean"

    title: ClassVar[str] = "LibriSpeech"
    site: ClassVar[str] = "https://www.openslr.org/12"
    layout: ClassVar[str] = "ROOT/test-clean/1089/134686/{1089-134686.trans.txt, 1089-134686-0000.flac}"

    def __post_init__(self) -> None:
        choose("LibriSpeech: subset", self.subset, list(NUM_UTTERANCES))

    @property
    def split(self) -> str:
        """dev or test."""
        return self.subset.partition("-")[0]

    def items(self, where: str) -> list[Item]:
        """As in `PublishedCorpus`."""
        items = super().items(where)
        expected = NUM_UTTERANCES[self.subset]
        if len(items) != expected:
            warnings.warn(f"{where}: {self.subset} of {self.root} has {len(items)} utterances of {expected}", stacklevel=2)
        return items

    def rows(self) -> Iterator[Row]:
        """Chapter by chapter, in the order of the transcripts."""
        for transcript in sorted(self.require(self.root, self.subset).glob("*/*/*.trans.txt")):
            for where, (name, text) in split_lines(transcript, 2, separator=None):
                audio = Recording(transcript.with_name(f"{name}.flac"))
                yield Row(name, text.strip(), where, "en", audio, speaker=name.partition("-")[0])
