"""AISHELL-1: read Mandarin, 400 speakers, 16 kHz wav."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import split_lines
from data_prep.utterance import Utterance

SUBSETS = ("train", "dev", "test")


class Aishell(RecordedCorpus):
    """Utterances of AISHELL-1; the blanks that the transcript has between words are left out.

    Args:
        root: the folder `data_aishell`.
        subsets: of `SUBSETS`, which are the splits too.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "AISHELL-1", "Apache 2.0", "https://www.openslr.org/33"
    layout = "ROOT/transcript/aishell_transcript_v0.8.txt and ROOT/wav/train/S0002/BAC009S0002W0122.wav (wav/*.tar.gz unpacked)"

    def __init__(
        self, root: str | Path, subsets: Sequence[str] = SUBSETS, corpus: str = "aishell", samples_per_shard: int = 256
    ) -> None:
        super().__init__(root, corpus, "zh", samples_per_shard)
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """In the order of the transcript; speakers of other subsets are passed over, recordings without a line are `no text`."""
        transcript = self._require("transcript", "aishell_transcript_v0.8.txt")
        subset_of = {path.name: subset for subset in self.subsets for path in self._require("wav", subset).iterdir()}
        num_wavs = sum(1 for subset in self.subsets for _ in (self.root / "wav" / subset).glob("*/*.wav"))
        num_lines_with_wav = 0
        others = {path.name for path in (self.root / "wav").glob("*/*") if path.is_dir()} - set(subset_of)
        for name, text in split_lines(transcript, dropped, 2, separator=None):
            speaker = name[6:11]  # BAC009 S0002 W0122
            if speaker in others:
                continue
            subset = subset_of.get(speaker, self.subsets[0])
            audio = self.root / "wav" / subset / speaker / f"{name}.wav"
            num_lines_with_wav += audio.is_file()
            yield from self._utterance(dropped, subset, name, audio, "".join(text.split()), speaker=speaker)
        if num_wavs > num_lines_with_wav:
            dropped["no text"] += num_wavs - num_lines_with_wav
