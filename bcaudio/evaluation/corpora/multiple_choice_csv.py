"""Multiple choice as MMLU and CMMLU publish it: one CSV per subject, and a few worked examples per subject beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Row


@dataclass(frozen=True)
class ChoiceQuestion:
    """One line of a multiple choice file.

    Args:
        where: file and line.
        subject: name of its file.
        number: its place in the file, from 0.
        question, choices: as published, without blanks around them.
        right: index of the right choice.
    """

    where: str
    subject: str
    number: int
    question: str
    choices: tuple[str, ...]
    right: int

    @property
    def id(self) -> str:
        """Subject and place."""
        return f"{self.subject}-{self.number:05d}"


@dataclass(frozen=True)
class MultipleChoiceCSV(PublishedCorpus):
    """Questions of MMLU or CMMLU: `<part>/<subject>.csv` (CMMLU) or `<part>/<subject>_<part>.csv` (MMLU).

    A line is question, choices, letter of the right one; a first line with these names (CMMLU) may put other columns between
    them. Fields: `choices`, `right` (its index), `category` (the subject), `shots` (worked examples: question, choices, right).

    Args:
        root: folder that holds `test/` and `dev/`.
        language: of the questions.
        part: folder of the files: `test`, or `val` of MMLU.
        shots: worked examples from the subject's file in `dev/` that stand before each question.
        subjects: only these; None takes all, by name.
    """

    root: str | Path
    language: str = "en"
    part: str = "test"
    shots: int = 0
    subjects: Sequence[str] | None = None

    title: ClassVar[str] = "multiple choice in the layout of MMLU or CMMLU"
    site: ClassVar[str] = "https://github.com/hendrycks/test (MMLU) and https://github.com/haonan-li/CMMLU (CMMLU)"
    layout: ClassVar[str] = "ROOT/{test,dev}/anatomy.csv (CMMLU) or ROOT/{test,val,dev}/anatomy_test.csv (MMLU)"

    def rows(self) -> Iterator[Row]:
        """Subjects by name, their questions in order.

        Raises:
            ValueError: a subject has fewer worked examples than `shots`.
        """
        for subject, path in subject_files(self, self.root, self.part, self.subjects).items():
            shots = self._shots(subject)
            for entry in read_questions(path, subject):
                fields = {"choices": list(entry.choices), "right": entry.right, "category": subject, "shots": shots}
                letter = ascii_uppercase[entry.right]
                problem = "" if entry.question and all(entry.choices) else "empty question or choice"
                yield Row(entry.id, entry.question, entry.where, self.language, answer=letter, fields=fields, problem=problem)

    def _shots(self, subject: str) -> list[Mapping[str, Any]]:
        if not self.shots:
            return []
        path = subject_files(self, self.root, "dev", [subject])[subject]
        found = list(read_questions(path, subject))[: self.shots]
        if len(found) < self.shots:
            raise ValueError(f"{path}: has {len(found)} worked examples, {self.shots} are asked for; lower shots")
        return [{"question": one.question, "choices": list(one.choices), "right": one.right} for one in found]


def subject_files(corpus: PublishedCorpus, root: str | Path, part: str, subjects: Sequence[str] | None = None) -> dict[str, Path]:
    """Files of a part (`test`, `val`, `dev`) by subject, in the order of their names.

    Raises:
        FileNotFoundError: no such folder, or no file of one of `subjects`; says where the corpus is published.
    """
    folder = corpus.require(root, part)
    found = {path.stem.removesuffix(f"_{part}"): path for path in sorted(folder.glob("*.csv"))}
    for subject in subjects or ():
        if subject not in found:
            corpus.require(folder, f"{subject}.csv")
    return {subject: path for subject, path in found.items() if subjects is None or subject in subjects}


def read_questions(path: Path, subject: str) -> Iterator[ChoiceQuestion]:
    """The questions of one file.

    Raises:
        ValueError: a line without at least two choices and the letter of one of them; names file and line.
    """
    columns: list[int] = []
    width = number = 0
    for where, cells in csv_lines(path):
        if not columns:
            width, names = len(cells), [cell.strip().lower() for cell in cells]
            has_names = "question" in names and "answer" in names
            letters = [i for i, name in enumerate(names) if len(name) == 1 and name in ascii_lowercase]
            columns = [names.index("question"), *letters, names.index("answer")] if has_names else list(range(width))
            if has_names:
                continue
        if len(cells) != width or len(columns) < 4:
            raise ValueError(
                f"{where}: has {len(cells)} columns, not question, choices, answer as the first line; restore the file"
            )
        question, *choices, letter = (cells[i].strip() for i in columns)
        right = ascii_uppercase.find(letter.upper()) if len(letter) == 1 else -1
        if not 0 <= right < len(choices):
            last = ascii_uppercase[len(choices) - 1]
            raise ValueError(f"{where}: the answer is {letter!r}, not a letter from A to {last}; restore the file")
        yield ChoiceQuestion(where, subject, number, question, tuple(choices), right)
        number += 1


def csv_lines(path: Path, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """(`file:line`, cells) of a CSV; a quoted cell may run over several lines, whose first one is named.

    Raises:
        ValueError: not UTF-8, or a quote that never ends; names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error}); restore the file") from error
    reader, first = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield f"{path}:{first}", cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}:{first}: is not CSV ({error}); restore the file") from error


def csv_entries(path: Path, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """(`file:line`, row by the names in the first line) of a CSV.

    Raises:
        ValueError: as `csv_lines`, and a line with another number of cells than the first.
    """
    header: list[str] | None = None
    for where, cells in csv_lines(path, delimiter):
        if header is None:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            raise ValueError(f"{where}: has {len(cells)} columns, the header {len(header)}; restore the file")
        else:
            yield where, dict(zip(header, cells, strict=True))


def first_column(path: Path, entry: Mapping[str, str], names: Sequence[str], what: str) -> str:
    """Which of `names` is a column; ValueError naming the file, what is sought and the columns there are."""
    for name in names:
        if name in entry:
            return name
    raise ValueError(f"{path}: no column for the {what} ({', '.join(names)}), only {', '.join(entry)}; name it under `columns`")
