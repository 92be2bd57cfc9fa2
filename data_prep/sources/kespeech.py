"""KeSpeech: read Mandarin and eight of its subdialects, 16 kHz wav, in Kaldi files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.kaldi import Table, refuse_commands
from data_prep.sources.tables import split_lines
from data_prep.utterance import Utterance

SUBSETS = ("train_phase1", "train_phase2", "dev_phase1", "dev_phase2", "test")


class KeSpeech(RecordedCorpus):
    """Utterances of KeSpeech; speaker is `<id>-<subdialect>`, e.g. `1000001-Zhongyuan`, so that reports count subdialects.

    Args:
        root: the folder `KeSpeech`.
        subsets: of `SUBSETS`; the first part of the name is the split.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "KeSpeech", "see github.com/KeSpeech/KeSpeech", "https://github.com/KeSpeech/KeSpeech"
    layout = "ROOT/Tasks/ASR/train_phase1/{wav.scp, text, utt2spk, utt2subdialect} and ROOT/Audio/1000001/phase1/*.wav"

    def __init__(
        self, root: str | Path, subsets: Sequence[str] = SUBSETS, corpus: str = "kespeech", samples_per_shard: int = 256
    ) -> None:
        super().__init__(root, corpus, "zh", samples_per_shard)
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Subset by subset, in the order of wav.scp; paths there start at `root`."""
        for subset in self.subsets:
            split = subset.partition("_")[0]
            names = ("text", "utt2spk", "utt2subdialect")
            scp = self._require("Tasks", "ASR", subset, "wav.scp")
            texts, speakers, dialects = (Table(self._require("Tasks", "ASR", subset, name), dropped) for name in names)
            refuse_commands(scp)
            for name, audio in split_lines(scp, dropped, 2, separator=None):
                text = (texts.get(name) or "").replace("<SPOKEN_NOISE>", "")
                speaker = f"{speakers.get(name) or 'unknown'}-{dialects.get(name) or 'unknown'}"
                yield from self._utterance(dropped, split, name, self.root / audio.strip(), text, speaker=speaker)
