"""The time of evaluation: scoring stored outputs, asking in batches, and being cut off.

`batching` and `resume` ask a finished run of recipes/micro/pipeline.yaml: runs/micro, or the folder in BCAUDIO_RUN.
"""

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jiwer
import torch

from bcaudio.evaluation import inferring
from bcaudio.evaluation.asr import SpeechRecognition
from bcaudio.evaluation.benchmark import Examples, Item
from bcaudio.evaluation.bootstrap import confidence_interval
from bcaudio.inference.system import System
from bcaudio.metrics.error_rate import ErrorRate
from benchmarks.measure import Row, WrongResultError, alternate_calmly


def _transcripts(count: int, words: int, vocabulary: int = 20_000) -> tuple[list[str], list[str]]:
    """(hypotheses, references): texts of so many words, one word in ten replaced, dropped or followed by another."""
    rng = random.Random(0)
    known = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(vocabulary)]
    references = [rng.choices(known, k=words) for _ in range(count)]
    hypotheses = []
    for reference in references:
        heard: list[str] = []
        for word in reference:
            luck = rng.random()
            heard += [rng.choice(known)] if luck < 0.05 else [] if luck < 0.08 else [word]
            heard += [rng.choice(known)] if luck > 0.98 else []
        hypotheses.append(" ".join(heard))
    return hypotheses, [" ".join(reference) for reference in references]


def scoring(count: int = 100_000, words: int = 20, num_samples: int = 1000, repeats: int = 3) -> list[Row]:
    """Word error rate by kind of error with a bootstrap interval against one call of jiwer without."""
    hypotheses, references = _transcripts(count, words)
    ids = [f"utterance-{n:06d}" for n in range(count)]
    found: dict[str, list[float]] = {}

    def ours() -> None:
        metric = ErrorRate("en")
        metric.update(hypotheses, references, ids)
        low, high = confidence_interval(metric, num_samples)
        report = metric.report()
        found["ours"] = [report["wer"], report["substitutions"], report["deletions"], report["insertions"]]
        found["interval"] = [low, high]

    def peer() -> None:
        edits = jiwer.process_words(references, hypotheses)
        found["peer"] = [edits.wer, edits.substitutions, edits.deletions, edits.insertions]

    (ours_s, peer_s), note = alternate_calmly(ours, peer, repeats=repeats, warm_up=False)
    low, high = found["interval"]
    if found["ours"] != found["peer"] or not low < found["ours"][0] < high:
        raise WrongResultError(f"scoring: ours {found['ours']}, interval {low:g} to {high:g}, jiwer {found['peer']}")
    what = (
        f"{count} utterances of {words} words, WER {found['ours'][0]:.4f} [{low:.4f}, {high:.4f}]; ours: normalisation, edits by "
        f"kind and utterance, interval of {num_samples} resamples; peer: jiwer.process_words on the same texts, neither "
        f"normalised nor resampled; substitutions, deletions and insertions are equal{note}"
    )
    return [Row("scoring.wer", ours_s, peer_s, "s", ours_s / peer_s, "<=", 3.0, what)]


def _run(entry: str) -> Path | None:
    """The run to ask; None, said on stderr, where there is none."""
    run = Path(os.environ.get("BCAUDIO_RUN", "runs/micro"))
    if (run / "sft" / "stage.json").is_file() and (run / "codes" / "shards").is_dir():
        return run
    print(f"{entry}: skipped: {run} holds no finished run; BCAUDIO_RUN=FOLDER names one", file=sys.stderr)
    return None


def _recognition(run: Path, batch_size: int, language: str = "en", num_items: int | None = None) -> SpeechRecognition:
    """The test items; or so many of all splits, where only the time counts."""
    of = "test" if num_items is None else "*"
    shards = [f"{run}/codes/shards/{corpus}-{of}-*.tar" for corpus in ("numbers", "sums")]
    split = "test" if num_items is None else None
    return SpeechRecognition(shards, language=language, batch_size=batch_size, split=split, limit=num_items)


def batching(batch_size: int = 32, repeats: int = 3) -> list[Row]:
    """Recognition by the micro model in batches of like length against one item at a time."""
    if (run := _run("batching")) is None:
        return []
    system, benchmark = System.of_run(run), _recognition(run, batch_size)
    items, said = benchmark.items(), {}
    examples = Examples(Path("nowhere"), Path("nowhere"), limit=0)

    def ask(size: int) -> None:
        batches = inferring.batches_of(items, size)
        said[size] = {out["id"]: out["hypothesis"] for batch in batches for out in benchmark.ask(system, batch, examples)}

    (ours_s, peer_s), note = alternate_calmly(lambda: ask(batch_size), lambda: ask(1), repeats=repeats, warm_up=False)
    if said[batch_size] != said[1]:
        raise WrongResultError("batching: an item's answer depends on its batch")
    what = (
        f"{len(items)} utterances of the micro test set through the micro model, {torch.get_num_threads()} threads; ours: "
        f"batches of {batch_size} by length, peer: one by one; the answers are equal{note}"
    )
    ours, peer = len(items) / ours_s, len(items) / peer_s
    return [Row("batching.recognition", ours, peer, "items/s", ours / peer, ">=", 3.0, what)]


