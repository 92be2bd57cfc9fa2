"""Which of several continuations is right, by perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.metrics.accuracy import ChoiceAccuracy
from bcaudio.metrics.counting import CountingMetric

Mode = Literal["text", "speech", "speech_to_speech"]
ENDINGS = ("right", "wrong")


class Choice:
    """`choice.<mode>.accuracy`: the right ending has the lowest perplexity per token (arXiv 2502.17239, section 4).

    An item's sample has the story in its first spans and then two or more endings, one of role `right`, the others `wrong`:
    sStoryCloze, tStoryCloze and zh-sStoryCloze have two, sCMMLU four. Chance is one over their number.

    - `text` (T->T): the story is read, the endings are read. An ending without a story before it is scored as a text of its own.
    - `speech` (S->T): the story is heard, the endings are read.
    - `speech_to_speech` (S->S): the story is heard, the endings are spoken.

    Args:
        shards: tar files or globs of `choice` samples; or
        data: a corpus of bcaudio.evaluation.corpora, such as StoryCloze or CMMLU.
        modes: which of the three.
        language, corpus, split: filters of the shards; None keeps all.
        limit: at most so many items, spread evenly.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before the mode.

    Raises:
        ValueError: an unknown mode; both or none of shards and data.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        modes: Sequence[Mode] = ("text", "speech"),
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 16,
        audio_llm: str | None = None,
        name: str = "choice",
        data: Corpus | None = None,
    ) -> None:
        unknown = [mode for mode in modes if mode not in get_args(Mode)]
        if unknown or not modes:
            raise ValueError(f"{name}: modes {list(modes)} must be some of {', '.join(get_args(Mode))}")
        self.corpus = corpus_of(shards, data, limit, language=language, corpus=corpus, split=split)
        self.modes, self.batch_size, self.audio_llm, self.name = list(modes), batch_size, audio_llm, name

    def items(self) -> list[Item]:
        """The items; one that a mode cannot use says so in its `problem`.

        Raises:
            ValueError: a mode that none of the items can serve.
        """
        items = [self._checked(item) for item in self.corpus.items(self.name)]
        if items and all(item.problem for item in items):
            raise ValueError(
                f"{self.name}: none of the {len(items)} items can be asked, {items[0].id} for one: {items[0].problem}; "
                "correct the data or the benchmark's modes"
            )
        return items

    def _checked(self, item: Item) -> Item:
        problem = item.problem or next((found for mode in self.modes if (found := _problem(item, mode))), "")
        return item if problem == item.problem else replace(item, problem=problem)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs: list[Output] = []
        for mode in self.modes:
            for item, scores in zip(items, self._scores(system, items, mode), strict=True):
                texts = [span.text for span in item.sample.spans if span.role in ENDINGS]
                outputs.append(
                    {
                        "id": item.id,
                        "language": item.sample.language,
                        "mode": mode,
                        "log_likelihoods": [float(score) for score in scores],
                        "right": _right(item),
                        "reference": texts[_right(item)],
                        "hypothesis": texts[max(range(len(texts)), key=lambda i: scores[i])],
                    }
                )
        return outputs

    def _scores(self, system: Any, items: Sequence[Item], mode: str) -> list[Sequence[float]]:
        """Mean log-likelihood of each ending. A text that nothing comes before has no first prediction, so it is scored whole."""
        alone = {i for i, item in enumerate(items) if mode == "text" and not _has_story(item)}
        after = [item for i, item in enumerate(items) if i not in alone]
        told = iter(system.choice_scores(after, mode) if after else ())
        texts = [span.text for i in sorted(alone) for span in items[i].sample.spans]
        whole = iter(system.log_likelihoods(texts, max_tokens=4096) if texts else ())
        means = (nats / max(1, tokens) for nats, tokens, _ in whole)
        return [[next(means) for _ in item.sample.spans] if i in alone else next(told) for i, item in enumerate(items)]

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric | Absent]:
        return {f"{self.name}.{mode}.accuracy": _accuracy([out for out in outputs if out["mode"] == mode]) for mode in self.modes}


def _accuracy(outputs: Sequence[Output]) -> ChoiceAccuracy | Absent:
    if not outputs:
        return Absent("no item was asked in this mode")
    metric = ChoiceAccuracy()
    rights_first = [[out["log_likelihoods"][out["right"]], *_without(out["log_likelihoods"], out["right"])] for out in outputs]
    metric.update_scores(rights_first, ids=[out["id"] for out in outputs])
    return metric


def _without(values: Sequence[float], at: int) -> list[float]:
    return [*values[:at], *values[at + 1 :]]


def _right(item: Item) -> int:
    return [span.role for span in item.sample.spans if span.role in ENDINGS].index("right")


def _has_story(item: Item) -> bool:
    return any(span.role not in ENDINGS for span in item.sample.spans)


def _problem(item: Item, mode: str) -> str:
    """Why an item cannot be asked in a mode; empty where it can."""
    endings = [span for span in item.sample.spans if span.role in ENDINGS]
    num_right = sum(span.role == "right" for span in endings)
    if num_right != 1 or len(endings) < 2:
        return (
            f"has {num_right} right and {len(endings) - num_right} wrong endings; it must have one right and at least one wrong"
        )
    if mode != "speech_to_speech" and not all(span.text.strip() for span in endings):
        return f"mode {mode} reads the endings, but their text is not given"
    if mode == "text":
        return (
            "" if all(span.text.strip() for span in item.sample.spans) else "mode text reads the story, but its text is not given"
        )
    if mode == "speech" and not _has_story(item):
        return "mode speech hears what comes before the endings, but nothing does"
    heard = item.sample.codes is not None or (item.audio is not None and item.sample.duration_s > 0)
    return "" if heard else f"mode {mode} needs its sound, but it has none"
