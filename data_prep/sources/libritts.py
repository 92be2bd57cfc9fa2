"""LibriTTS and LibriTTS-R: read English audiobooks cut at sentences, with punctuation and case, 24 kHz wav."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.librispeech import SUBSETS
from data_prep.sources.tables import split_lines
from data_prep.utterance import Utterance

TEXTS = ("normalized", "original")  # numbers and abbreviations as words, or as printed


class LibriTTS(RecordedCorpus):
    """Utterances of LibriTTS; speaker is the reader's number, the role is `narrator`.

    Args:
        root: the folder `LibriTTS`.
        subsets: as LibriSpeech's; the first part of the name is the split.
        text: which of the two transcripts, of `TEXTS`.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site, role = "LibriTTS", "CC BY 4.0", "https://www.openslr.org/60", "narrator"
    layout = "ROOT/train-clean-100/103/1241/{103_1241.trans.tsv, 103_1241_000000_000001.wav}"

    def __init__(
        self,
        root: str | Path,
        subsets: Sequence[str],
        text: str = "normalized",
        corpus: str = "libritts",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, "en", samples_per_shard)
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)
        self.column = 2 - TEXTS.index(choose(f"{corpus}: text", [text], TEXTS)[0])

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Subset by subset, chapter by chapter, in the order of their transcripts."""
        for subset in self.subsets:
            split = subset.partition("-")[0]
            for reader in sorted(path for path in self._require(subset).iterdir() if path.is_dir()):
                for transcript in sorted(reader.glob("*/*.trans.tsv")):
                    for columns in split_lines(transcript, dropped, 3):
                        name, audio = columns[0], transcript.with_name(f"{columns[0]}.wav")
                        yield from self._utterance(dropped, split, name, audio, columns[self.column], speaker=reader.name)