class _Logged:
    """A system that writes down when it was asked and when it had answered (the clock of the whole machine)."""

    def __init__(self, system: System, log: Path) -> None:
        self.system, self.log, self.description = system, log, {}

    def answer_text(self, items: Sequence[Item], task: str) -> list[str]:
        self._write("asked")
        answers = self.system.answer_text(items, task)
        self._write("answered")
        return answers

    def _write(self, what: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{what} {time.monotonic()}\n")

    def times(self, ends: Sequence[float] = ()) -> list[float]:
        """Seconds of every question; one that was cut off lasted until the kill."""
        seconds, asked = [], None
        told = [line.split() for line in self.log.read_text().splitlines()]
        for what, at in sorted([(what, float(at)) for what, at in told] + [("killed", at) for at in ends], key=lambda e: e[1]):
            if what == "asked":
                asked = at
            elif asked is not None:
                seconds.append(at - asked)
                asked = None
        return seconds


def _suite(system: _Logged, run: Path, out: Path, batch_size: int, num_items: int) -> None:
    torch.set_num_threads(1)
    benchmarks = {language: _recognition(run, batch_size, language, num_items) for language in ("en", "zh")}
    system.system.answer_text(benchmarks["en"].items()[:batch_size], "asr")  # the first one is slow in every process
    recipe = {"system": {}, "benchmarks": {name: {"run": str(run), "batch_size": batch_size} for name in benchmarks}}
    inference = inferring.Inference(recipe, out, {})
    inference.system = system
    plans, _ = inference.plan(benchmarks)
    for name, benchmark in benchmarks.items():
        inference.outputs(name, benchmark, plans[name])


def resume(batch_size: int = 4, num_items: int = 600, kills: int = 5) -> list[Row]:
    """A suite that is killed five times in the middle of a batch against the same without."""
    if (run := _run("resume")) is None:
        return []
    fork = multiprocessing.get_context("fork")
    torch.set_num_threads(1)  # threads of a pool do not live on in a forked process
    system = System.of_run(run)

    with tempfile.TemporaryDirectory(prefix="bcaudio-") as name:
        folder = Path(name)

        def through(what: str, waits: Sequence[float]) -> tuple[float, float]:
            """Seconds asked and seconds in all; killed so many seconds after each start's first question."""
            logged, ends, started = _Logged(system, folder / f"{what}.txt"), [], time.monotonic()
            (folder / what).mkdir()
            for wait_s in [*waits, None]:
                before = logged.log.stat().st_size if logged.log.exists() else 0
                child = fork.Process(target=_suite, args=(logged, run, folder / what, batch_size, num_items))
                child.start()
                if wait_s is not None:
                    while not logged.log.exists() or logged.log.stat().st_size == before:
                        time.sleep(0.001)
                    time.sleep(wait_s)
                    os.kill(child.pid, signal.SIGKILL)
                    ends.append(time.monotonic())
                child.join()
            return sum(logged.times(ends)), time.monotonic() - started

        files = [f"outputs/{language}.jsonl" for language in ("en", "zh")]
        whole_s, whole_all_s = through("whole", [])
        cut_s, cut_all_s = through("cut", [whole_s / (kills + 2) * (0.9 + 0.05 * kill) for kill in range(kills)])
        if any((folder / f"cut/{file}").read_bytes() != (folder / f"whole/{file}").read_bytes() for file in files):
            raise WrongResultError("resume: the outputs differ from those of the uninterrupted suite")
    what = (
        f"seconds in which the micro model was asked to write down 2 x {num_items} utterances in batches of {batch_size}, one "
        f"thread, killed by SIGKILL {kills} times; outputs equal byte by byte; with reading items, what is done and a first "
        f"question (but without starting Python and loading the model) {cut_all_s:.2f} s against {whole_all_s:.2f} s"
    )
    return [Row("resume.asked", cut_s, whole_s, "s", cut_s / whole_s, "<=", 1.05, what)]


ENTRIES: dict[str, Callable[[], list[Row]]] = {"scoring": scoring, "batching": batching, "resume": resume}
