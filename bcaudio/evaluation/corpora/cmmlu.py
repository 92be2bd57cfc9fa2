"""CMMLU as a choice between continuations: a question, and each of its four answers as an ending."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import ClassVar

from bcaudio.evaluation.corpora.files import Row
from bcaudio.evaluation.corpora.multiple_choice_csv import read_questions, subject_files
from bcaudio.evaluation.corpora.story_cloze import ChoiceCorpus


@dataclass(frozen=True)
class CMMLU(ChoiceCorpus):
    """Each question of CMMLU as four statements, the question with each of its answers (arXiv 2502.17239, section 4, sCMMLU).

    The paper's 4,743 spoken questions and the wording of their statements are not published. What is read here is CMMLU's own
    table: the question is the story, the answers are the endings. Recordings, where there are some, lie as
    `AUDIO/ID-question.wav` and `AUDIO/ID-A.wav` to `ID-D.wav`, ID being the subject and the place in its file from 0, such as
    `agronomy-00000`. Statements of one's own are a `ChoiceList` of story_cloze.

    Args:
        root: folder that holds `test/`.
        part: folder of the files: `test` or `dev`.
        subjects: only these; None takes all, by name.
        audio: folder of the recordings; None reads texts alone.
        suffix: of the recordings.
        language: of the questions.
        spoken_only: passes over questions without any recording, as the paper takes a part of CMMLU; one with a part of its
            recordings stays and is reported.
    """

    root: str | Path
    part: str = "test"
    subjects: Sequence[str] | None = None
    audio: str | Path | None = None
    suffix: str = ".wav"
    language: str = "zh"
    spoken_only: bool = True

    title: ClassVar[str] = "CMMLU"
    site: ClassVar[str] = "https://github.com/haonan-li/CMMLU"
    layout: ClassVar[str] = "ROOT/test/agronomy.csv, ..."

    def rows(self) -> Iterator[Row]:
        """Subjects by name, their questions in order."""
        folder = None if self.audio is None else self.require(self.audio)
        recorded = {path.name for path in folder.iterdir()} if folder is not None else set()
        for subject, path in subject_files(self, self.root, self.part, self.subjects).items():
            for entry in read_questions(path, subject):
                names = [f"{entry.id}-{part}{self.suffix}" for part in ("question", *ascii_uppercase[: len(entry.choices)])]
                if folder is not None and self.spoken_only and not recorded.intersection(names):
                    continue
                fields = {"story": entry.question, "choices": list(entry.choices), "right": entry.right, "category": subject}
                fields["sounds"] = [] if folder is None else [folder / name for name in names]
                yield Row(entry.id, entry.question, entry.where, self.language, fields=fields)
