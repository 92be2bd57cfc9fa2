"""What the text LLM still can after each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, thin
from bcaudio.evaluation.question_answering import answer_of, exact_matches

Task = Literal["aqa", "s2tt"]


class Retention:
    """`retention.text_accuracy.<stage>`: text questions and text translations, read and written, exact match (arXiv
    2502.17239, section 3.3).

    One benchmark per stage; the same items for every stage, so that the figures compare. The stage's text LLM answers, inside
    its audio LLM
    where it has one; stage 1 leaves the LLM as it was, so its figure must equal the text LLM's.

    Args:
        shards: tar files or globs; text-only samples will do.
        stage: the last part of the key.
        audio_llm: the stage's folder; it holds a text-only LLM for the stage before any audio.
        tasks: `aqa` takes samples with an answer, `s2tt` those with a translation.
        limit: at most so many items per task.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        stage: str,
        audio_llm: str,
        tasks: Sequence[Task] = ("aqa", "s2tt"),
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
    ) -> None:
        self.shards = as_shards(shards, corpus=corpus, split=split)
        self.stage, self.audio_llm, self.tasks, self.limit, self.batch_size = stage, audio_llm, list(tasks), limit, batch_size

    def items(self) -> list[Item]:
        """Items of every task; a sample that serves two tasks stands once."""
        found = self.shards.items(f"retention.{self.stage}")
        chosen: dict[str, Item] = {}
        for task in self.tasks:
            able = [item for item in found if self._fits(item, task)]
            if not able:
                raise ValueError(f"retention.{self.stage}: no sample of {', '.join(self.shards.paths)} serves the task {task}")
            chosen |= {item.sample.key: item for item in thin(able, self.limit)}
        return list(chosen.values())

    @staticmethod
    def _fits(item: Item, task: str) -> bool:
        return bool(item.sample.answer) if task == "aqa" else bool(item.sample.translation)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs: list[Output] = []
        for task in self.tasks:
            samples = [item.sample for item in items if self._fits(item, task)]
            if not samples:
                continue
            for sample, text in zip(samples, system.answer_text_from_text(samples, task), strict=True):
                translates = task == "s2tt"
                outputs.append(
                    {
                        "id": sample.key,
                        "task": task,
                        "language": sample.target_language if translates else sample.language,
                        "reference": sample.translation if translates else answer_of(sample),
                        "hypothesis": text,
                    }
                )
        return outputs

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        by_task = {task: exact_matches([out for out in outputs if out["task"] == task]) for task in self.tasks}
        counts = {f"{name}_{task}": by_task[task][name] for task in self.tasks for name in ("correct", "total")}
        return {f"retention.text_accuracy.{self.stage}": {**exact_matches(outputs), **counts}}
