"""VoiceBench: spoken questions, open-ended or with a reference."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile

from bcaudio.audio.io import resample
from bcaudio.evaluation.corpora.files import PublishedCorpus, Recording, Row, choose, json_lines

REFERENCED = ("sd-qa", "openbookqa", "mmsu", "bbh")
OPEN_ENDED = ("alpacaeval", "alpacaeval_full", "commoneval", "wildvoice")


@dataclass(frozen=True)
class VoiceBench(PublishedCorpus):
    """One subset of VoiceBench, from its parquet files (`pip install bcaudio[parquet]`) or from JSON lines made of them.

    alpacaeval, alpacaeval_full, commoneval and wildvoice are for OpenEnded; sd-qa (its splits are regions: usa, gbr, ind_n ...),
    openbookqa and mmsu (the letter of the right choice) and bbh have a reference and are for QuestionAnswering with a judge.
    advbench, ifeval and mtbench need scorers of their own and are refused.

    A row of parquet has `audio` {bytes, path}, `prompt` and maybe `reference`; of JSON lines the same, where `audio` is a path
    relative to the file. Fields: `references`, `category` where the row has one.

    Args:
        root: folder of the dataset.
        subset: as above.
        part: of the files: `test`, or a region of sd-qa, or a domain of mmsu.

    Raises:
        ValueError: another subset.
    """

    root: str | Path
    subset: str
    part: str = "test"

    title: ClassVar[str] = "VoiceBench"
    site: ClassVar[str] = "https://huggingface.co/datasets/hlt-lab/voicebench"
    layout: ClassVar[str] = "ROOT/commoneval/test-00000-of-00001.parquet, or ROOT/commoneval/test.jsonl with its recordings"

    def __post_init__(self) -> None:
        choose("VoiceBench: subset", self.subset, [*OPEN_ENDED, *REFERENCED])

    def rows(self) -> Iterator[Row]:
        """In the order of the files."""
        folder = self.require(self.root, self.subset)
        listed = folder / f"{self.part}.jsonl"
        files = sorted(folder.glob(f"{self.part}-*.parquet"))
        if not files and not listed.is_file():
            self.require(folder / f"{self.part}-00000-of-00001.parquet")
        entries = self._listed(listed) if listed.is_file() else (found for path in files for found in _parquet_rows(path))
        for number, (where, entry, recording) in enumerate(entries):
            yield self._row(number, where, entry, recording)

    def _row(self, number: int, where: str, entry: dict[str, Any], recording: Any) -> Row:
        prompt, reference = entry.get("prompt"), entry.get("reference") or ""
        if not isinstance(prompt, str) or not isinstance(reference, str):
            raise ValueError(f"{where}: prompt is {prompt!r}, reference {reference!r}; both must be texts; restore the file")
        references = [reference.strip()] if self.subset in REFERENCED and reference.strip() else []
        fields: dict[str, Any] = {"references": references} if references else {}
        fields |= {"category": entry["category"]} if isinstance(entry.get("category"), str) else {}
        problem = "" if references or self.subset in OPEN_ENDED else "empty reference"
        answer = references[0] if references else None
        name = f"{self.subset}-{self.part}-{number:05d}"
        return Row(name, prompt.strip(), where, "en", recording, answer=answer, fields=fields, problem=problem)

    @staticmethod
    def _listed(path: Path) -> Iterator[tuple[str, dict[str, Any], Recording]]:
        for where, entry in json_lines(path):
            if not isinstance(entry.get("audio"), str):
                raise ValueError(f"{where}: audio is {entry.get('audio')!r}; give the path of the recording")
            yield where, entry, Recording.at(path.parent, entry["audio"])


@dataclass(frozen=True)
class ParquetRecording:
    """The sound of one row of a parquet file.

    Args:
        path: the file.
        row: from 0.
        column: of audio {bytes, path}.
    """

    path: Path
    row: int
    column: str = "audio"

    def __call__(self, sample_rate: int) -> np.ndarray:
        """float32 [N] at `sample_rate` Hz; ValueError where the row holds no sound."""
        size, changed = self.path.stat().st_size, self.path.stat().st_mtime_ns
        starts = _group_starts(str(self.path), size, changed)
        group = max(i for i, start in enumerate(starts) if start <= self.row)
        sound = _group(str(self.path), size, changed, group, self.column)[self.row - starts[group]]
        if not sound or not sound.get("bytes"):
            raise ValueError(f"{self.path}#{self.row}: its audio is empty; copy the file again")
        try:
            samples, rate = soundfile.read(io.BytesIO(sound["bytes"]), dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, TypeError) as error:
            raise ValueError(f"{self.path}#{self.row}: cannot be decoded ({error}); copy the file again") from error
        if not len(samples) or not np.isfinite(samples).all():
            raise ValueError(f"{self.path}#{self.row}: holds no samples, or NaN; copy the file again")
        return resample(samples.mean(axis=1), rate, sample_rate)


@lru_cache(maxsize=8)
def _group_starts(path: str, size: int, changed: int) -> tuple[int, ...]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as parquet:
        counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    return tuple(np.cumsum([0, *counts])[:-1].tolist())


@lru_cache(maxsize=2)
def _group(path: str, size: int, changed: int, group: int, column: str) -> list[Any]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as parquet:
        return parquet.read_row_group(group, columns=[column]).column(column).to_pylist()


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any], ParquetRecording]]:
    """Every row without its sound.

    Raises:
        ValueError: pyarrow is not installed, the file is no parquet, or it has no prompt or audio.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path}: parquet needs pyarrow; pip install bcaudio[parquet], or make JSON lines of it")
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as parquet:
            names = parquet.schema_arrow.names
            if missing := [name for name in ("audio", "prompt") if name not in names]:
                raise ValueError(f"{path}: no column {missing[0]!r}; it has {', '.join(names)}")
            wanted = [name for name in ("prompt", "reference", "category") if name in names]
            batches = parquet.iter_batches(batch_size=1024, columns=wanted)
            for number, entry in enumerate(row for batch in batches for row in batch.to_pylist()):
                yield f"{path}#{number}", entry, ParquetRecording(path, number)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: cannot be read as parquet ({error}); copy the file again") from error
