"""CoVoST 2: translations of sentences that volunteers read for Common Voice, mp3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Row, choose, tsv_rows
from bcaudio.evaluation.corpora.recording import Recording


@dataclass(frozen=True)
class CoVoST(PublishedCorpus):
    """The dev or test set of one direction of CoVoST 2, transcript and translation.

    Args:
        root: folder of Common Voice (release 4 is the one translated), with CoVoST's tables in the folder of the spoken language.
        source_locale, target_locale: as in the tables' names, e.g. `en` and `zh-CN`.
        subset: dev or test.
    """

    root: str | Path
    source_locale: str
    target_locale: str
    subset: str = "test"

    title: ClassVar[str] = "CoVoST 2 over Common Voice 4"
    site: ClassVar[str] = "https://github.com/facebookresearch/covost (speech: https://commonvoice.mozilla.org)"
    layout: ClassVar[str] = (
        "ROOT/en/{covost_v2.en_zh-CN.test.tsv, clips/common_voice_en_1.mp3} (its get_covost_splits.py writes the tables)"
    )

    def __post_init__(self) -> None:
        choose("CoVoST: subset", self.subset, ("dev", "test"))

    @property
    def split(self) -> str:
        """The subset."""
        return self.subset

    def rows(self) -> Iterator[Row]:
        """In the order of the table, which is written with backslashes before quotes."""
        name = f"covost_v2.{self.source_locale}_{self.target_locale}.{self.subset}.tsv"
        table = self.require(self.root, self.source_locale, name)
        for where, row in tsv_rows(table, ("path", "sentence", "translation"), escapes=True):
            clip = row["path"].removesuffix(".mp3")  # the first releases left the suffix out
            yield Row(
                clip,
                " ".join(row["sentence"].split()),
                where,
                self.source_locale.partition("-")[0],
                Recording(table.parent / "clips" / f"{clip}.mp3"),
                translation=" ".join(row["translation"].split()),
                target_language=self.target_locale.partition("-")[0],
                speaker=row.get("client_id", "")[:16],
            )
