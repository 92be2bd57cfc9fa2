from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from data_prep.steps.align import Align, viterbi
from data_prep.utterance import Clip, Drops, Part, Utterance, Word

RATE = 24_000
UNITS = {"one": 1, "two": 2, "三": 3}


class Planted:
    """Frames of 0.1 s, each certain (log-probability of 0.9) of one output."""

    def __init__(self, outputs: list[int], p: float = 0.9) -> None:
        self.outputs, self.p = outputs, p

    def emissions(self, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
        log_probs = np.full((len(self.outputs), 4), np.log((1 - self.p) / 3), np.float32)
        log_probs[np.arange(len(self.outputs)), self.outputs] = np.log(self.p)
        return log_probs, 0.1

    def tokens(self, word: str, language: str) -> list[int] | None:
        return [UNITS[word.lower()]] if word.lower() in UNITS else None


def _clip(text: str, duration_s: float, words: tuple[Word, ...] = (), language: str = "en") -> Clip:
    utterance = Utterance("k", "c", "train", language, (Part(text, "narrator"),), text)
    return Clip(utterance, np.zeros(round(duration_s * RATE), np.float32), RATE, words)


def _run(step: Align, clip: Clip) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(step(iter([clip]), drops)), drops


def _collapse(path: tuple[int, ...], labels: list[int]) -> list[int]:
    """What a frame-wise labelling says: repeats merged, then blanks removed."""
    return [label for label, _ in itertools.groupby(path) if label]


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 1], [2, 1, 2]])
def test_viterbi_finds_the_best_of_all_labellings(tokens: list[int]) -> None:
    rng = np.random.default_rng(len(tokens))
    for _ in range(5):
        log_probs = np.log(rng.dirichlet(np.ones(3), size=6))
        fits = [path for path in itertools.product(range(3), repeat=6) if _collapse(path, tokens) == tokens]
        best = max(sum(log_probs[t, label] for t, label in enumerate(path)) for path in fits)
        path = viterbi(log_probs, tokens)
        assert path is not None
        labels = [tokens[i] if i >= 0 else 0 for i in path]
        assert _collapse(tuple(labels), tokens) == tokens
        assert sum(log_probs[t, label] for t, label in enumerate(labels)) == pytest.approx(best)


def test_viterbi_gives_up_where_frames_are_too_few() -> None:
    assert viterbi(np.zeros((2, 3)), [1, 1]) is None  # needs a blank between: three frames
    assert viterbi(np.zeros((3, 3)), [1, 1]) is not None


def test_boundaries_share_the_blank_between_two_words() -> None:
    # one at 0.3-0.4, two at 0.7-0.8: the gap of 0.3 s is cut in half; the outer sides reach as far
    emitter = Planted([0, 0, 0, 1, 0, 0, 0, 2, 0, 0])
    [clip], drops = _run(pickle.loads(pickle.dumps(Align(emitter))), _clip("One, two!", 1.0))
    assert [(word.text, word.start_s, word.end_s) for word in clip.words] == [("One", 0.15, 0.55), ("two", 0.55, 0.95)]
    assert clip.measures["alignment"] == pytest.approx(np.log(0.9), abs=1e-4)
    assert not drops


def test_of_an_aligner_words_are_as_long_as_their_frames() -> None:
    # half a frame of reach fills the blank that CTC needs between equal words, and leaves the pause before the third one
    emitter = Planted([0, 2, 2, 0, 2, 2, 0, 0, 0, 1, 1, 1, 0])
    [clip], _ = _run(Align(emitter, reach_s=0.05), _clip("two two one", 1.3))
    assert [(word.start_s, word.end_s) for word in clip.words] == [(0.05, 0.35), (0.35, 0.65), (0.85, 1.25)]


def test_a_long_blank_stays_a_pause() -> None:
    emitter = Planted([1, *[0] * 10, 2])
    [clip], _ = _run(Align(emitter, reach_s=0.2), _clip("one two", 1.2))
    assert [(word.start_s, word.end_s) for word in clip.words] == [(0.0, 0.3), (0.9, 1.2)]


def test_planted_misaligned_clips_are_found() -> None:
    rng = np.random.default_rng(0)
    planted, found = set(), set()
    for number in range(40):
        wrong = number % 4 == 0
        outputs = [0, 2, 2, 0, 2, 0] if wrong else [0, 1, 1, 0, 2, 0]  # it says "two two", the text is "one two"
        emitter = Planted(outputs, p=float(rng.uniform(0.8, 0.99)))
        kept, drops = _run(Align(emitter, min_log_prob=-1.0), _clip("one two", 0.6))
        planted |= {number} if wrong else set()
        found |= {number} if [drop.reason for drop in drops] == ["misaligned"] else set()
        assert len(kept) + len(drops) == 1
    recall, precision = len(planted & found) / len(planted), len(planted & found) / max(len(found), 1)
    assert (recall, precision) == (1.0, 1.0), f"recall {recall:.2f}, precision {precision:.2f}"


def test_other_reasons_are_named() -> None:
    emitter = Planted([0, 1])
    assert [(d.reason, d.value) for d in _run(Align(emitter), _clip("one seven", 1.0))[1]] == [("not in vocabulary", "seven")]
    assert [d.reason for d in _run(Align(emitter), _clip("...", 1.0))[1]] == ["no text"]
    assert [d.value for d in _run(Align(emitter), _clip("one two one", 1.0))[1]] == ["2 frames for 3 tokens"]


def test_events_of_the_synthesiser_stay_unless_they_are_of_another_text() -> None:
    words = (Word("one", 0.1, 0.4), Word("two", 0.4, 0.8))
    clip = _clip("One two.", 1.0, words)
    assert _run(Align(Planted([1, 2])), clip) == ([clip], [])
    assert [d.value for d in _run(Align(Planted([1, 2])), _clip("two one", 1.0, words))[1]] == ["events differ from the text"]
    [again], _ = _run(Align(Planted([1, 2]), replace_words=True), clip)
    assert again.words != words


def test_a_tiny_recogniser_aligns_through_its_stage_folder(tmp_path: Path) -> None:
    import torch

    from bcaudio.checkpoint import save_model
    from bcaudio.models.ctc_recognizer import CTCRecognizer
    from data_prep.steps.recognisers import CTCStage

    torch.manual_seed(0)
    save_model(tmp_path, CTCRecognizer(units=["one", "two", "三"], n_mels=20, dim=8, num_layers=1), {})
    (tmp_path / "recipe.yaml").write_text(
        "model:\n  _target_: bcaudio.models.ctc_recognizer.CTCRecognizer\n  units: [one, two, 三]\n  n_mels: 20\n  dim: 8\n"
        "  num_layers: 1\n"
    )
    stage = CTCStage(str(tmp_path))
    clip = _clip("two 三", 2.0, language="zh")
    [aligned], _ = _run(Align(stage, min_log_prob=-50.0), clip)
    assert [word.text for word in aligned.words] == ["two", "三"]
    assert stage.emissions(clip.waveform, RATE)[0].shape == (51, 4)  # 25 a second, and one
    assert isinstance(stage.transcribe([clip.waveform], RATE, "zh")[0], str)
