"""A list of one's own: a table or JSON lines with id, audio, text and language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bcaudio.data.schema import LANGUAGE
from bcaudio.evaluation.corpora.files import Listing, PublishedCorpus, Row, json_lines, tsv_rows
from bcaudio.evaluation.corpora.recording import Recording

_SAMPLE = ("translation", "target_language", "answer", "speaker")


@dataclass(frozen=True)
class PlainList(PublishedCorpus):
    """Items of a `.tsv` with a header, or of a `.jsonl`.

    Columns: `id` and `text`; `language` unless it is given below; `audio` (a path relative to the list, or `x.tar#member`; none
    for texts to speak); `duration_s`, `translation`, `target_language`, `answer`, `speaker` as in a sample; `prompt_audio`, a
    path too. All others become fields, as they are.

    Args:
        path: the list.
        language: of rows that do not say theirs.
        role: of the span: `user` where the sound is heard, `narrator` for texts to speak.
    """

    path: str | Path
    language: str | None = None
    role: str = "user"

    title: ClassVar[str] = "plain list"
    site: ClassVar[str] = ""
    layout: ClassVar[str] = "a .tsv with the header id, audio, text, language, or a .jsonl with these keys"

    def rows(self) -> Iterator[Row]:
        """In the order of the list."""
        path, there = Path(self.path).expanduser(), Listing()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such list; it must be {self.layout}")
        if path.suffix not in (".tsv", ".jsonl"):
            raise ValueError(f"{path}: is neither .tsv nor .jsonl; it must be {self.layout}")
        for where, entry in tsv_rows(path, ("id", "text")) if path.suffix == ".tsv" else json_lines(path):
            yield self._row(where, {name: value for name, value in entry.items() if value not in (None, "")}, path.parent, there)

    def _row(self, where: str, entry: dict[str, Any], folder: Path, there: Listing) -> Row:
        for name in ("id", "text", "audio", "language", "prompt_audio", *_SAMPLE):
            if not isinstance(entry.get(name, ""), str):
                raise ValueError(f"{where}: {name} is {entry[name]!r}; it must be a string")
        name, text, audio = entry.pop("id", ""), entry.pop("text", ""), entry.pop("audio", "")
        language = entry.pop("language", self.language)
        if not name:
            raise ValueError(f"{where}: has no id; give every item one of its own")
        for code in (language, entry.get("target_language", language)):
            if code is None or not LANGUAGE.fullmatch(code):
                raise ValueError(f"{where}: language is {code!r}; give its code, such as en, zh or yue")
        try:
            duration_s = float(entry.pop("duration_s", 0.0))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: duration_s is no number of seconds ({error})") from error
        problem, sample = "", {name: entry.pop(name) for name in _SAMPLE if name in entry}
        if "prompt_audio" in entry:
            entry["prompt_audio"] = folder / entry["prompt_audio"]
            problem = "" if there.has(entry["prompt_audio"]) else f"missing audio: {entry['prompt_audio']}"
        recording = Recording.at(folder, audio) if audio else None
        return Row(name, text.strip(), where, language, recording, duration_s=duration_s, fields=entry, problem=problem, **sample)
