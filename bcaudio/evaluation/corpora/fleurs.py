"""FLEURS: sentences of FLoRes read in 102 languages, 16 kHz wav; for recognition and for translation of speech."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Row, choose, split_lines
from bcaudio.evaluation.corpora.recording import Recording

RATE = 16_000


@dataclass(frozen=True)
class Fleurs(PublishedCorpus):
    """The dev or test set of one language of FLEURS, the text with its case and punctuation.

    Args:
        root: the folder `data` of the published repository; `audio/test.tar.gz` may be unpacked where it lies, or stay packed.
        locale: folder of the language, e.g. `en_us`, `cmn_hans_cn` (language zh), `yue_hant_hk` (yue).
        subset: dev or test.
        target_locale: translate into that language: sentences go together by their id, those that it lacks are left out. None:
            no translation.
    """

    root: str | Path
    locale: str
    subset: str = "test"
    target_locale: str | None = None

    title: ClassVar[str] = "FLEURS"
    site: ClassVar[str] = "https://huggingface.co/datasets/google/fleurs"
    layout: ClassVar[str] = "ROOT/en_us/{test.tsv, audio/test.tar.gz or audio/test/10004088536354799741.wav}"

    def __post_init__(self) -> None:
        choose("Fleurs: subset", self.subset, ("dev", "test"))

    @property
    def split(self) -> str:
        """The subset."""
        return self.subset

    def rows(self) -> Iterator[Row]:
        """In the order of the table: id, file, raw text, text, its letters, number of samples, gender."""
        table = self.require(self.root, self.locale, f"{self.subset}.tsv")
        audio = table.parent / "audio"
        if not (audio / self.subset).is_dir():
            self.require(audio / f"{self.subset}.tar.gz")
        translations = self._translations()
        for where, (number, file, text, _, _, num_samples, _) in split_lines(table, 7):
            if not num_samples.isdecimal():
                raise ValueError(f"{where}: number of samples is {num_samples!r}; restore the file")
            if translations is not None and number not in translations:
                continue
            yield Row(
                f"{number}-{file.removesuffix('.wav')}",
                text.strip(),
                where,
                _language(self.locale),
                self._recording(audio, file),
                translation=translations[number] if translations is not None else None,
                target_language=_language(self.target_locale) if self.target_locale else None,
                duration_s=int(num_samples) / RATE,
                fields={"sentence_id": number},
            )

    def _recording(self, audio: Path, file: str) -> Recording:
        if (audio / self.subset).is_dir():
            return Recording(audio / self.subset / file)
        return Recording(audio / f"{self.subset}.tar.gz", f"{self.subset}/{file}")

    def _translations(self) -> dict[str, str] | None:
        """Sentence by id; several readers of one sentence have the same text."""
        if self.target_locale is None:
            return None
        table = self.require(self.root, self.target_locale, f"{self.subset}.tsv")
        return {columns[0]: columns[2].strip() for _, columns in split_lines(table, 7)}


def _language(locale: str) -> str:
    code = locale.partition("_")[0]
    return "zh" if code == "cmn" else code
