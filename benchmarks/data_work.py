"""What the suite `data` measures in processes of its own; nothing here loads torch, as `python -m data_prep` does not."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.audio.io import write_audio
from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import read_header
from bcaudio.data.shards import write_shard
from data_prep.engine import Engine
from data_prep.pipeline import Pipeline
from data_prep.sources.manifest import Manifest
from data_prep.sources.micro_world import MicroWorld
from data_prep.steps.align import Align
from data_prep.steps.interleave import Interleave
from data_prep.steps.recognisers import CTCStage
from data_prep.steps.segment import Segment
from data_prep.steps.synthesize_text import SynthesizeText
from data_prep.steps.vad import CutSpeech
from data_prep.steps.words import pieces_of, places_of
from data_prep.task import Task
from data_prep.utterance import Clip, Drops, Word


def open_step(folder: str) -> Callable[[], ShardIndex]:
    """For `peak_growth`: opening the shards of a folder."""
    return lambda: ShardIndex(f"{folder}/*.tar")


class Pretend:
    """An engine that leaves an empty shard and a done-record for every task, as if its work were done."""

    def map(self, function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """`function` is not called."""
        for task in tasks:
            write_shard([], task.tar, dict(task.fingerprint))
            record = {"shard": task.tar.stem, "inputs_sha256": task.inputs_sha256, "sha256": read_header(task.tar)["sha256"]}
            record |= {"num_samples": 0, "duration_s": 0.0, "into": {}, "drops": []}
            task.done.parent.mkdir(parents=True, exist_ok=True)
            task.done.write_text(json.dumps(record), encoding="utf-8")
            yield task, record


def spoken(corpus: str, split: str, count: int) -> Iterator[Clip]:
    """Clips of the micro world, en and zh in turn, said by espeak-ng with the exact time of every word; drawn anew each time.

    Args:
        corpus: numbers, stories, ...
        split: test has voices and texts that no training split holds.
        count: at most so many per language.
    """
    world = MicroWorld(corpus, *((count, 0) if split == "train" else (0, count)))
    utterances = world.list_utterances(0, Path()).utterances
    empty = np.zeros(0, np.float32)
    clips = (Clip(utterances[i + half], empty, 24_000) for i in range(count) for half in (0, count))
    return SynthesizeText(pause_s=(0.1, 0.2))(clips, Drops())


def record_speech(folder: str, hours: float) -> float:
    """Leave a manifest of recordings in `folder`: a story each, half a second of silence before and after it.

    Beside it `words.json` has the times of espeak-ng's words, by key. Returns the hours, as soon as they are `hours`.
    """
    silence, words, seconds = np.zeros(12_000, np.float32), {}, 0.0
    with open(Path(folder, "manifest.jsonl"), "w", encoding="utf-8") as lines:
        for clip in spoken("stories", "train", round(hours * 900) + 8):
            utterance = clip.utterance
            fields = {"audio": f"{utterance.key}.flac", "text": utterance.text, "language": utterance.language}
            waveform = np.concatenate([silence, clip.waveform, silence])
            write_audio(Path(folder, fields["audio"]), waveform, clip.sample_rate)
            words[utterance.key] = [(word.text, word.start_s + 0.5, word.end_s + 0.5) for word in clip.words]
            lines.write(json.dumps({"key": utterance.key, "speaker": utterance.speaker, **fields}, ensure_ascii=False) + "\n")
            seconds += len(waveform) / clip.sample_rate
            if seconds >= hours * 3600:
                break
    Path(folder, "words.json").write_text(json.dumps(words), encoding="utf-8")
    return seconds / 3600


class Events:
    """A step that gives clips the words of `words.json`: espeak-ng's own, where there is no model to align with."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        """Words by the end of the key, which the manifest's corpus has lengthened."""
        known = json.loads(Path(self.path).read_text(encoding="utf-8"))
        for clip in clips:
            key = clip.utterance.key.removeprefix("speech-train-")
            yield replace(clip, words=tuple(Word(*word) for word in known[key]))


def start(task: int) -> int:
    """Does nothing, somewhere."""
    time.sleep(0.2)
    return task


def prepare(folder: str, out: str, kind: str, workers: int, auditor: str, samples_per_shard: int) -> dict[str, Any]:
    """VAD, forced alignment, segmentation, interleaving and sharding of what `record_speech` left in `folder`.

    Args:
        out: below `folder`.
        kind, workers: of the engine; a Ray is started, and two tasks have run on it, before time is taken.
        auditor: stage folder of the model that aligns; empty: espeak-ng's own events are taken.

    Returns:
        Seconds of `Pipeline.run`, the SHA-256 of every shard, samples, and clips dropped for other reasons than silence.
    """
    align = (
        [CutSpeech(min_silence_s=1.0), Align(CTCStage(auditor), min_log_prob=-100.0)]
        if auditor
        else [Events(f"{folder}/words.json"), CutSpeech()]
    )
    source = Manifest(f"{folder}/manifest.jsonl", "en", corpus="speech", samples_per_shard=samples_per_shard)
    pipeline = Pipeline([source], [*align, Segment(), Interleave()])
    engine = Engine(kind, workers)
    if kind == "ray":
        list(engine.map(start, range(2 * workers)))
    began = time.perf_counter()
    result = pipeline.run(Path(folder, out), 0, engine=engine)
    seconds = time.perf_counter() - began
    lost = {reason: entry["clips"] for step in result["dropped"].values() for reason, entry in step.items()}
    return {
        "seconds": seconds,
        "shards": {tar.name: read_header(tar)["sha256"] for tar in sorted(Path(folder, out, "shards").glob("*.tar"))},
        "num_samples": sum(result["num_samples"].values()),
        "lost": sum(count for reason, count in lost.items() if reason != "silence"),
    }


def boundary_errors(aligner: str, language: str, count: int) -> dict[str, list[float]]:
    """Seconds between words as the aligner places them and as espeak-ng tells them, of test voices and texts.

    Returns:
        `starts` and `ends`, of every word of which espeak-ng tells the beginning (not of every hanzi); to espeak-ng a word ends
        where the next one begins.
    """
    # words end where their sound does; half a frame, as two equal words need a blank frame between them
    step = Align(CTCStage(aligner), min_log_prob=-100.0, reach_s=0.02)
    errors: dict[str, list[float]] = {"starts": [], "ends": []}
    for clip in (clip for corpus in ("numbers", "stories") for clip in spoken(corpus, "test", count)):
        text = clip.utterance.text
        if clip.utterance.language != language:
            continue
        (aligned,) = step(iter([replace(clip, words=())]), Drops())
        number = {piece.start: number for number, piece in enumerate(pieces_of(text, language))}
        places = places_of(clip.words, text, language)
        known = [(number[place], word) for place, word in zip(places or (), clip.words, strict=True) if place is not None]
        for (first, word), (after, _) in zip(known, [*known[1:], (len(number), None)], strict=True):
            errors["starts"].append(abs(aligned.words[first].start_s - word.start_s))
            errors["ends"].append(abs(aligned.words[after - 1].end_s - word.end_s))
    return errors


def plan(folder: str, pretend: bool) -> dict[str, float]:
    """Run a pipeline without steps over `folder/manifest.jsonl`: its shards are done already, or are made by `Pretend`.

    Returns:
        Seconds, peak bytes of this process, shards made and kept.
    """
    start = time.perf_counter()
    pipeline = Pipeline([Manifest(f"{folder}/manifest.jsonl", "zh", check_audio=False)])
    result = pipeline.run(Path(folder, "out"), 0, **({"engine": Pretend()} if pretend else {}))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": _peak_bytes(), "made": result["shards_made"], "kept": result["shards_kept"]}


def _peak_bytes() -> int:
    """Peak of resident memory. Unlike ru_maxrss, it knows nothing of the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


if __name__ == "__main__":
    from benchmarks import data_work  # what workers are sent must have a name that they can import

    print(json.dumps(getattr(data_work, sys.argv[1])(**json.loads(sys.argv[2]))))
