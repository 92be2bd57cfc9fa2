"""What the text LLM still can after each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, Output, Scoring, corpus_of, thin
from bcaudio.evaluation.judge import Judge
from bcaudio.evaluation.question_answering import Judging, judged, references_of
from bcaudio.metrics.counting import CountingMetric

Task = Literal["aqa", "s2tt"]


class Retention:
    """`retention.text_accuracy.<stage>`: text questions and text translations, read and written, exact match (arXiv
    2502.17239, section 3.3).

    One benchmark per stage; the same items for every stage, so that the figures compare. The stage's text LLM answers, inside
    its audio LLM where it has one; stage 1 leaves the LLM as it was, so its figure must equal the text LLM's.

    Args:
        shards: tar files or globs; text-only samples will do; or
        data: a corpus of bcaudio.evaluation.corpora.
        stage: the last part of the key.
        audio_llm: the stage's folder; it holds a text-only LLM for the stage before any audio. None takes the system's own.
        tasks: `aqa` takes samples with an answer, `s2tt` those with a translation.
        limit: at most so many items per task.
        corpus, split: filters of the shards; None keeps all.
        batch_size: items per call of the system.
        judge: who says what is right; None: equal to one of the references under the normaliser.

    Raises:
        ValueError: both or none of shards and data.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        stage: str = "model",
        audio_llm: str | None = None,
        tasks: Sequence[Task] = ("aqa", "s2tt"),
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        data: Corpus | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.corpus = corpus_of(shards, data, corpus=corpus, split=split)
        self.stage, self.audio_llm, self.tasks, self.limit, self.batch_size = stage, audio_llm, list(tasks), limit, batch_size
        self.judge, self.judging = judge, Judging(judge)

    def items(self) -> list[Item]:
        """Items of every task; a sample that serves two tasks stands once. ValueError for a task that none serves."""
        name = f"retention.{self.stage}"
        found = self.corpus.items(name)
        chosen: dict[str, Item] = {}
        for task in self.tasks:
            able = [item for item in found if self._fits(item, task)]
            if not able:
                raise ValueError(
                    f"{name}: none of the {len(found)} samples serves the task {task}; correct its data or its tasks"
                )
            chosen |= {item.id: item for item in thin(able, self.limit)}
        return list(chosen.values())

    @staticmethod
    def _fits(item: Item, task: str) -> bool:
        return bool(item.sample.answer) if task == "aqa" else bool(item.sample.translation)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs: list[Output] = []
        for task in self.tasks:
            able = [item for item in items if self._fits(item, task)]
            answers = system.answer_text_from_text(able, task) if able else []
            outputs += [self._output(item, task, text) for item, text in zip(able, answers, strict=True)]
        return outputs

    @staticmethod
    def _output(item: Item, task: str, text: str) -> Output:
        sample, translates = item.sample, task == "s2tt"
        references = [sample.translation] if translates else references_of(item)
        return {
            "id": item.id,
            "task": task,
            "language": sample.target_language if translates else sample.language,
            "question": sample.text,
            "reference": references[0],
            "references": references,
            "hypothesis": text,
        }

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric | Absent]:
        return {f"retention.text_accuracy.{self.stage}": judged(outputs, self.judging, scoring, by=("language", "task"))}
