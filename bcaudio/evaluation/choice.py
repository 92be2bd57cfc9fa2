"""Right or wrong continuation, by perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, result
from bcaudio.metrics.accuracy import ChoiceAccuracy

Mode = Literal["text", "speech"]


class Choice:
    """`choice.<mode>.accuracy`: the right ending has the lower perplexity (arXiv 2502.17239, section 4, sStoryCloze). Chance
    is 0.5.

    Args:
        shards: tar files or globs of `choice` samples; `speech` needs codes.
        modes: `text` (the story is read), `speech` (the story is heard).
        language: keep only this; None keeps all.
        limit: at most so many items.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before the mode.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        modes: Sequence[Mode] = ("text", "speech"),
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 16,
        audio_llm: str | None = None,
        name: str = "choice",
    ) -> None:
        self.shards = as_shards(shards, language=language, corpus=corpus, limit=limit, split=split)
        self.modes, self.batch_size, self.audio_llm, self.name = list(modes), batch_size, audio_llm, name

    def items(self) -> list[Item]:
        return self.shards.items(self.name)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        samples = [item.sample for item in items]
        return [
            {
                "id": sample.key,
                "language": sample.language,
                "mode": mode,
                "right_log_likelihood": float(right),
                "wrong_log_likelihood": float(wrong),
            }
            for mode in self.modes
            for sample, (right, wrong) in zip(samples, system.choice_scores(samples, mode), strict=True)
        ]

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        results = {}
        for mode in self.modes:
            metric = ChoiceAccuracy()
            chosen = [out for out in outputs if out["mode"] == mode]
            metric.update(*([math.exp(-out[f"{ending}_log_likelihood"]) for out in chosen] for ending in ("right", "wrong")))
            results[f"{self.name}.{mode}.accuracy"] = result(metric)
        return results
