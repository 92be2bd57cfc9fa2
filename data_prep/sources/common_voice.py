"""Common Voice: read sentences in many languages, given by volunteers, mp3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import tsv_rows
from data_prep.utterance import Utterance

SUBSETS = ("train", "dev", "test", "validated", "other")


class CommonVoice(RecordedCorpus):
    """Utterances of one language of Common Voice; speaker is the beginning of the client id.

    Args:
        root: folder of a release, e.g. `cv-corpus-17.0-2024-03-15`.
        locale: folder of the language, e.g. `en`, `zh-CN`, `fr`.
        subsets: names of tables; dev and test are their own splits. `validated` holds them too, so use it alone or not with them.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "Common Voice", "CC0 1.0", "https://commonvoice.mozilla.org/datasets"
    layout = "ROOT/en/{train.tsv, dev.tsv, test.tsv, clips/common_voice_en_1.mp3}"

    def __init__(
        self,
        root: str | Path,
        locale: str,
        subsets: Sequence[str] = ("train", "dev", "test"),
        corpus: str = "common_voice",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, locale.partition("-")[0], samples_per_shard)
        self.locale, self.subsets = locale, choose(f"{corpus}: subsets", subsets, SUBSETS)
        if "validated" in self.subsets and len(self.subsets) > 1:
            raise ValueError(f"{corpus}: subsets are {list(subsets)}; 'validated' holds the others' clips too, name it alone")

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Table by table, in the order of their rows."""
        for subset in self.subsets:
            split = subset if subset in ("dev", "test") else "train"
            for row in tsv_rows(self._require(self.locale, f"{subset}.tsv"), dropped, ("client_id", "path", "sentence")):
                name = row["path"].removesuffix(".mp3")  # the first releases left the suffix out
                audio = self.root / self.locale / "clips" / f"{name}.mp3"
                yield from self._utterance(dropped, split, name, audio, row["sentence"], speaker=row["client_id"][:16])
