"""Questions with short answers: read or heard, answered in text or in speech."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.evaluation.calibration import Calibration, calibrate, corrected_accuracy, read_calibration
from bcaudio.evaluation.judge import ExactMatch, Judge, Question, Verdict
from bcaudio.evaluation.recognizers import Auditor, Recognizer
from bcaudio.metrics.accuracy import Accuracy
from bcaudio.metrics.counting import CountingMetric

Mode = Literal["text", "speech_to_text", "speech_to_speech"]
SPEECH_RATE = 24000
THRESHOLD = 0.5  # a score from which on an answer counts as right, where it is compared with people's marks
NUM_REASONS = 5  # shown of the verdicts that failed


def references_of(item: Item) -> list[str]:
    """What counts as right: the field `references`, else the sample's `answer`, else the assistant's words; empty without any."""
    return list(item.fields.get("references") or filter(None, [answer_of(item.sample)]))


def answer_of(sample: Sample) -> str:
    """What the answer should be: the `answer` field, else the assistant's words; "" for a sample without either."""
    return sample.answer or " ".join(span.text for span in sample.spans if span.role == "assistant")


def question_of(sample: Sample) -> str:
    """What is asked: the words of the user's spans, else all words."""
    return " ".join(span.text for span in sample.spans if span.role == "user") or sample.text


class Judging:
    """Verdicts on outputs, each question judged once however often it is scored.

    Args:
        judge: the benchmark's own; None takes exact match under the scoring's normaliser.
        calibration: file of answers that people have marked (bcaudio.evaluation.calibration); the judge is asked for them too.
    """

    def __init__(self, judge: Judge | None, calibration: str | None = None) -> None:
        self.judge, self._known = judge, {}
        self._marked = None if calibration is None else read_calibration(calibration)
        self._calibrations: dict[str, Calibration] = {}

    def of(self, scoring: Scoring) -> Judge:
        """The judge that is asked: the scoring's, else the benchmark's own, else exact match."""
        return scoring.judge or self.judge or ExactMatch(scoring.normalizer)

    def verdicts(self, outputs: Sequence[Output], scoring: Scoring, hypothesis: str = "hypothesis") -> list[Verdict]:
        """One verdict per output, in their order."""
        questions, judge = [_question(out, hypothesis) for out in outputs], self.of(scoring)
        known = self._known if judge is self.judge else {}
        new = list(dict.fromkeys(question for question in questions if question not in known))
        known |= zip(new, judge.judge(new) if new else (), strict=True)
        return [known[question] for question in questions]

    def corrected(self, scores: Sequence[float], scoring: Scoring) -> dict[str, Any]:
        """What people would find, from the judge's scores; nothing without a calibration set."""
        if self._marked is None:
            return {}
        judge = self.of(scoring)
        key = json.dumps(judge.stamp, sort_keys=True, default=str)
        if key not in self._calibrations:
            self._calibrations[key] = calibrate(judge, self._marked, THRESHOLD)
        calibration = self._calibrations[key]
        found: dict[str, Any] = {"calibration": calibration.report()}
        try:
            value, low, high = corrected_accuracy(sum(score >= THRESHOLD for score in scores), len(scores), calibration)
        except ValueError as error:
            return {**found, "note": str(error)}
        marked = calibration.num_right + calibration.num_wrong
        kappa = "-" if calibration.kappa is None else f"{calibration.kappa:.2f}"
        note = f"corrected for the judge's errors: {value:.4g} [{low:.4g}, {high:.4g}] (kappa {kappa} on {marked} marked answers)"
        return {**found, "corrected": {"value": value, "ci": [low, high]}, "note": note}


def _question(out: Output, hypothesis: str) -> Question:
    references = tuple(out.get("references", [out["reference"]]))
    return Question(out["id"], out.get("question", ""), references, out[hypothesis], out["language"])


