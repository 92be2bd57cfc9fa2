"""A JSONL manifest: one object per line names a recording and what is said."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bcaudio.data.schema import SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import json_lines
from data_prep.utterance import Utterance

_STRINGS = ("language", "speaker", "translation", "target_language", "answer", "source", "licence", "role")
_TIMES = ("start_s", "end_s", "duration_s")
KEYS = ("key", "audio", "text", "split", *_STRINGS, *_TIMES)


class Manifest(RecordedCorpus):
    """Utterances of a JSONL file.

    A line: `{"audio": "a.wav", "text": "hello"}` and, as needed, key, split, language, speaker, start_s, end_s, duration_s,
    translation, target_language, answer, source, licence, role (user, assistant or narrator). `audio` is a path, absolute or
    relative to the manifest's folder, a URL, or `x.tar#member`; without it the line is text only. With `duration_s`, a recording
    (or stretch) of another length is dropped when it is read: a wrong sample rate in its header, for instance.

    Args:
        path: the manifest; a URL or `.gz` too.
        language, split, licence: of the lines that do not say.
        check_audio: look for every local recording now, instead of when it is read.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title = "manifest"
    layout = 'a file of lines like {"audio": "a.wav", "text": "hello", "speaker": "s1"}'

    def __init__(
        self,
        path: str | Path,
        language: str,
        split: str = "train",
        licence: str = "",
        check_audio: bool = True,
        corpus: str = "manifest",
        samples_per_shard: int = 256,
    ) -> None:
        remote = "://" in str(path)
        super().__init__("." if remote else Path(path).parent, corpus, language, samples_per_shard)
        self.path = str(path) if remote else str(self.root / Path(path).name)
        self.base = self.path.rpartition("/")[0]
        self.split = choose(f"{corpus}: split", [split], SPLITS)[0]
        self.licence, self.check_audio = licence, check_audio

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """In the order of the lines; a line without a key is named by its number.

        Raises:
            FileNotFoundError: no manifest.
            ValueError: a line has a key that is unknown.
        """
        if "://" not in self.path:
            self._require(Path(self.path).name)
        for number, item in json_lines(self.path, dropped):
            for key in item:
                if key not in KEYS:
                    near = difflib.get_close_matches(key, KEYS, 1, 0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
                    raise ValueError(f"{self.path}:{number}: key {key!r} is unknown; {hint}")
            fields = _fields(item)
            if fields is None:
                dropped["wrong type of a value"] += 1
                continue
            name, split, text = (item.get(k, d) for k, d in (("key", f"{number:08d}"), ("split", self.split), ("text", "")))
            audio = item.get("audio")
            if not all(isinstance(value, str) for value in (name, split, text)) or not isinstance(audio, str | None):
                dropped["wrong type of a value"] += 1
                continue
            located = None if audio is None else self._located(audio)
            yield from self._utterance(dropped, split, name, located, text, check_audio=self.check_audio, **fields)

    def _located(self, audio: str) -> str:
        return audio if "://" in audio or audio.startswith("/") else f"{self.base}/{audio}"


def _fields(item: dict[str, Any]) -> dict[str, Any] | None:
    """What goes into the utterance as it is, or None if a value has the wrong type; null is the same as left out."""
    found = {key: item[key] for key in (*_STRINGS, *_TIMES) if item.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str if key in _STRINGS else (int, float)) or isinstance(value, bool):
            return None
    return found if found.get("role", "user") in ("user", "assistant", "narrator") else None
