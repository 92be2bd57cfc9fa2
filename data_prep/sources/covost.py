"""CoVoST 2: translations of Common Voice's sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import tsv_rows
from data_prep.utterance import Utterance

SUBSETS = ("train", "dev", "test")


class CoVoST(RecordedCorpus):
    """Utterances of one direction of CoVoST 2, transcript and translation.

    Args:
        root: folder of Common Voice (release 4 is the one translated), with CoVoST's tables in the folder of the spoken language.
        source_locale, target_locale: as in the tables' names, e.g. `en` and `zh-CN`.
        subsets: of `SUBSETS`, which are the splits too.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence = "CoVoST 2 over Common Voice 4", "CC BY-NC 4.0 (translations), CC0 1.0 (speech)"
    site = "https://github.com/facebookresearch/covost"
    layout = "ROOT/en/{covost_v2.en_zh-CN.train.tsv, clips/common_voice_en_1.mp3} (its get_covost_splits.py writes the tables)"

    def __init__(
        self,
        root: str | Path,
        source_locale: str,
        target_locale: str,
        subsets: Sequence[str] = SUBSETS,
        corpus: str = "covost",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, source_locale.partition("-")[0], samples_per_shard)
        self.source_locale, self.target_locale = source_locale, target_locale
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """Table by table, in the order of their rows; rows without a translation are dropped."""
        target = self.target_locale.partition("-")[0]
        for subset in self.subsets:
            table = self._require(self.source_locale, f"covost_v2.{self.source_locale}_{self.target_locale}.{subset}.tsv")
            for row in tsv_rows(table, dropped, ("path", "sentence", "translation", "client_id")):
                translation = " ".join(row["translation"].split())
                if not translation:
                    dropped["no translation"] += 1
                    continue
                yield from self._utterance(
                    dropped,
                    subset,
                    f"{target}-{row['path'].removesuffix('.mp3')}",
                    self.root / self.source_locale / "clips" / row["path"],
                    row["sentence"],
                    speaker=row["client_id"][:16],
                    translation=translation,
                    target_language=target,
                )
