"""How long one waits for an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bcaudio.audio.io import resample
from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.evaluation.hearing import TARGET_RATE
from bcaudio.inference.asking import asked
from bcaudio.inference.encoding import with_codes
from bcaudio.inference.prompt import Prompt
from bcaudio.metrics.mean import Mean

SPEECH_RATE = 24000
FIGURES = {  # name: (unit, higher is better)
    "first_text_token_s": ("s", False),
    "first_audio_frame_s": ("s", False),
    "text_s": ("s", False),
    "whole_answer_s": ("s", False),
    "speech_real_time_factor": ("seconds of sound per second of computing", True),
}


class Waits(Mean):
    """The mean of a figure over items, with its median and 95th percentile (of this rank's items), and the conditions.

    Args:
        conditions: what the figures hold for.
    """

    def __init__(self, name: str, conditions: Mapping[str, Any]) -> None:
        super().__init__(name, *FIGURES[name])
        self.conditions = dict(conditions)

    def counts(self) -> dict[str, Any]:
        """Beside the counts of Mean `p50`, `p95` and the conditions."""
        p50, p95 = np.percentile(self.rows[:, 0], (50, 95)).tolist() if len(self.rows) else (None, None)
        return {**super().counts(), "p50": p50, "p95": p95, **self.conditions}


class Latency:
    """`latency.first_text_token_s`, `.text_s`, `.first_audio_frame_s`, `.whole_answer_s` and `.speech_real_time_factor`: one
    question at a time, from its sound in memory.

    Every item is answered twice. The first answer stops early: it is timed to the first token of its text (hearing and encoding
    the question included), to the end of the text, and to the first frame of codes. The second is the system's own: it is timed
    until the waveform is there, and the real-time factor is the seconds of sound over what came after the text. One more before
    the first item is not timed. A remote system tells the whole answer alone, the network included.

    The figures are this machine's, while nothing else runs on it: with several ranks on one machine they disturb each other.

    Args:
        shards: tar files or globs with audio; or
        data: a corpus of `bcaudio.evaluation.corpora`.
        limit: at most so many items.
        language, corpus, split: filters of the shards; None keeps all.
        spoken: whether the answer is spoken (task `dialogue`), or written only (`aqa`).
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before the figure.
    """

    batch_size = 1

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        *,
        data: Corpus | None = None,
        limit: int | None = 20,
        language: str | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        spoken: bool = True,
        audio_llm: str | None = None,
        name: str = "latency",
    ) -> None:
        self.corpus = corpus_of(shards, data, limit, language=language, corpus=corpus, split=split)
        self.spoken, self.audio_llm, self.name = spoken, audio_llm, name
        self._warm: Any = None

    def items(self) -> list[Item]:
        return self.corpus.items(self.name)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        is_local = hasattr(system, "generator")
        with _uncached(system):
            if is_local and self._warm is not system:
                self._answer(system, items[0], is_local)
                self._warm = system
            return [self._answer(system, item, is_local) for item in items]

    def _answer(self, system: Any, item: Item, is_local: bool) -> Output:
        question, task = question_of(item), "dialogue" if self.spoken else "aqa"
        figures = first_sounds(system, question, task) if is_local else {}
        device = str(getattr(system, "device", "remote"))
        now, sound = _clock(device), None
        if self.spoken:
            answer = system.speak([question], task)[0]
            text, sound = answer.text, len(answer.waveform) / SPEECH_RATE
        else:
            text = system.answer_text([question], task)[0]
        figures |= {"whole_answer_s": now()}
        speaking_s = figures["whole_answer_s"] - figures.get("text_s", math.inf)
        if sound and speaking_s > 0:
            figures["speech_real_time_factor"] = sound / speaking_s
        conditions = {"batch": 1, "threads": torch.get_num_threads(), "device": device}
        return (
            {"id": item.id, "language": item.sample.language, "text": text, "duration_s": sound}
            | figures
            | {"conditions": conditions}
        )

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, Waits | Absent]:
        metrics: dict[str, Waits | Absent] = {}
        for figure in FIGURES:
            known = [out for out in outputs if figure in out]
            if not known:
                metrics[f"{self.name}.{figure}"] = Absent("no item has it: a remote system, nothing spoken, or a written answer")
                continue
            seen = {name: sorted({out["conditions"][name] for out in known}) for name in known[0]["conditions"]}
            metric = Waits(figure, {name: values[0] if len(values) == 1 else values for name, values in seen.items()})
            metric.update([out[figure] for out in known], [out["id"] for out in known])
            metrics[f"{self.name}.{figure}"] = metric
        return metrics


def question_of(item: Item) -> Item:
    """The first span of an item alone, its sound in memory and without codes, so that hearing costs what it costs."""
    waveform, span = item.waveform(TARGET_RATE), item.sample.spans[0]
    if len(item.sample.spans) > 1:
        waveform = waveform[round(span.start_s * TARGET_RATE) : round(span.end_s * TARGET_RATE)]
    seconds = len(waveform) / TARGET_RATE
    alone = {"text": span.text, "spans": (replace(span, start_s=0.0, end_s=seconds),), "duration_s": seconds, "words": ()}
    sample = replace(item.sample, **alone, codes=None, span_num_codes=())
    return Item(sample, partial(resample, waveform, TARGET_RATE))


@torch.inference_mode()
def first_sounds(system: Any, question: Item, task: str) -> dict[str, float]:
    """Seconds from a question to the first token of its answer's text, to the end of that text and, in the task `dialogue`, to
    the first frame of codes: the steps of the system's own answer, stopped there.
    """
    special, generator = system.text_tokenizer.special, system.generator
    spoken = task == "dialogue"
    stops = {special.audiogen_start, special.eos} if spoken else {special.eos}
    limit = system.max_reply_tokens if spoken else system.max_text_tokens
    now = _clock(system.device)
    sample = with_codes([question], system.tokenizer, system.codes_fingerprint)[0]
    state = generator.start([Prompt(*system.builder.prompt(asked(task, sample)))])
    first = generator.generate_text(state, 1, stops)[0]
    figures = {"first_text_token_s": now()}
    if first[0] not in stops:
        generator.generate_text(state, limit - 1, stops)
    figures["text_s"] = now()
    if spoken:
        state.ids[0][-1] = special.audiogen_start
        if len(generator.generate_audio(state, 1, system.speech_options)[0]):
            figures["first_audio_frame_s"] = now()
    return figures


@contextmanager
def _uncached(system: Any) -> Iterator[None]:
    """Meanwhile an endpoint is really asked: an answer out of its client's cache tells no time."""
    clients = [client for name in ("client", "speaker") if (client := getattr(system, name, None)) is not None]
    caches = [client.cache for client in clients]
    for client in clients:
        client.cache = None
    try:
        yield
    finally:
        for client, cache in zip(clients, caches, strict=True):
            client.cache = cache


def _clock(device: str) -> Callable[[], float]:
    """Gives the seconds since now, once the device has done what it was given."""
    cuda = str(device).startswith("cuda")

    def now() -> float:
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    return lambda: now() - start
