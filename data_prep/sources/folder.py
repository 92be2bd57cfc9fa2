"""A folder of recordings, each with its text beside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bcaudio.data.schema import SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.utterance import Utterance

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".g722", ".webm")
TEXT_SUFFIXES = (".normalized.txt", ".txt", ".lab")  # the first that is there


class Folder(RecordedCorpus):
    """Every recording below a folder whose text lies beside it under the same name.

    Args:
        root: the folder.
        language: of all recordings.
        split: train, dev or test, of all recordings.
        speaker_from_folder: the folder that holds a recording is its speaker; else the speaker is not known.
        source, licence: what samples say about where they come from.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    layout = (
        "ROOT/any/folder/{a.wav, a.txt}; text also as a.normalized.txt or a.lab, audio as flac, ogg, opus, mp3, m4a, g722, webm"
    )

    def __init__(
        self,
        root: str | Path,
        language: str,
        split: str = "train",
        speaker_from_folder: bool = False,
        source: str = "local folder",
        licence: str = "",
        corpus: str = "folder",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, language, samples_per_shard)
        self.split = choose(f"{corpus}: split", [split], SPLITS)[0]
        self.speaker_from_folder, self.title, self.licence = speaker_from_folder, source, licence

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Folder by folder, names in order; the key is made of the path below `root`."""
        self._require()
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            for file in sorted(files):
                audio = Path(folder, file)
                if audio.suffix.lower() not in AUDIO_SUFFIXES:
                    continue
                text = _read_text(audio)
                if text is None:
                    dropped["wrong text encoding"] += 1
                    continue
                name = str(audio.relative_to(self.root).with_suffix(""))
                speaker = audio.parent.name if self.speaker_from_folder else ""
                yield from self._utterance(dropped, self.split, name, audio, text, speaker=speaker)


def _read_text(audio: Path) -> str | None:
    """The text beside a recording; empty where there is none, None where it is not UTF-8."""
    for suffix in TEXT_SUFFIXES:
        path = audio.with_name(audio.stem + suffix)
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                return None
            return None if "\0" in text else text
    return ""
