"""AISHELL-1: read Mandarin, 16 kHz wav."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Row, choose, split_lines
from bcaudio.evaluation.corpora.recording import Recording

SPEAKERS = {"dev": range(724, 764), "test": range(764, 1000)}  # numbers; the one transcript holds those of train too


@dataclass(frozen=True)
class Aishell(PublishedCorpus):
    """The dev or test set of AISHELL-1; the blanks that the transcript has between words are left out.

    Which lines belong to a set is told by the speaker's number, so that a speaker who was never unpacked is missed.

    Args:
        root: the folder `data_aishell`.
        subset: dev or test.
    """

    root: str | Path
    subset: str = "test"

    title: ClassVar[str] = "AISHELL-1"
    site: ClassVar[str] = "https://www.openslr.org/33"
    layout: ClassVar[str] = (
        "ROOT/transcript/aishell_transcript_v0.8.txt and ROOT/wav/test/S0764/BAC009S0764W0121.wav (wav/*.tar.gz unpacked)"
    )

    def __post_init__(self) -> None:
        choose("Aishell: subset", self.subset, list(SPEAKERS))

    @property
    def split(self) -> str:
        """The subset."""
        return self.subset

    def rows(self) -> Iterator[Row]:
        """In the order of the transcript."""
        folder = self.require(self.root, "wav", self.subset)
        for where, (name, text) in split_lines(self.require(self.root, "transcript", "aishell_transcript_v0.8.txt"), 2, None):
            speaker = name[6:11]  # BAC009 S0764 W0121
            if not speaker[1:].isdecimal():
                raise ValueError(f"{where}: {name!r} holds no speaker such as S0764; restore the file")
            if int(speaker[1:]) in SPEAKERS[self.subset]:
                audio = Recording(folder / speaker / f"{name}.wav")
                yield Row(name, "".join(text.split()), where, "zh", audio, speaker=speaker)
