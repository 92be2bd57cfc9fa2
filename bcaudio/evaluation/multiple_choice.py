"""Multiple choice in writing: what the text LLM knows, by the likelihood of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal, get_args

from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.metrics.accuracy import ChoiceAccuracy
from bcaudio.metrics.counting import CountingMetric

By = Literal["letter", "text"]
PROMPT = "multiple-choice-1"  # name of the wording below; a change needs another one
WORDING = {
    "en": ("Multiple-choice questions about {subject}, each followed by its answer.", "Question: ", "Answer:", " "),
    "zh": ("下面是关于{subject}的单选题，每题之后是它的答案。", "问题：", "答案：", ""),
}


class MultipleChoice:
    """`<name>.accuracy` over all questions and `<name>.<subject>.accuracy`: the right choice is the likeliest continuation.

    The model reads `shots` worked examples of the same subject and the question, and of every choice the log-likelihood is taken
    as what comes next (MMLU, CMMLU; retention of arXiv 2502.17239, section 3.3). Chance is one over the number of choices.

    - `letter`: the choices stand below the question, and the letters compete.
    - `text`: the choices are not shown, and their texts compete, by log-likelihood per byte of UTF-8.

    Args:
        data: a corpus whose items have the fields `choices`, `right` (its index), `category` and `shots`, such as
            MultipleChoiceCSV.
        by: what competes.
        limit: at most so many questions, spread evenly.
        batch_size: questions per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the first part of the keys.

    Raises:
        ValueError: another `by`.
    """

    def __init__(
        self,
        data: Corpus,
        by: By = "letter",
        limit: int | None = None,
        batch_size: int = 8,
        audio_llm: str | None = None,
        name: str = "multiple_choice",
    ) -> None:
        if by not in get_args(By):
            raise ValueError(f"{name}: by is {by!r}; it must be one of {', '.join(get_args(By))}")
        self.corpus, self.by, self.batch_size = corpus_of(None, data, limit), by, batch_size
        self.audio_llm, self.name = audio_llm, name

    def items(self) -> list[Item]:
        return self.corpus.items(self.name)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        prompts, endings = [self.prompt(item) for item in items], [self.endings(item) for item in items]
        outputs = []
        for item, rows, texts in zip(items, system.continuation_scores(prompts, endings), endings, strict=True):
            scores = [
                float(row) / (1 if self.by == "letter" else len(text.encode())) for row, text in zip(rows, texts, strict=True)
            ]
            best, right = max(range(len(scores)), key=lambda i, scores=scores: scores[i]), int(item.fields["right"])
            outputs.append(
                {
                    "id": item.id,
                    "language": item.sample.language,
                    "category": item.fields["category"],
                    "question": item.sample.text,
                    "reference": f"{ascii_uppercase[right]}. {item.fields['choices'][right]}",
                    "hypothesis": f"{ascii_uppercase[best]}. {item.fields['choices'][best]}",
                    "right": right,
                    "scores": scores,
                    "prompt": PROMPT,
                }
            )
        return outputs

    def prompt(self, item: Item) -> str:
        """All that is read before a choice."""
        opening, _, _, gap = _wording(item)
        shown = [self._block(item, shot) + gap + self._answer(shot) for shot in item.fields.get("shots", ())]
        asked = self._block(item, {"question": item.sample.text, **item.fields})
        return "\n\n".join([opening.format(subject=item.fields["category"].replace("_", " ")), *shown, asked])

    def endings(self, item: Item) -> list[str]:
        """What competes: one continuation of the prompt per choice."""
        gap, choices = _wording(item)[-1], item.fields["choices"]
        return [gap + self._answer({"choices": choices, "right": i}) for i in range(len(choices))]

    def _answer(self, entry: Mapping[str, Any]) -> str:
        right = entry["right"]
        return ascii_uppercase[right] if self.by == "letter" else entry["choices"][right]

    def _block(self, item: Item, entry: Mapping[str, Any]) -> str:
        _, question, answer, _ = _wording(item)
        choices = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, entry["choices"], strict=False)]
        return "\n".join([question + entry["question"], *(choices if self.by == "letter" else ()), answer])

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric | Absent]:
        subjects = sorted({out["category"] for out in outputs})
        results: dict[str, CountingMetric | Absent] = {f"{self.name}.accuracy": _accuracy(outputs)}
        for subject in subjects:
            results[f"{self.name}.{subject}.accuracy"] = _accuracy([out for out in outputs if out["category"] == subject])
        return results


def _wording(item: Item) -> tuple[str, str, str, str]:
    return WORDING["zh" if item.sample.language == "zh" else "en"]


def _accuracy(outputs: Sequence[Output]) -> ChoiceAccuracy | Absent:
    if not outputs:
        return Absent("no question was asked")
    metric = ChoiceAccuracy()
    rows = [[out["scores"][out["right"]], *(s for i, s in enumerate(out["scores"]) if i != out["right"])] for out in outputs]
    metric.update_scores(rows, ids=[out["id"] for out in outputs])
    return metric
