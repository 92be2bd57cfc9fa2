"""Texts without sound: a text per line, or JSONL with a text in every object."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bcaudio.data.schema import SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import json_lines, text_lines
from data_prep.utterance import Utterance


class TextCorpus(RecordedCorpus):
    """One utterance without audio per line of the files in a folder (or of one file).

    Args:
        root: a folder, or a file.
        language: of all lines.
        files: pattern of the names below a folder; `.gz` is unpacked on the way, `.jsonl` (and `.jsonl.gz`) is JSON.
        text: name of the text in JSON objects.
        split: train, dev or test, of all lines.
        role: user, assistant or narrator.
        source, licence: what samples say about where they come from.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title = "text corpus"
    layout = 'ROOT/a.txt, one text per line, or ROOT/a.jsonl with lines like {"text": "hello"}; .gz of both'

    def __init__(
        self,
        root: str | Path,
        language: str,
        files: str = "**/*.txt",
        text: str = "text",
        split: str = "train",
        role: str = "narrator",
        source: str = "text corpus",
        licence: str = "",
        corpus: str = "text",
        samples_per_shard: int = 4096,
    ) -> None:
        super().__init__(root, corpus, language, samples_per_shard)
        self.files, self.text = files, text
        self.split = choose(f"{corpus}: split", [split], SPLITS)[0]
        self.role = choose(f"{corpus}: role", [role], ("user", "assistant", "narrator"))[0]
        self.title, self.licence = source, licence

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """File by file, line by line; the key is made of the file's path and the number of the line."""
        self._require()
        paths = [self.root] if self.root.is_file() else sorted(path for path in self.root.glob(self.files) if path.is_file())
        if not paths:
            raise FileNotFoundError(f"{self.root}/{self.files}: no such file; it must lie as {self.layout}")
        for path in paths:
            base = self.root.parent if path == self.root else self.root
            name = os.path.splitext(str(path.relative_to(base)).removesuffix(".gz"))[0]
            for number, text in self._texts(path, dropped):
                yield from self._utterance(dropped, self.split, f"{name}-{number:08d}", None, text)

    def _texts(self, path: Path, dropped: Counter[str]) -> Iterator[tuple[int, str]]:
        if not path.name.removesuffix(".gz").endswith(".jsonl"):
            yield from text_lines(path, dropped)
            return
        for number, item in json_lines(path, dropped):
            if isinstance(item.get(self.text), str):
                yield number, item[self.text]
            else:
                dropped["no text"] += 1
