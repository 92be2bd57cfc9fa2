"""GigaSpeech: 10,000 hours of English audiobooks, podcasts and YouTube; segments of long opus files, listed in one huge JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bcaudio.data.json_list import json_items
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.utterance import Utterance

SUBSETS = ("XS", "S", "M", "L", "XL", "DEV", "TEST")
PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
GARBAGE = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")  # a segment that is no speech


class GigaSpeech(RecordedCorpus):
    """Segments of GigaSpeech, the text in capitals with punctuation; speaker where the corpus knows one.

    Args:
        root: the folder with `GigaSpeech.json` and `audio`.
        subsets: of `SUBSETS`; a segment comes if it is in one of them. DEV is dev, TEST is test, the others (each within the
            next) training.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "GigaSpeech", "see github.com/SpeechColab/GigaSpeech", "https://github.com/SpeechColab/GigaSpeech"
    layout = "ROOT/GigaSpeech.json and ROOT/audio/podcast/P0000/POD0000000001.opus"

    def __init__(
        self, root: str | Path, subsets: Sequence[str], corpus: str = "gigaspeech", samples_per_shard: int = 256
    ) -> None:
        super().__init__(root, corpus, "en", samples_per_shard)
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """In the order of the JSON; segments that are only noise are dropped as `no speech`."""
        wanted = {f"{{{name}}}" for name in self.subsets}
        for recording in json_items(self._require("GigaSpeech.json"), "audios"):
            try:
                audio, segments = self.root / recording["path"], recording["segments"]
                missing = not audio.is_file()
                for segment in segments:
                    subsets = set(segment["subsets"]) & wanted
                    if not subsets:
                        continue
                    text = read_tags(segment["text_tn"])
                    if text is None or missing:
                        dropped["no speech" if text is None else "missing audio file"] += 1
                        continue
                    speaker = segment.get("speaker") or ""
                    yield from self._utterance(
                        dropped,
                        "test" if "{TEST}" in subsets else "dev" if "{DEV}" in subsets else "train",
                        segment["sid"],
                        audio,
                        text,
                        check_audio=False,
                        start_s=float(segment["begin_time"]),
                        end_s=float(segment["end_time"]),
                        speaker="" if speaker == "N/A" else speaker,
                    )
            except (KeyError, TypeError, ValueError, AttributeError):
                dropped["bad entry"] += 1


def read_tags(text: str) -> str | None:
    """`HI <COMMA> YOU <QUESTIONMARK>` -> `HI, YOU?`; None for a text with a tag of `GARBAGE`."""
    if any(tag in text for tag in GARBAGE):
        return None
    for tag, mark in PUNCTUATION.items():
        text = re.sub(rf"\s*{tag}", mark, text)
    return text
