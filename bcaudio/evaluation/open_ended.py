"""Open-ended questions: no answer is the right one, so a judge gives marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bcaudio.evaluation.benchmark import Absent, Corpus, Item, Output, Scoring, corpus_of
from bcaudio.evaluation.judge import Judge
from bcaudio.evaluation.question_answering import Asked, Judging, Mode, failures
from bcaudio.evaluation.recognizers import Recognizer
from bcaudio.metrics.counting import CountingMetric
from bcaudio.metrics.mean import Mean

MARKS = 10  # the best mark where the judge does not say its own


class OpenEnded(Asked):
    """`<name>.<mode>.score`: the mean mark of a judge, 1 to 10 (AlpacaEval of OpenAudioBench; arXiv 2502.17239, section 4, gives
    ten times that, in percent) or to what the judge's prompt says (1 to 5 in VoiceBench's alpacaeval and commoneval).

    Modes as in QuestionAnswering; with `speech_to_speech` the judge reads what the recogniser heard, and
    `<name>.speech_to_speech.text_score` is of the text that goes with that speech.

    Args:
        judge: an LLM with a prompt that asks for marks, such as OpenAIJudge or HuggingFaceJudge with `open-ended-1`.
        shards, data, modes, language, limit, corpus, split, batch_size, audio_llm, recognizer: as in QuestionAnswering.
        name: the key before the mode.

    Raises:
        ValueError: no judge, or one that gives no marks; an unknown mode; both or none of shards and data.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        modes: Sequence[Mode] = ("speech_to_text",),
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
        data: Corpus | None = None,
        judge: Judge | None = None,
        recognizer: Recognizer | None = None,
        name: str = "open_ended",
    ) -> None:
        if judge is None:
            raise ValueError(
                f"{name}: open-ended answers need a judge; name one under `judge`, such as "
                "bcaudio.evaluation.judge.OpenAIJudge with prompt open-ended-1"
            )
        source = corpus_of(shards, data, limit, language=language, corpus=corpus, split=split)
        super().__init__(source, modes, batch_size, audio_llm, recognizer)
        self.name, self.judging = name, Judging(judge)
        best_mark(judge, name)

    def items(self) -> list[Item]:
        return self.corpus.items(self.name)

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric | Absent]:
        results: dict[str, CountingMetric | Absent] = {}
        for mode in self.modes:
            chosen = [out for out in outputs if out["mode"] == mode]
            results[f"{self.name}.{mode}.score"] = self._marked(chosen, scoring, "hypothesis")
            if mode == "speech_to_speech":
                results[f"{self.name}.{mode}.text_score"] = self._marked(chosen, scoring, "text")
        return results

    def _marked(self, outputs: Sequence[Output], scoring: Scoring, hypothesis: str) -> CountingMetric | Absent:
        judge = self.judging.of(scoring)
        best, verdicts = best_mark(judge, self.name), self.judging.verdicts(outputs, scoring, hypothesis)
        failed = failures(outputs, verdicts)
        pairs = [(out["id"], verdict.score) for out, verdict in zip(outputs, verdicts, strict=True) if verdict.score is not None]
        if not pairs:
            return Absent("; ".join([failed["note"], *failed["failed"]]) if failed else "no item was asked")
        metric = MeanMark(best)
        metric.update([score * best for _, score in pairs], ids=[name for name, _ in pairs])
        metric.details = {"judge": judge.stamp, **failed}
        return metric


class MeanMark(Mean):
    """Mean of marks from 1 to `best`. `details` stand beside its counts: who judged, and what could not be judged."""

    def __init__(self, best: int) -> None:
        super().__init__("score", f"of {best}", higher_is_better=True)
        self.details: dict[str, Any] = {}

    def counts(self) -> dict[str, Any]:
        """As of Mean, and the details."""
        return {**super().counts(), **self.details}


def best_mark(judge: Any, where: str) -> int:
    """The best mark that a judge gives; ValueError for one whose prompt asks for yes or no."""
    prompt = getattr(judge, "prompt", None)
    if prompt is None or isinstance(prompt, str):
        return MARKS
    if prompt.scale is None:
        raise ValueError(f"{where}: the judge's prompt {prompt.name} asks for yes or no, not for marks; name open-ended-1")
    return int(prompt.scale)
