"""Speech from text with espeak-ng, with the time of every word. An optional extra: the library is GPL."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from bcaudio.audio.io import resample
from bcaudio.data.shards import SAMPLE_RATE
from data_prep.utterance import MissingExtra, Rejected, Timbre, Word

VOICES = {"en": "en-us", "zh": "cmn", "fr": "fr", "es": "es"}
MARGIN_S = 0.06  # silence kept before and after the speech
_ESPEAK_RATE = 22_050
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback gets the samples before espeak_Synth returns
_UTF8 = 1
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_WORD, _END = 1, 0  # espeak_EVENT_TYPE
_SILENCE = 0.005  # of the peak (-46 dB)
_lock = threading.Lock()


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Speech:
    """A clip: float32 [N] at 24 kHz, and its words in time order."""

    waveform: np.ndarray
    words: tuple[Word, ...]


def synthesize(text: str, language: str, timbre: Timbre) -> Speech:
    """Speak `text`: 24 kHz, silence trimmed to `MARGIN_S` at both ends, peak between 0.5 and 0.95 depending on the timbre.

    The result is a pure function of its arguments: espeak-ng keeps state from one utterance to the next (even across
    espeak_Terminate), so the library is loaded afresh for each (about 1 ms).

    Raises:
        Rejected: espeak-ng does not know the voice, fails, or gives silence.
        ValueError: espeakng_loader is not installed, or the language has no voice.
    """
    if language not in VOICES:
        raise ValueError(f"synthesize: language is {language!r}; known are {', '.join(VOICES)}")
    with _lock:
        samples, events = _speak(text, f"{VOICES[language]}+{timbre.variant}", timbre)
    waveform = resample(samples.astype(np.float32) / 32768.0, _ESPEAK_RATE, SAMPLE_RATE)
    waveform, shift_s = _trim(waveform, text)
    level = 0.5 + 0.45 * hashlib.sha256(timbre.id.encode()).digest()[0] / 255
    return Speech(waveform * (level / np.abs(waveform).max()), _words(text, events, shift_s, len(waveform) / SAMPLE_RATE))


def _speak(text: str, voice: str, timbre: Timbre) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """int16 [N] at 22.05 kHz and the word events as (0-based character position, sample)."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtra("speech synthesis needs espeak-ng; pip install bcaudio[synthesis]") from error
    chunks: list[np.ndarray] = []
    events: list[tuple[int, int]] = []

    @_Callback
    def receive(wave: Any, count: int, event: Any) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while event[i].type != _END:
            if event[i].type == _WORD:
                events.append((event[i].text_position - 1, event[i].sample))
            i += 1
        return 0

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0) != _ESPEAK_RATE:
            raise Rejected("synthesis failed", "espeak-ng does not start at 22050 Hz")
        library.espeak_SetSynthCallback(receive)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise Rejected("synthesis failed", f"espeak-ng knows no voice {voice}")
        library.espeak_SetParameter(_RATE, timbre.rate, 0)
        library.espeak_SetParameter(_PITCH, timbre.pitch, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # the noise of the Klatt voices (caleb) comes from the C library
        data = text.encode()
        if library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None) != 0:
            raise Rejected("synthesis failed", text)
    finally:
        library.espeak_Terminate()
        _unload(library)
    return (np.concatenate(chunks) if chunks else np.zeros(0, np.int16)), events


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    _ctypes.dlclose(library._handle)


def _trim(waveform: np.ndarray, text: str) -> tuple[np.ndarray, float]:
    """Silence at both ends becomes exactly `MARGIN_S`; returns also by how many seconds times move."""
    loud = np.flatnonzero(np.abs(waveform) > _SILENCE * np.abs(waveform).max(initial=0.0))
    if len(loud) == 0:
        raise Rejected("empty", text)
    margin = round(MARGIN_S * SAMPLE_RATE)
    first, last = int(loud[0]), int(loud[-1]) + 1
    kept = np.zeros(last - first + 2 * margin, np.float32)
    kept[margin:-margin] = waveform[first:last]
    return kept, (margin - first) / SAMPLE_RATE


def _words(text: str, events: list[tuple[int, int]], shift_s: float, duration_s: float) -> tuple[Word, ...]:
    starts: dict[int, float] = {}
    for position, sample in events:  # a number in digits gives several events at one position: the first counts
        starts.setdefault(position, min(max(sample / _ESPEAK_RATE + shift_s, 0.0), duration_s))
    places = sorted(starts.items())
    ends = [*places[1:], (len(text), duration_s - MARGIN_S)]
    return tuple(
        Word(text[place:stop].strip(" ,.?，。？"), start_s, max(start_s, end_s))
        for (place, start_s), (stop, end_s) in zip(places, ends, strict=True)
    )
