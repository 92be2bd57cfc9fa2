"""OpenAudioBench: spoken questions with short answers, and open-ended ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import PublishedCorpus, Recording, Row, choose
from bcaudio.evaluation.corpora.multiple_choice_csv import csv_entries, first_column
from bcaudio.text.normalize import is_hanzi

QUESTIONS = ("question", "Questions", "Question", "instruction", "prompt", "Prompt", "问题", "题目")
AUDIO = ("audio_filename", "audio_path", "audio", "wav")
ANSWERS: dict[str, tuple[str, ...]] = {
    "llama_questions": ("Answer", "answer"),
    "web_questions": ("answers", "answer"),
    "trivia_qa": ("answer_normalized_value", "answer"),
    "reasoning_qa": ("answer", "Answer", "reference", "参考答案", "标准答案", "答案"),
    "alpaca_eval": (),
}
SEPARATORS = {"web_questions": ";", "trivia_qa": ","}
ALIASES = "answer_normalized_aliases"


@dataclass(frozen=True)
class OpenAudioBench(PublishedCorpus):
    """One of the five sets: `eval_datas/<name>/<name>.csv` and the recordings in `audios/` beside it.

    Web Questions has several right answers (parted by `;`), TriviaQA one and its aliases (parted by `,`). AlpacaEval has none:
    it is for OpenEnded. How Reasoning QA names its columns is not documented; the first of the usual names is taken. Questions
    with a Chinese character are zh, others en. Fields: `references`, `category` where the file has one.

    Args:
        root: folder that holds `eval_datas/`.
        name: llama_questions, web_questions, trivia_qa, alpaca_eval or reasoning_qa.
        columns: names of the columns `question`, `answer` and `audio`, where they are others than the published ones.

    Raises:
        ValueError: another name.
    """

    root: str | Path
    name: str
    columns: Mapping[str, str] = field(default_factory=dict)

    title: ClassVar[str] = "OpenAudioBench"
    site: ClassVar[str] = "https://huggingface.co/datasets/baichuan-inc/OpenAudioBench"
    layout: ClassVar[str] = "ROOT/eval_datas/trivia_qa/{trivia_qa.csv, audios/0.mp3, ...}"

    def __post_init__(self) -> None:
        choose("OpenAudioBench: name", self.name, list(ANSWERS))
        for column in self.columns:
            choose("OpenAudioBench: a key of columns", column, ["question", "answer", "audio"])

    def rows(self) -> Iterator[Row]:
        """In the order of the file.

        Raises:
            ValueError: a column is missing; names the file and the columns it has.
        """
        path = self.require(self.root, "eval_datas", self.name, f"{self.name}.csv")
        for number, (where, entry) in enumerate(csv_entries(path)):
            question = entry[self._column(path, entry, "question", QUESTIONS)].strip()
            audio = entry[self._column(path, entry, "audio", AUDIO)].strip()
            references = self._references(path, entry)
            fields = {"references": references, "category": entry.get("category", "")} if references else {}
            problem = "" if references or not ANSWERS[self.name] else "empty reference"
            yield Row(
                f"{self.name}-{number:05d}",
                question,
                where,
                "zh" if any(map(is_hanzi, question)) else "en",
                Recording(path.parent / "audios" / Path(audio).name),
                answer=references[0] if references else None,
                fields=fields,
                problem=problem if audio else "missing audio: its column is empty",
            )

    def _column(self, path: Path, entry: Mapping[str, str], what: str, names: tuple[str, ...]) -> str:
        return first_column(path, entry, (self.columns[what],) if what in self.columns else names, what)

    def _references(self, path: Path, entry: Mapping[str, str]) -> list[str]:
        if not ANSWERS[self.name]:
            return []
        given = entry[self._column(path, entry, "answer", ANSWERS[self.name])]
        separator = SEPARATORS.get(self.name)
        parts = given.split(separator) if self.name == "web_questions" else [given]
        parts += entry.get(ALIASES, "").split(separator) if self.name == "trivia_qa" else []
        return list(dict.fromkeys(part.strip() for part in parts if part.strip()))
