"""A Kaldi data directory: wav.scp, text, and where they are there segments and utt2spk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bcaudio.data.schema import SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import split_lines, text_lines
from data_prep.utterance import Utterance


class Table:
    """A file of lines `id value`, asked by id.

    Kaldi keeps such files in C order. As long as file and questions rise, it is read along with the questions; else it is held in
    memory.
    """

    def __init__(self, path: Path, dropped: Counter[str]) -> None:
        self.path, self.num_lines, self.num_found = path, 0, 0
        self._rows: dict[str, str] | None = None
        last, rises = "", True
        for key, _ in split_lines(path, dropped, 2, separator=None):
            self.num_lines += 1
            last, rises = key, rises and last < key
        if not rises:
            self._hold()
        self._lines = split_lines(path, Counter(), 2, separator=None)  # its bad lines are counted already
        self._current, self._asked = ("", ""), ""

    def get(self, key: str) -> str | None:
        """The value of `key`, or None."""
        if self._rows is None and key <= self._asked:
            self._hold()
        if self._rows is None:
            self._asked = key
            while self._current[0] < key:
                key_and_value = next(self._lines, None)
                if key_and_value is None:
                    return None
                self._current = (key_and_value[0], key_and_value[1])
            value = self._current[1] if self._current[0] == key else None
        else:
            value = self._rows.get(key)
        self.num_found += value is not None
        return value

    def _hold(self) -> None:
        self._rows = {columns[0]: columns[1] for columns in split_lines(self.path, Counter(), 2, separator=None)}


class Kaldi(RecordedCorpus):
    """Utterances of a Kaldi data directory, in the order of `segments`, or of `wav.scp` where there is none.

    Args:
        root: the directory.
        language: of all utterances.
        split: train, dev or test, of all utterances.
        audio_root: where relative paths in wav.scp start (Kaldi: the folder of the recipe); None: `root`.
        source, licence: what samples say about where they come from.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title = "Kaldi directory"
    layout = "ROOT/{wav.scp, text} and, if there are such, ROOT/{segments, utt2spk}"

    def __init__(
        self,
        root: str | Path,
        language: str,
        split: str = "train",
        audio_root: str | Path | None = None,
        source: str = "Kaldi directory",
        licence: str = "",
        corpus: str = "kaldi",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, language, samples_per_shard)
        self.split = choose(f"{corpus}: split", [split], SPLITS)[0]
        self.audio_root = self.root if audio_root is None else Path(os.path.abspath(audio_root))
        self.title, self.licence = source, licence

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """All utterances; what has only a recording is `no text`, what has only a text is `text without audio`.

        Raises:
            FileNotFoundError: wav.scp or text is not there.
            ValueError: a line of wav.scp is a command.
        """
        scp, texts = self._require("wav.scp"), Table(self._require("text"), dropped)
        speakers = Table(self.root / "utt2spk", dropped) if (self.root / "utt2spk").exists() else None
        for name, audio, start_s, end_s in self._stretches(scp, dropped):
            text, speaker = texts.get(name), speakers.get(name) if speakers else None
            times = {"start_s": start_s, "end_s": end_s}
            yield from self._utterance(dropped, self.split, name, audio, text or "", speaker=speaker or "", **times)
        if texts.num_lines > texts.num_found:
            dropped["text without audio"] += texts.num_lines - texts.num_found

    def _stretches(self, scp: Path, dropped: Counter[str]) -> Iterator[tuple[str, str | Path, float, float | None]]:
        """(utterance, recording, start_s, end_s); with segments the recordings, which are few then, are held in memory."""
        refuse_commands(scp)
        recordings = ((name, self._audio(value)) for name, value in split_lines(scp, dropped, 2, separator=None))
        if not (self.root / "segments").exists():
            yield from ((name, audio, 0.0, None) for name, audio in recordings)
            return
        audio_of = dict(recordings)
        for _, line in text_lines(self.root / "segments", dropped):
            columns = line.split()
            if len(columns) != 4:
                dropped["wrong column count"] += 1
                continue
            try:
                start_s, end_s = float(columns[2]), float(columns[3])
            except ValueError:
                dropped["bad time"] += 1
                continue
            if columns[1] not in audio_of:
                dropped["no such recording"] += 1
                continue
            yield columns[0], audio_of[columns[1]], start_s, end_s if end_s > 0 else None  # -1: to the end

    def _audio(self, value: str) -> str | Path:
        value = value.strip()
        return value if "://" in value else self.audio_root / value


def refuse_commands(scp: Path) -> None:
    """Raises ValueError for a wav.scp with a pipe: reading it would run the command."""
    for number, line in text_lines(scp, Counter()):
        if line.rstrip().endswith("|") or line.partition(" ")[2].lstrip().startswith("|"):
            raise ValueError(
                f"{scp}:{number}: {line[:80]!r} is a command, and no code of a corpus is run; run it and list the file it makes"
            )
