"""`bcaudio say`: ask a run a spoken question."""

from __future__ import annotations

from pathlib import Path

from bcaudio.audio.io import read_audio, write_audio
from bcaudio.inference.system import LISTEN_RATE, SPEAK_RATE, System


def say(run: str | Path, audio: str | Path, out: str | Path) -> int:
    """Hear the question in `audio`, print the answer's text, write its speech to `out` (24 kHz).

    Raises:
        FileNotFoundError: no such run or file; ValueError: audio that cannot be read.
    """
    question = read_audio(audio, LISTEN_RATE)
    answer = System.of_run(run).reply(question)
    print(answer.text)
    if not len(answer.waveform):
        raise ValueError(
            f"{audio}: the model wrote {answer.text!r} but spoke no audio; ask again with a clearer or shorter question"
        )
    write_audio(out, answer.waveform, SPEAK_RATE)
    print(f"wrote {out} ({len(answer.waveform) / SPEAK_RATE:.2f} s)")
    return 0
