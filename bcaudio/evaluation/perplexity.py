"""How well the text LLM still predicts plain text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcaudio.data.schema import Sample, Span
from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, ItemError, Output, Scoring, corpus_of, thin
from bcaudio.metrics.counting import CountingMetric
from bcaudio.metrics.perplexity import Perplexity


class TextPerplexity:
    """`<name>.perplexity` of plain text: of the texts of samples, or of a file's lines, each read alone.

    Args:
        shards: tar files or globs of samples with a text; or
        file: a UTF-8 text file, one document per line; empty lines are passed over; or
        data: a corpus of bcaudio.evaluation.corpora.
        name: the first part of the key.
        language, corpus, split: filters of the shards; None keeps all.
        limit: at most so many texts, spread evenly.
        max_tokens: a longer text is cut.
        batch_size: texts per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.

    Raises:
        ValueError: not exactly one of shards, file and data.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        file: str | None = None,
        name: str = "text",
        language: str | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        limit: int | None = None,
        max_tokens: int = 512,
        batch_size: int = 32,
        audio_llm: str | None = None,
        data: Corpus | None = None,
    ) -> None:
        if [shards, file, data].count(None) != 2:
            raise ValueError("TextPerplexity: give either shards or file, or data")
        filters = {"language": language, "corpus": corpus, "split": split}
        self.corpus = None if file is not None else corpus_of(shards, data, limit, **filters)
        self.file, self.name, self.limit, self.max_tokens = file, name, limit, max_tokens
        self.batch_size, self.audio_llm = batch_size, audio_llm

    def items(self) -> list[Item]:
        """The texts; FileNotFoundError without the file, ValueError where it has no text in it."""
        if self.corpus is not None:
            return self.corpus.items(self.name)
        path = Path(self.file or "")
        if not path.is_file():
            raise FileNotFoundError(f"{self.name}: {path}: no such text file; it is your own, one document per line")
        lines = path.read_text(encoding="utf-8").splitlines()
        texts = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
        if not texts:
            raise ValueError(f"{self.name}: {self.file} has no text in it")
        samples = [
            Sample(f"line-{number}", self.name, "test", "und", "", text, (Span(text, 0.0, 0.0, "narrator"),))
            for number, text in texts
        ]
        return thin([Item(sample) for sample in samples], self.limit)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs = []
        found = system.log_likelihoods([item.sample.text for item in items], max_tokens=self.max_tokens)
        for item, (log_likelihood, num_tokens, num_bytes) in zip(items, found, strict=True):
            if not num_tokens:
                raise ItemError(item.id, "its text has no token")
            outputs.append(
                {"id": item.id, "log_likelihood": float(log_likelihood), "tokens": int(num_tokens), "bytes": int(num_bytes)}
            )
        return outputs

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric | Absent]:
        metric = Perplexity()
        for out in outputs:
            metric.update(out["log_likelihood"], out["tokens"], out["bytes"], id=out["id"])
        return {f"{self.name}.perplexity": metric if outputs else Absent("no text was asked")}
