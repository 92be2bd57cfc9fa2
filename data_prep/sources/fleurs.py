"""FLEURS: 2,009 sentences of FLoRes read in 102 languages, 16 kHz wav."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import split_lines
from data_prep.utterance import Utterance

SUBSETS = ("train", "dev", "test")


class Fleurs(RecordedCorpus):
    """Utterances of one language of FLEURS, the text with its case and punctuation; speakers are not known.

    Args:
        root: the folder `data` of the published repository, its `audio/*.tar.gz` unpacked where they lie.
        locale: folder of the language, e.g. `en_us`, `cmn_hans_cn` (language zh), `yue_hant_hk` (yue).
        subsets: of `SUBSETS`, which are the splits too.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "FLEURS", "CC BY 4.0", "https://huggingface.co/datasets/google/fleurs"
    layout = "ROOT/en_us/{train.tsv, dev.tsv, test.tsv, audio/train/10004088536354799741.wav} (audio/*.tar.gz unpacked)"

    def __init__(
        self,
        root: str | Path,
        locale: str,
        subsets: Sequence[str] = SUBSETS,
        corpus: str = "fleurs",
        samples_per_shard: int = 256,
    ) -> None:
        code = locale.partition("_")[0]
        super().__init__(root, corpus, "zh" if code == "cmn" else code, samples_per_shard)
        self.locale, self.subsets = locale, choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Table by table: id, file, raw text, text, its letters, number of samples, gender; several readers share an id."""
        for subset in self.subsets:
            for columns in split_lines(self._require(self.locale, f"{subset}.tsv"), dropped, 7):
                file = columns[1]
                name = f"{self.language}-{columns[0]}-{file.removesuffix('.wav')}"
                yield from self._utterance(dropped, subset, name, self.root / self.locale / "audio" / subset / file, columns[2])