def failures(outputs: Sequence[Output], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`num_failed` and the reasons of verdicts that could not be had; nothing where all were."""
    failed = [f"{out['id']}: {verdict.error}" for out, verdict in zip(outputs, verdicts, strict=True) if verdict.score is None]
    if not failed:
        return {}
    return {"num_failed": len(failed), "failed": failed[:NUM_REASONS], "note": f"{len(failed)} of {len(outputs)} had no verdict"}


class JudgedAccuracy(Accuracy):
    """Right answers / answers with a verdict. `details` stand beside its counts: who judged, and what could not be judged."""

    def __init__(self) -> None:
        super().__init__()
        self.details: dict[str, Any] = {}

    def counts(self) -> dict[str, Any]:
        """Right answers and answers, and the details."""
        return {**super().counts(), **self.details}


def judged(
    outputs: Sequence[Output],
    judging: Judging,
    scoring: Scoring,
    hypothesis: str = "hypothesis",
    by: Sequence[str] = ("language",),
) -> JudgedAccuracy | Absent:
    """Share of right answers, with `correct_*` and `total_*` for every value of the outputs' fields `by`.

    An output whose verdict failed is neither right nor wrong: it is left out, and counted in `num_failed`.
    """
    verdicts = judging.verdicts(outputs, scoring, hypothesis)
    pairs = [(out, verdict.score) for out, verdict in zip(outputs, verdicts, strict=True) if verdict.score is not None]
    failed, stamp = failures(outputs, verdicts), judging.of(scoring).stamp
    if not pairs:
        return Absent("; ".join([failed["note"], *failed["failed"]]) if failed else "no item was asked")
    metric = JudgedAccuracy()
    metric.update([score for _, score in pairs], ids=unique_ids([out for out, _ in pairs]))
    for group in sorted({out[field] for out, _ in pairs for field in by}):
        scores = [score for out, score in pairs if group in (out[field] for field in by)]
        correct = sum(scores)
        metric.details |= {
            f"correct_{group}": int(correct) if correct == int(correct) else correct,
            f"total_{group}": len(scores),
        }
    heard_by = {"recognizer": pairs[0][0]["recognizer"]} if hypothesis == "hypothesis" and "recognizer" in pairs[0][0] else {}
    corrected = judging.corrected([score for _, score in pairs], scoring)
    notes = [part["note"] for part in (failed, corrected) if "note" in part]
    metric.details |= {"judge": stamp, **heard_by, **failed, **corrected, **({"note": "; ".join(notes)} if notes else {})}
    return metric


def unique_ids(outputs: Sequence[Output]) -> list[str]:
    """The ids; an item that was asked under two tasks has the task behind its id."""
    ids = [out["id"] for out in outputs]
    return ids if len(set(ids)) == len(ids) else [f"{out['id']} {out.get('task', '')}".strip() for out in outputs]


class Asked:
    """Items that are asked in several modes: what question answering and open-ended questions share.

    Args:
        corpus: gives the items.
        modes, batch_size, audio_llm, recognizer: as in QuestionAnswering; ValueError for an unknown mode.
    """

    judging: Judging

    def __init__(
        self, corpus: Corpus, modes: Sequence[Mode], batch_size: int, audio_llm: str | None, recognizer: Recognizer | None
    ) -> None:
        unknown = [mode for mode in modes if mode not in get_args(Mode)]
        if unknown or not modes:
            raise ValueError(f"{type(self).__name__}: modes {list(modes)} must be some of {', '.join(get_args(Mode))}")
        self.corpus, self.modes, self.batch_size, self.audio_llm = corpus, list(modes), batch_size, audio_llm
        self.recognizer = recognizer or Auditor()

    @property
    def judge(self) -> Judge | None:
        """The benchmark's own judge."""
        return self.judging.judge

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs: list[Output] = []
        for mode in self.modes:
            if mode == "speech_to_speech":
                outputs += self._spoken(system, items, examples)
                continue
            ask = system.answer_text_from_text if mode == "text" else system.answer_text
            outputs += [output_of(item, mode, text) for item, text in zip(items, ask(items, "aqa"), strict=True)]
        return outputs

    def _spoken(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        recognizer, heard = self.recognizer.of(system), {}
        answers = system.speak(items, "dialogue")
        for language in dict.fromkeys(item.sample.language for item in items):
            chosen = [i for i, item in enumerate(items) if item.sample.language == language]
            texts = recognizer.hear([answers[i].waveform for i in chosen], SPEECH_RATE, language)
            heard |= zip(chosen, texts, strict=True)
        outputs = []
        for i, (item, answer) in enumerate(zip(items, answers, strict=True)):
            found = {"text": answer.text, "recognizer": recognizer.stamp}
            if len(answer.waveform):
                found["audio"] = examples.save(item.id, "answer", answer.waveform, SPEECH_RATE)
                players = {"answer": (answer.waveform, SPEECH_RATE)}
                expected = " | ".join(references_of(item))
                examples.audio(item.id, f"question: {question_of(item.sample)}", answer.text, heard[i], expected, players)
            outputs.append({**output_of(item, "speech_to_speech", heard[i]), **found})
        return outputs


def output_of(item: Item, mode: str, text: str) -> Output:
    """What is kept of an answer, whatever way it was given."""
    references = references_of(item)
    return {
        "id": item.id,
        "language": item.sample.language,
        "mode": mode,
        "question": question_of(item.sample),
        "reference": references[0] if references else "",
        "references": references,
        "hypothesis": text,
    }


class QuestionAnswering(Asked):
    """`aqa.<mode>.accuracy`: right answers (arXiv 2502.17239, section 4, OpenAudioBench S->T and S->S).

    - `text`: the question's text is read and the answer written: the ceiling that the text LLM sets.
    - `speech_to_text`: the question is heard and the answer written.
    - `speech_to_speech`: the question is heard and the answer spoken; a recogniser writes down what it hears, and that is judged.
      `aqa.speech_to_speech.text_accuracy` is of the text that goes with that speech.

    Args:
        shards: tar files or globs with codes (`text` needs none); or
        data: a corpus of bcaudio.evaluation.corpora, such as OpenAudioBench.
        modes: which of the three.
        language, corpus, split: filters of the shards; None keeps all.
        limit: at most so many items, spread evenly.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        judge: who says what is right; None: equal to one of the references under the normaliser.
        recognizer: who hears spoken answers; None: the system's auditor.
        name: the key before the mode.
        calibration: answers that people have marked, in the form of bcaudio.evaluation.calibration: how far the judge agrees with
            them, and the accuracy that people would find, stand beside the judge's.

    Raises:
        ValueError: an unknown mode; both or none of shards and data; a calibration set that cannot be read.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        modes: Sequence[Mode] = ("text", "speech_to_text"),
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
        data: Corpus | None = None,
        judge: Judge | None = None,
        recognizer: Recognizer | None = None,
        name: str = "aqa",
        calibration: str | None = None,
    ) -> None:
        source = corpus_of(shards, data, limit, language=language, corpus=corpus, split=split)
        super().__init__(source, modes, batch_size, audio_llm, recognizer)
        self.judging, self.name = Judging(judge, calibration), name

    def items(self) -> list[Item]:
        """The items; one without a right answer says so in its `problem`."""
        found = self.corpus.items(self.name)
        return [replace(item, problem=item.problem or _unanswered(item)) for item in found]

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric | Absent]:
        results: dict[str, CountingMetric | Absent] = {}
        for mode in self.modes:
            chosen = [out for out in outputs if out["mode"] == mode]
            results[f"{self.name}.{mode}.accuracy"] = judged(chosen, self.judging, scoring)
            if mode == "speech_to_speech":
                results[f"{self.name}.{mode}.text_accuracy"] = judged(chosen, self.judging, scoring, "text")
        return results


def _unanswered(item: Item) -> str:
    if any(map(str.isalnum, "".join(references_of(item)))):
        return ""
    return "empty reference: neither an answer nor an assistant's span; choose another corpus for question answering"
