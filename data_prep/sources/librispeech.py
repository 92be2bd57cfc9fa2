"""LibriSpeech: read English audiobooks, 16 kHz flac."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import split_lines
from data_prep.utterance import Utterance

SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")


class LibriSpeech(RecordedCorpus):
    """Utterances of LibriSpeech, with the text in capitals as it is published; speaker is the reader's number.

    Args:
        root: the folder `LibriSpeech`.
        subsets: of `SUBSETS`; the first part of the name is the split.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "LibriSpeech", "CC BY 4.0", "https://www.openslr.org/12"
    layout = "ROOT/train-clean-100/103/1240/{103-1240.trans.txt, 103-1240-0000.flac}"

    def __init__(
        self, root: str | Path, subsets: Sequence[str], corpus: str = "librispeech", samples_per_shard: int = 256
    ) -> None:
        super().__init__(root, corpus, "en", samples_per_shard)
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Subset by subset, chapter by chapter, in the order of their transcripts."""
        for subset in self.subsets:
            split = subset.partition("-")[0]
            for reader in sorted(path for path in self._require(subset).iterdir() if path.is_dir()):
                for transcript in sorted(reader.glob("*/*.trans.txt")):
                    for name, text in split_lines(transcript, dropped, 2, separator=None):
                        audio = transcript.with_name(f"{name}.flac")
                        yield from self._utterance(dropped, split, name, audio, text, speaker=reader.name)
