"""What the sources of published corpora share: where the corpus must lie, and how one recording becomes an utterance."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bcaudio.data.schema import LANGUAGE, SPLITS
from data_prep.utterance import CorpusSource, Part, Utterance

MAX_KEY = 80  # letters, as in `bcaudio.data.schema.Sample`


def make_key(corpus: str, split: str, name: str) -> str:
    """`<corpus>-<split>-<name>` of [a-zA-Z0-9_-] and at most 80 letters.

    A name that has to be changed for that gets eight hexadecimal digits of its hash, so that two names never share a key.
    """
    key = f"{corpus}-{split}-{name}"
    plain = re.sub(r"[^a-zA-Z0-9_-]+", "-", key)
    if plain == key and len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: MAX_KEY - 9]}-{digest}"


def choose(where: str, chosen: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`chosen` as it is. Raises ValueError for nothing, for a name twice and, with the nearest, for one that is not `known`."""
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.3)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where}: {name!r} is unknown; {hint}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{where}: {list(chosen)} must name at least one, each once; known are {', '.join(known)}")
    return tuple(chosen)


class RecordedCorpus(CorpusSource):
    """Base of sources whose recordings lie on disk: a subclass sets the four words below and writes `utterances`.

    Args:
        root: folder of the corpus.
        corpus: name in keys, shards and reports.
        language: a code such as en, zh or yue.
        samples_per_shard: at most so many per tar.

    Raises:
        ValueError: a language that is no code, or a corpus name that cannot stand in a key.
    """

    title = ""  # what samples name as their source
    licence = ""  # as its publishers state it
    site = ""  # where it is published
    layout = ""  # how it must lie below `root`
    role = "user"

    def __init__(self, root: str | Path, corpus: str, language: str, samples_per_shard: int = 256) -> None:
        super().__init__(corpus, samples_per_shard)
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,30}", corpus):
            raise ValueError(f"{type(self).__name__}: corpus is {corpus!r}; use 1 to 30 of the letters a-z, A-Z, 0-9, _ and -")
        if not LANGUAGE.fullmatch(language):
            raise ValueError(f"{corpus}: language is {language!r}; give its code, such as en, zh or yue")
        self.root, self.language = Path(os.path.abspath(Path(root).expanduser())), language

    def _require(self, *parts: str) -> Path:
        """A file or folder below `root`. Raises FileNotFoundError with site and layout."""
        path = self.root.joinpath(*parts)
        if not path.exists():
            published = f"{self.title} is published at {self.site}; " if self.site else ""
            raise FileNotFoundError(f"{path}: not there; {published}it must lie as {self.layout}")
        return path

    def _utterance(
        self,
        dropped: Counter[str],
        split: str,
        name: str,
        audio: str | Path | None,
        text: str,
        check_audio: bool = True,
        **fields: Any,
    ) -> Iterator[Utterance]:
        """One utterance, or none and a count in `dropped`. A local recording is looked for if `check_audio`."""
        text, role = " ".join(text.split()), fields.pop("role", self.role)
        fields = {"language": self.language, "source": self.title, "licence": self.licence, **fields}
        reason = _unusable(split, text, fields)
        audio = None if audio is None else str(audio)
        if not reason and check_audio and audio and "://" not in audio and "#" not in audio and not os.path.isfile(audio):
            reason = "missing audio file"
        if reason:
            dropped[reason] += 1
            return
        yield Utterance(
            key=make_key(self.corpus, split, name),
            corpus=self.corpus,
            split=split,
            parts=(Part(text, role),),
            text=text,
            audio=audio,
            **fields,
        )


def _unusable(split: str, text: str, fields: dict[str, Any]) -> str:
    if not text:
        return "no text"
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair from JSON
        return "wrong text encoding"
    start_s, end_s = fields.get("start_s", 0.0), fields.get("end_s")
    if start_s < 0 or (end_s is not None and end_s <= start_s):
        return "no such stretch"
    if not all(LANGUAGE.fullmatch(code) for code in (fields["language"], fields.get("target_language") or "en")):
        return "no language code"
    return "" if split in SPLITS else "unknown split"
