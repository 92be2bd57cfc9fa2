"""A corpus with planted defects through the real steps: what is found, what is blamed wrongly (`-s` shows it)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bcaudio.audio.io import write_audio
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shard
from data_prep.pipeline import Pipeline
from data_prep.sources.manifest import Manifest
from data_prep.steps.align import Align
from data_prep.steps.asr_filter import CheckTranscript
from data_prep.steps.contamination import Contamination
from data_prep.steps.duplicates import Duplicates
from data_prep.steps.loudness import Loudness
from data_prep.steps.transcribe import Transcribe
from data_prep.utterance import Step, Timbre

pytest.importorskip("espeakng_loader")

RATE = 24_000
WORDS = ["garden", "river", "seven", "window", "paper", "yellow", "morning", "doctor"]
WORDS += ["bridge", "island", "coffee", "market", "silver", "winter", "summer", "kitchen"]
VOICE = Timbre("f1", 48, 190)
FRAME, BANDS, CONTEXT = 480, 32, 6  # 20 ms; bands of the spectrum; frames to either side


def speak(text: str, voice: Timbre = VOICE) -> np.ndarray:
    from data_prep.steps.synthesize import synthesize

    return synthesize(text, "en", voice).waveform


class Ears:
    """`Emitter` and `Recogniser` of sixteen words: ridge regression from a window of the spectrum to the word spoken there.

    It learns from the times of the synthesiser's words, in sentences that are not in the corpus: small, but it does listen.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from data_prep.steps.synthesize import synthesize

        rows, labels = [], []
        for text in texts:
            speech = synthesize(text, "en", VOICE)
            window = self._windows(speech.waveform)
            label = np.zeros(len(window), int)
            for word in speech.words:
                label[round(word.start_s * RATE / FRAME) : round(word.end_s * RATE / FRAME)] = 1 + WORDS.index(word.text)
            rows.append(window)
            labels.append(label)
        seen, wanted = np.concatenate(rows), np.eye(1 + len(WORDS))[np.concatenate(labels)]
        self.weights = np.linalg.solve(seen.T @ seen + np.eye(seen.shape[1]), seen.T @ wanted)

    @staticmethod
    def _windows(waveform: np.ndarray) -> np.ndarray:
        """[N] -> [T, features]: log energies in bands of the frames around each, and a one."""
        padded = np.pad(waveform, (0, -len(waveform) % FRAME)).reshape(-1, FRAME)
        power = np.abs(np.fft.rfft(padded * np.hanning(FRAME))[:, : 5 * BANDS]) ** 2
        bands = np.log(power.reshape(len(power), BANDS, -1).mean(-1) + 1e-5)
        around = np.pad(bands, ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
        stacked = np.concatenate([around[i : i + len(bands)] for i in range(2 * CONTEXT + 1)], axis=1)
        return np.concatenate([stacked, np.ones((len(bands), 1))], axis=1)

    def emissions(self, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
        scores = 8 * self._windows(waveform) @ self.weights
        return scores - np.log(np.exp(scores).sum(1, keepdims=True)), FRAME / RATE

    def tokens(self, word: str, language: str) -> list[int] | None:
        return [1 + WORDS.index(word)] if word in WORDS else None

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        """What wins for at least 0.1 s on end."""
        heard = []
        for waveform in waveforms:
            best = self.emissions(waveform, sample_rate)[0].argmax(1)
            runs = np.split(best, np.flatnonzero(np.diff(best)) + 1)
            heard.append(" ".join(WORDS[run[0] - 1] for run in runs if run[0] and len(run) >= 5))
        return heard


def sentences(count: int, seed: int) -> list[str]:
    """Nine words each, none the same as its neighbour."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        words = [rng.choice(WORDS)]
        while len(words) < 9:
            words.append(rng.choice([word for word in WORDS if word != words[-1]]))
        made.append(" ".join(words))
    return made


class Corpus:
    """Recordings and their manifest; `planted`: defect -> keys (as in shards)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.planted = folder, [], {}

    def add(self, name: str, text: str, waveform: np.ndarray | None = None, defect: str = "") -> None:
        line = {"key": name, "text": text}
        if waveform is not None:
            write_audio(self.folder / f"{name}.wav", waveform, RATE)
            line["audio"] = f"{name}.wav"
        self.lines.append(line)
        if defect:
            self.planted.setdefault(defect, set()).add(f"c-train-{name}")

    def source(self) -> Manifest:
        (self.folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        return Manifest(self.folder / "m.jsonl", "en", corpus="c", samples_per_shard=16)


def plant(folder: Path) -> tuple[Corpus, str]:
    """60 clean clips and 8 clean texts, and among them 36 with a defect; and a pattern of the evaluation set's shards."""
    corpus, rng, texts = Corpus(folder), np.random.default_rng(0), sentences(76, 1)
    clean = [speak(text) for text in texts[:60]]
    for number, waveform in enumerate(clean):
        corpus.add(f"a{number}", texts[number], waveform)
        if number % 10 == 0:
            corpus.add(f"exact{number}", texts[number], waveform, "duplicate audio")
        elif number % 10 == 1:
            near = 0.4 * np.concatenate([np.zeros(rng.integers(1, RATE // 3)), waveform])
            noise = rng.normal(0, np.sqrt(np.mean(near**2) / 100), len(near))
            corpus.add(f"near{number}", texts[number], near + noise, "duplicate audio")
        elif number % 10 == 2:
            loud = speak(sentences(1, 100 + number)[0])
            corpus.add(f"loud{number}", sentences(1, 100 + number)[0], np.clip(4 * loud, -1, 1), "clipped")
        elif number % 10 == 3:
            said, written = sentences(2, 200 + number)
            corpus.add(f"wrong{number}", written, speak(said), "misaligned")
    for number, text in enumerate(texts[60:68]):
        own = speak(sentences(1, 300 + number)[0])
        evaluated = speak(text)
        span = Span(text, 0.0, len(evaluated) / RATE, "user")
        sample = Sample(f"e-test-{number}", "e", "test", "en", "s", text, (span,), duration_s=len(evaluated) / RATE)
        write_shard([(sample, evaluated)], folder / "eval" / f"e-test-{number:06d}.tar", {})
        if number < 4:  # the recording lies inside a longer one
            around = f"{sentences(1, 300 + number)[0]} {text}"
            corpus.add(f"sound{number}", around, np.concatenate([own, 0.5 * evaluated]), "leak")
        else:  # its text only, said by the same voice in another recording, or written
            longer = f"{text} {sentences(1, 300 + number)[0]}"
            corpus.add(f"text{number}", longer.upper(), speak(longer) if number < 6 else None, "leak")
    for number, text in enumerate(texts[68:]):
        corpus.add(f"t{number}", text)
        if number % 2:
            corpus.add(
                f"again{number}", text if number % 4 == 1 else text.capitalize().replace(" ", ", ") + ".", None, "duplicate text"
            )
    assert (len(corpus.lines), sum(map(len, corpus.planted.values()))) == (60 + 8 + 36, 36)
    return corpus, str(folder / "eval" / "*.tar")


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears(sentences(40, 2))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, str]:
    return plant(tmp_path_factory.mktemp("corpus"))


REASONS = {
    "duplicate audio": {"duplicate audio"},
    "duplicate text": {"duplicate text"},
    "leak": {"leaked audio", "leaked text"},
    "clipped": {"clipped"},
    "misaligned": {"misaligned", "asr disagrees"},
}


@pytest.mark.parametrize("judge", ["Align", pytest.param("CheckTranscript", marks=pytest.mark.slow)])
def test_planted_defects_are_found(tmp_path: Path, planted: tuple[Corpus, str], ears: Ears, judge: str) -> None:
    corpus, evaluation = planted
    listening: list[Step] = [Align(ears, min_log_prob=-1.5)]
    if judge == "CheckTranscript":
        listening = [Transcribe(ears), CheckTranscript({"other": 0.5})]
    steps = [Loudness(), Duplicates(), Contamination([evaluation]), *listening]
    result = Pipeline([corpus.source()], steps).run(tmp_path, 0)
    drops = [json.loads(line) for line in (tmp_path / "drops.jsonl").read_text().splitlines()]
    assert len(drops) + result["num_samples"]["c-train"] == len(corpus.lines)  # nothing is lost without a word
    found = {defect: {drop["key"] for drop in drops if drop["reason"] in reasons} for defect, reasons in REASONS.items()}
    assert sum(map(len, found.values())) == len(drops), {drop["reason"] for drop in drops}
    print(f"\n{judge:>16}: planted found recall precision")
    for defect, keys in corpus.planted.items():
        right = len(keys & found[defect])
        recall, precision = right / len(keys), right / max(len(found[defect]), 1)
        print(f"{defect:>16}: {len(keys):7} {len(found[defect]):5} {recall:6.2f} {precision:9.2f}")
        assert (recall, precision) == (1.0, 1.0), (defect, sorted(keys ^ found[defect]))
