"""`bcaudio say`: a spoken question to a finished run."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcaudio.audio.io import read_audio
from bcaudio.cli import main
from bcaudio.inference.say import say
from bcaudio.inference.system import SpokenAnswer, System


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 22050).astype(np.float32), 44100)
    return path


def test_the_answer_is_printed_and_written_at_24_khz(
    run_dir: Path, question: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "answer.wav"
    assert say(run_dir, question, out) == 0
    samples, rate = soundfile.read(out, dtype="float32")
    # the untrained model speaks up to its limit of 100 frames: 399 states of 480 samples
    assert (len(samples), rate) == (399 * 480, 24000)
    assert np.isfinite(samples).all()
    answer = System.of_run(run_dir).reply(read_audio(question, 16000))
    assert capsys.readouterr().out == f"{answer.text}\nwrote {out} (7.98 s)\n"
    np.testing.assert_allclose(samples, answer.waveform, atol=1e-4)


def test_the_question_is_heard_at_16_khz(
    run_dir: Path, question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    heard: list[np.ndarray] = []

    def reply(self: System, waveform: np.ndarray) -> SpokenAnswer:
        heard.append(waveform)
        return SpokenAnswer("two", np.zeros((1, 2), dtype=np.int64), np.full(1440, 0.25, dtype=np.float32))

    monkeypatch.setattr(System, "reply", reply)
    assert main(["say", "--run", str(run_dir), "--audio", str(question), "--out", str(tmp_path / "answer.wav")]) == 0
    assert [len(waveform) for waveform in heard] == [8000]
    assert capsys.readouterr().out == f"two\nwrote {tmp_path / 'answer.wav'} (0.06 s)\n"
    np.testing.assert_allclose(soundfile.read(tmp_path / "answer.wav")[0], 0.25, atol=1e-4)


def test_an_answer_without_speech_is_told_with_its_text_and_nothing_is_written(
    run_dir: Path, question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = SpokenAnswer("two", np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32))
    monkeypatch.setattr(System, "reply", lambda self, waveform: silent)
    with pytest.raises(ValueError, match=r"question\.wav: the model wrote 'two' but spoke no audio; ask again"):
        say(run_dir, question, tmp_path / "answer.wav")
    assert not (tmp_path / "answer.wav").exists()


@pytest.mark.parametrize(
    ("run", "audio", "message"), [("run", "none.wav", "no such audio file"), ("none", "question.wav", r"no pipeline\.yaml")]
)
def test_a_missing_run_or_file_is_named(
    run_dir: Path, question: Path, tmp_path: Path, run: str, audio: str, message: str
) -> None:
    folder = run_dir if run == "run" else tmp_path / run
    with pytest.raises(FileNotFoundError, match=message):
        say(folder, question.with_name(audio), tmp_path / "answer.wav")
