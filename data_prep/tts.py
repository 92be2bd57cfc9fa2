"""Speech synthesis behind one protocol, and the engines we know. Others join through the entry-point group `bcaudio.tts`."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from bcaudio.audio.io import read_audio
from bcaudio.data.shards import SAMPLE_RATE
from data_prep.steps.recognisers import post
from data_prep.steps.synthesize import VOICES, synthesize
from data_prep.utterance import MissingExtra, Rejected, Timbre, Word

GROUP = "bcaudio.tts"


@dataclass(frozen=True, eq=False)
class Spoken:
    """What an engine says: float32 [N], its rate in Hz, and its words with their times, where the engine knows them."""

    waveform: np.ndarray
    sample_rate: int
    words: tuple[Word, ...] = ()


class TTSEngine(Protocol):
    """Text to speech; picklable before its first use, and the same arguments give the same sound."""

    def voices(self, language: str) -> Sequence[str]:
        """The voices of a language, in a fixed order; ValueError where it has none."""
        ...

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        """Speak; Rejected where this text or voice fails, ValueError where the engine is not installed."""
        ...


class Espeak:
    """espeak-ng (GPL, its own extra), with the time of every word. Voices are timbres: variant, pitch and rate, `f2-p50-r190`.

    Args:
        variants: espeak-ng's voice variants; those of the micro world's training split unless given.
        pitches: base pitches, 0 to 99.
        rates: words per minute. The defaults give 37 x 31 x 12 = 13,764 timbres (the paper has more than 10,000).
    """

    def __init__(
        self,
        variants: Sequence[str] | None = None,
        pitches: Sequence[int] = tuple(range(35, 66)),
        rates: Sequence[int] = tuple(range(165, 225, 5)),
    ) -> None:
        if variants is None:
            from data_prep.sources.timbres import TRAIN_TIMBRES

            variants = tuple(dict.fromkeys(timbre.variant for timbre in TRAIN_TIMBRES))
        self.variants, self.pitches, self.rates = tuple(variants), tuple(pitches), tuple(rates)

    def voices(self, language: str) -> Sequence[str]:
        if language not in VOICES:
            raise ValueError(f"Espeak: language is {language!r}; known are {', '.join(VOICES)}")
        return [Timbre(name, pitch, rate).id for name in self.variants for pitch in self.pitches for rate in self.rates]

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        variant, pitch, rate = voice.rsplit("-", 2)
        speech = synthesize(text, language, Timbre(variant, int(pitch[1:]), int(rate[1:])))
        return Spoken(speech.waveform, SAMPLE_RATE, speech.words)


class Flite:
    """Flite, English, by its command-line program (`apt-get install flite`).

    Args:
        names: its voices.
    """

    def __init__(self, names: Sequence[str] = ("slt", "rms", "awb", "kal16")) -> None:
        self.names = tuple(names)

    def voices(self, language: str) -> Sequence[str]:
        if language != "en":
            raise ValueError(f"Flite: language is {language!r}; it speaks en")
        return self.names

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        program = shutil.which("flite")
        if program is None:
            raise ValueError("Flite: there is no program 'flite' on the PATH; apt-get install flite")
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "text.txt", Path(folder) / "out.wav"
            source.write_text(text, encoding="utf-8")  # a file: a text that begins with - is no option
            done = subprocess.run([program, "-voice", voice, "-f", str(source), "-o", str(out)], capture_output=True, timeout=120)
            if done.returncode or not out.is_file():
                raise Rejected("synthesis failed", done.stderr.decode(errors="replace")[-200:] or text[:80])
            return _read_wav(out.read_bytes(), text)


class Piper:
    """Piper voices (`pip install bcaudio[piper]`, GPL) from local files `<name>.onnx` with `<name>.onnx.json` beside them.

    Args:
        folder: holds the voices; the language is the beginning of the name, as Piper publishes them (`en_US-amy-low`).
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._loaded: dict[str, Any] = {}

    def voices(self, language: str) -> Sequence[str]:
        found = sorted(path.name[: -len(".onnx")] for path in Path(self.folder).glob(f"{language}[_-]*.onnx"))
        if not found:
            raise ValueError(f"Piper: {self.folder} holds no {language}_*.onnx; put voices of this language there")
        return found

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        if voice not in self._loaded:
            try:
                from piper import PiperVoice
            except ImportError as error:
                raise MissingExtra("Piper: piper-tts is not installed; pip install bcaudio[piper]") from error
            self._loaded[voice] = PiperVoice.load(str(Path(self.folder) / f"{voice}.onnx"))
        chunks = list(self._loaded[voice].synthesize(text))
        if not chunks:
            raise Rejected("empty", text[:80])
        waveform = np.concatenate([chunk.audio_float_array for chunk in chunks]).astype(np.float32)
        return Spoken(waveform, chunks[0].sample_rate)


class HttpTTS:
    """A server with OpenAI's `POST /v1/audio/speech`.

    Args:
        url: of the endpoint.
        model: its name on the server.
        names: the server's voices.
        timeout_s, num_tries, key_variable: as in `data_prep.steps.recognisers.HttpRecogniser`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        names: Sequence[str],
        timeout_s: float = 60.0,
        num_tries: int = 4,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        self.url, self.model, self.names = url, model, tuple(names)
        self.timeout_s, self.num_tries, self.key_variable = timeout_s, num_tries, key_variable

    def voices(self, language: str) -> Sequence[str]:
        return self.names

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        request = {"model": self.model, "input": text, "voice": voice, "response_format": "wav"}
        body = json.dumps(request, ensure_ascii=False).encode()
        return _read_wav(post(self.url, body, "application/json", self.timeout_s, self.num_tries, self.key_variable), text)


class Precomputed:
    """Files that were synthesised elsewhere: `<folder>/<voice>/<sha256 of the text, 32 digits>.wav` (or .flac).

    Args:
        folder: holds a folder per voice; `file_name` says how a file must be called.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @staticmethod
    def file_name(text: str) -> str:
        """The name, without suffix, of the file that says a text."""
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def voices(self, language: str) -> Sequence[str]:
        root = Path(self.folder)
        found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        if not found:
            raise ValueError(f"Precomputed: {self.folder} holds no folder per voice")
        return found

    def speak(self, text: str, language: str, voice: str) -> Spoken:
        stem = Path(self.folder) / voice / self.file_name(text)
        for suffix in (".wav", ".flac"):
            path = stem.with_suffix(suffix)
            if path.is_file():
                rate = soundfile.info(path).samplerate
                return Spoken(read_audio(path, rate), rate)
        raise Rejected("not precomputed", f"{voice}/{stem.name}")


ENGINES = {"espeak": Espeak, "flite": Flite, "piper": Piper, "http": HttpTTS, "precomputed": Precomputed}


def engine(name: str, **options: Any) -> TTSEngine:
    """An engine by its short name: one of ours, or of an installed package that registers a class under `bcaudio.tts`.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    others = {found.name: found for found in entry_points(group=GROUP) if found.name not in ENGINES}
    if name in ENGINES:
        return ENGINES[name](**options)
    if name in others:
        return others[name].load()(**options)
    raise ValueError(f"no TTS engine {name!r}; known are {', '.join([*ENGINES, *others])}")


def _read_wav(data: bytes, text: str) -> Spoken:
    try:
        waveform, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise Rejected("synthesis failed", f"no sound file for {text[:80]!r}") from error
    if not len(waveform):
        raise Rejected("empty", text[:80])
    return Spoken(waveform.mean(axis=1), rate)
