"""Parquet files as Hugging Face datasets publish them: a column of audio {bytes, path} and columns of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bcaudio.data.schema import SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.steps.read import import_pyarrow
from data_prep.utterance import Utterance


class HFParquet(RecordedCorpus):
    """One utterance per row of the parquet files in a folder; recordings stay where they are (`x.parquet#row`).

    Args:
        root: folder of the files.
        language: of all rows.
        files: pattern of their names below `root`, e.g. `data/train-*.parquet`.
        split: train, dev or test, of all rows.
        text, audio: names of the columns.
        speaker, translation, id: names of the columns, or None where there is no such; without `id` a row is named by file and
            number.
        target_language: of the translation.
        source, licence: what samples say about where they come from.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title = "parquet files"
    layout = "ROOT/data/train-00000-of-00001.parquet with the columns audio {bytes, path} and text"

    def __init__(
        self,
        root: str | Path,
        language: str,
        files: str = "**/*.parquet",
        split: str = "train",
        text: str = "text",
        audio: str = "audio",
        speaker: str | None = None,
        translation: str | None = None,
        target_language: str | None = None,
        id: str | None = None,
        source: str = "parquet files",
        licence: str = "",
        corpus: str = "parquet",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, language, samples_per_shard)
        self.files, self.split = files, choose(f"{corpus}: split", [split], SPLITS)[0]
        self.columns = {"text": text, "speaker": speaker, "translation": translation, "id": id}
        self.audio, self.target_language, self.title, self.licence = audio, target_language, source, licence

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """File by file, row by row; of the audio nothing is read here.

        Raises:
            FileNotFoundError: no file fits the pattern.
            ValueError: a column is missing, a file is no parquet, or pyarrow is not installed.
        """
        self._require()
        paths = sorted(path for path in self.root.glob(self.files) if path.is_file())
        if not paths:
            raise FileNotFoundError(f"{self.root}/{self.files}: no such file; it must lie as {self.layout}")
        import_pyarrow(paths[0])
        for path in paths:
            yield from self._rows(path, dropped)

    def _rows(self, path: Path, dropped: Counter[str]) -> Iterator[Utterance]:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        wanted = {kind: name for kind, name in self.columns.items() if name}
        try:
            with ParquetFile(path) as parquet:
                missing = [n for n in (self.audio, *wanted.values()) if n not in parquet.schema_arrow.names]
                if missing:
                    raise ValueError(f"{path}: no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}")
                batches = parquet.iter_batches(batch_size=1024, columns=list(wanted.values()))
                rows = (row for batch in batches for row in batch.to_pylist())
                for number, row in enumerate(rows):
                    yield from self._row(path, number, {kind: row[name] for kind, name in wanted.items()}, dropped)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path}: cannot be read as parquet ({error}); copy the file again") from error

    def _row(self, path: Path, number: int, row: dict[str, object], dropped: Counter[str]) -> Iterator[Utterance]:
        name = f"{path.relative_to(self.root).with_suffix('')}-{number:06d}" if row.get("id") is None else str(row["id"])
        speaker = "" if row.get("speaker") is None else str(row["speaker"])
        fields = {"translation": row["translation"], "target_language": self.target_language} if row.get("translation") else {}
        if not isinstance(row["text"], str | None) or not isinstance(fields.get("translation"), str | None):
            dropped["wrong type of a value"] += 1
            return
        yield from self._utterance(dropped, self.split, name, f"{path}#{number}", row["text"] or "", speaker=speaker, **fields)
