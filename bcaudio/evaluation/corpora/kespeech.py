"""KeSpeech: read Mandarin and eight of its subdialects, 16 kHz wav, in Kaldi files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Row, choose, split_lines
from bcaudio.evaluation.corpora.recording import Recording

DIALECTS = ("Mandarin", "Beijing", "Ji-Lu", "Jiang-Huai", "Jiao-Liao", "Lan-Yin", "Northeastern", "Southwestern", "Zhongyuan")
NOISE = "<SPOKEN_NOISE>"


@dataclass(frozen=True)
class KeSpeech(PublishedCorpus):
    """An evaluation set of KeSpeech, all of it or one subdialect; the subdialect of an item is `fields["dialect"]`.

    Args:
        root: the folder `KeSpeech`.
        dialect: one of `DIALECTS`; None takes all.
        subset: folder below Tasks/ASR: test, dev_phase1, dev_phase2 ...
    """

    root: str | Path
    dialect: str | None = None
    subset: str = "test"

    title: ClassVar[str] = "KeSpeech"
    site: ClassVar[str] = "https://github.com/KeSpeech/KeSpeech"
    layout: ClassVar[str] = (
        "ROOT/Tasks/ASR/test/{wav.scp, text, utt2spk, utt2subdialect} and ROOT/Audio/1000001/phase1/*.wav (paths in wav.scp "
        "start at ROOT)"
    )

    def __post_init__(self) -> None:
        if self.dialect is not None:
            choose("KeSpeech: dialect", self.dialect, DIALECTS)
        choose("KeSpeech: first part of subset", self.split, ("dev", "test"))

    @property
    def split(self) -> str:
        """dev or test."""
        return self.subset.partition("_")[0]

    def rows(self) -> Iterator[Row]:
        """In the order of `text`, then what only `wav.scp` has."""
        texts, audios, dialects, speakers = (self._table(name) for name in ("text", "wav.scp", "utt2subdialect", "utt2spk"))
        root = self.require(self.root)
        for where, value in audios.values():
            if value.endswith("|") or value.startswith("|"):
                raise ValueError(f"{where}: {value[:60]!r} is a command, and no code of a corpus is run; list a file")
        for name in (*texts, *(name for name in audios if name not in texts)):
            where, text = texts.get(name, (audios[name][0] if name in audios else "", ""))
            dialect = dialects[name][1] if name in dialects else "unknown"
            if self.dialect in (None, dialect):
                yield Row(
                    name,
                    "".join(text.replace(NOISE, "").split()),
                    where,
                    "zh",
                    Recording(root / audios[name][1]) if name in audios else None,
                    speaker=speakers[name][1] if name in speakers else "",
                    fields={"dialect": dialect},
                    problem="" if name in audios else f"missing audio: not in {self.subset}/wav.scp",
                )

    def _table(self, name: str) -> dict[str, tuple[str, str]]:
        """(`file:line`, value) by utterance; ValueError for one that comes twice."""
        table: dict[str, tuple[str, str]] = {}
        for where, (key, value) in split_lines(self.require(self.root, "Tasks", "ASR", self.subset, name), 2, None):
            if key in table:
                raise ValueError(f"{where}: {key!r} comes twice, also at {table[key][0]}; restore the file")
            table[key] = where, value.strip()
        return table
