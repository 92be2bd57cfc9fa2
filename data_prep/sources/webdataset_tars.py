"""WebDataset tars: `key.flac` (wav, mp3, ...) beside `key.txt` or `key.json`."""

from __future__ import annotations

import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bcaudio.data.schema import SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.folder import AUDIO_SUFFIXES
from data_prep.steps.read import unsafe_member
from data_prep.utterance import Utterance

_TEXTS = (".txt", ".json")
_FIELDS = ("speaker", "language", "translation", "target_language", "answer")
_LARGEST_TEXT = 1 << 20  # bytes


class WebDatasetTars(RecordedCorpus):
    """One utterance per key; recordings stay where they are (`x.tar#member`).

    Args:
        root: folder of the tars.
        language: of the samples whose json names none.
        files: pattern of the tars' names below `root`.
        split: train, dev or test, of all samples.
        text: name of the transcript in `key.json`; speaker, language, translation, target_language and answer are taken from
            there too.
        source, licence: what samples say about where they come from.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title = "WebDataset tars"
    layout = "ROOT/000000.tar with members a.flac (wav, mp3, ...) and a.txt or a.json, the members of a key one after the other"

    def __init__(
        self,
        root: str | Path,
        language: str,
        files: str = "**/*.tar",
        split: str = "train",
        text: str = "text",
        source: str = "WebDataset tars",
        licence: str = "",
        corpus: str = "webdataset",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, language, samples_per_shard)
        self.files, self.text, self.split = files, text, choose(f"{corpus}: split", [split], SPLITS)[0]
        self.title, self.licence = source, licence

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Tar by tar, in the order of the members; a broken header or a cut end is counted, what stands before it is used.

        Raises:
            FileNotFoundError: no file fits the pattern.
        """
        self._require()
        paths = sorted(path for path in self.root.glob(self.files) if path.is_file())
        if not paths:
            raise FileNotFoundError(f"{self.root}/{self.files}: no such file; it must lie as {self.layout}")
        for path in paths:
            key, audio, text = "", "", b""
            for member, content in _members(path, dropped):
                folder, _, file = member.rpartition("/")
                stem, _, suffix = file.partition(".")
                if key and (folder, stem) != key:
                    yield from self._sample(path, key, audio, text, dropped)
                    audio, text = "", b""
                key = (folder, stem)
                if f".{suffix}".lower() in AUDIO_SUFFIXES:
                    audio = member
                elif f".{suffix}".lower() in _TEXTS:
                    text = content
            if key:
                yield from self._sample(path, key, audio, text, dropped)

    def _sample(self, path: Path, key: tuple[str, str], audio: str, text: bytes, dropped: Counter[str]) -> Iterator[Utterance]:
        if not audio:
            dropped["missing audio file"] += 1
            return
        try:
            transcript, fields = text.decode("utf-8-sig"), {}
            if text.lstrip()[:1] == b"{":
                item = json.loads(transcript)
                transcript, fields = item.get(self.text) or "", {k: item[k] for k in _FIELDS if item.get(k)}
        except UnicodeDecodeError:
            dropped["wrong text encoding"] += 1
            return
        except json.JSONDecodeError:
            dropped["not a JSON object"] += 1
            return
        if not all(isinstance(value, str) for value in (transcript, *fields.values())):
            dropped["wrong type of a value"] += 1
            return
        name = "/".join((str(path.relative_to(self.root).with_suffix("")), *filter(None, key)))
        yield from self._utterance(dropped, self.split, name, f"{path}#{audio}", transcript, **fields)


def _members(path: Path, dropped: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content if it is a text) of the regular files in a tar; links and names that lead out are dropped."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # else all of them stay in memory
                if unsafe_member(member.name) or member.issym() or member.islnk():
                    dropped["unsafe path"] += 1
                elif member.isreg():
                    is_text = member.name.lower().endswith(_TEXTS) and member.size <= _LARGEST_TEXT
                    yield member.name, tar.extractfile(member).read() if is_text else b""
            tar.fileobj.seek(tar.offset)
            end = tar.fileobj.read(tarfile.BLOCKSIZE)
            if end != b"\0" * tarfile.BLOCKSIZE:  # tarfile takes a broken header for the end
                reason = "corrupt tar header" if len(end) == tarfile.BLOCKSIZE else "truncated tar"
                _lost(path, reason, f"from byte {tar.offset} on", dropped)
    except (tarfile.TarError, EOFError) as error:
        _lost(path, "truncated tar", str(error), dropped)


def _lost(path: Path, reason: str, where: str, dropped: Counter[str]) -> None:
    """How many samples a broken tar has lost nobody can say, so the tar is named beside the count."""
    dropped[reason] += 1
    print(f"WARNING: {path}: {reason} ({where}); what lies behind is left out, copy the tar again", file=sys.stderr)
