"""Voice activity: a recording becomes its stretches of speech (paper section 4, first step of the crawled branch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from bcaudio.audio.io import resample
from data_prep.steps.cut import cut
from data_prep.utterance import Clip, Drops, MissingExtra

RATE = 16_000


class VoiceActivity(Protocol):
    """Says how likely each frame is speech; `frame_s` is the length of a frame in seconds."""

    frame_s: float

    def speech(self, waveform: np.ndarray) -> np.ndarray:
        """float32 [N] at 16 kHz -> float [ceil(N / frame)] in [0, 1]; a pure function of the waveform."""
        ...


class Silero:
    """silero-vad (MIT), 32 ms frames. Needs `pip install bcaudio[vad]`."""

    frame_s = 512 / RATE

    def __init__(self) -> None:
        self._model: Any = None

    def speech(self, waveform: np.ndarray) -> np.ndarray:
        import torch

        if self._model is None:
            self._model = _load_silero()
        padded = torch.from_numpy(np.pad(waveform, (0, -len(waveform) % 512)))
        self._model.reset_states()  # it carries a state from frame to frame
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # frames are so small that threads only wait for each other
        try:
            with torch.inference_mode():
                return np.array([self._model(frame, RATE).item() for frame in padded.split(512) if len(frame)])
        finally:
            torch.set_num_threads(threads)


def _load_silero() -> Any:
    import torch

    threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad
    except ImportError as error:
        raise MissingExtra("Silero: silero-vad is not installed; pip install bcaudio[vad]") from error
    finally:
        torch.set_num_threads(threads)  # importing silero_vad sets it to 1 for the whole process
    return load_silero_vad()


class WebRtc:
    """WebRTC's detector (BSD), 30 ms frames, each 0 or 1. Needs `pip install bcaudio[vad]`.

    Args:
        mode: 0 (lets most pass) to 3 (strict).
    """

    frame_s = 0.03

    def __init__(self, mode: int = 2) -> None:
        if mode not in range(4):
            raise ValueError(f"WebRtc: mode is {mode}; it must be 0, 1, 2 or 3")
        self.mode = mode

    def speech(self, waveform: np.ndarray) -> np.ndarray:
        try:
            import webrtcvad
        except ImportError as error:
            raise MissingExtra("WebRtc: webrtcvad-wheels is not installed; pip install bcaudio[vad]") from error
        detector = webrtcvad.Vad(self.mode)  # anew for every clip: it adapts to what it has heard
        frame = round(self.frame_s * RATE)
        samples = (np.clip(np.pad(waveform, (0, -len(waveform) % frame)), -1, 1) * 32767).astype("<i2")
        frames = samples.reshape(-1, frame)
        return np.array([detector.is_speech(row.tobytes(), RATE) for row in frames], dtype=np.float64)


class CutSpeech:
    """A clip of one part becomes its stretches of speech, in order; text-only clips pass.

    A clip that keeps one stretch keeps its key and text; of several, each gets `key-000`, ... and the text its words cover (none
    without alignment).

    Drops: `silence` (the seconds between the stretches), `too short` (stretches under `min_s`), `no speech` (the whole clip).

    Args:
        detector: `Silero` unless given.
        threshold: a stretch begins at this probability and ends below `threshold - 0.15`.
        min_silence_s: a shorter gap does not end a stretch.
        padding_s: silence kept around each stretch, at most half the gap to the next.
        min_s, max_s: of a stretch, padding included; a longer one is cut where speech is least likely.

    Raises:
        ValueError: a threshold outside (0, 1], or lengths that are not 0 < min_s <= max_s / 2.
    """

    def __init__(
        self,
        detector: VoiceActivity | None = None,
        threshold: float = 0.5,
        min_silence_s: float = 0.3,
        padding_s: float = 0.1,
        min_s: float = 0.5,
        max_s: float = 300.0,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"CutSpeech: threshold is {threshold}; it must lie above 0 and be at most 1")
        if not 0 < min_s <= max_s / 2:
            raise ValueError(f"CutSpeech: min_s is {min_s} and max_s {max_s}; need 0 < min_s <= max_s / 2")
        self.detector = Silero() if detector is None else detector
        self.threshold, self.min_silence_s, self.padding_s = threshold, min_silence_s, padding_s
        self.min_s, self.max_s = min_s, max_s

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            yield from self._cut(clip, drops) if len(clip.waveform) else (clip,)

    def _cut(self, clip: Clip, drops: Drops) -> Iterator[Clip]:
        if len(clip.utterance.parts) > 1:
            raise ValueError(f"CutSpeech: {clip.utterance.key} has {len(clip.utterance.parts)} parts; put it before segmentation")
        found = self.stretches(clip)
        if not found:
            drops.add(clip, self, "no speech")
            return
        kept = [(start, end) for start, end in found if end - start >= self.min_s]
        short_s = sum(end - start for start, end in found) - sum(end - start for start, end in kept)
        silence_s = clip.duration_s - sum(end - start for start, end in found)
        if silence_s > 0:
            drops.add(clip, self, "silence", None, silence_s)
        if short_s > 0:
            drops.add(clip, self, "too short", len(found) - len(kept), short_s)
        for number, (start, end) in enumerate(kept):
            yield cut(clip, start, end, number if len(found) > 1 else None)

    def stretches(self, clip: Clip) -> list[tuple[float, float]]:
        """(start_s, end_s) of the speech in a clip, in order, none overlapping, none longer than `max_s`."""
        likely = self.detector.speech(resample(clip.waveform, clip.sample_rate, RATE))
        frame_s = self.detector.frame_s
        spoken: list[list[float]] = []
        inside = False
        for i, value in enumerate(likely):
            if inside or value >= self.threshold:
                inside = value >= (self.threshold if not inside else max(self.threshold - 0.15, 1e-9))
            if not inside:
                continue
            if spoken and i * frame_s - spoken[-1][1] < self.min_silence_s:
                spoken[-1][1] = (i + 1) * frame_s
            else:
                spoken.append([i * frame_s, (i + 1) * frame_s])
        padded = []
        for i, (start, end) in enumerate(spoken):
            before = spoken[i - 1][1] if i else 0.0
            after = spoken[i + 1][0] if i + 1 < len(spoken) else clip.duration_s
            low = max(start - self.padding_s, (before + start) / 2 if i else 0.0)
            high = min(end + self.padding_s, (end + after) / 2 if i + 1 < len(spoken) else clip.duration_s)
            padded += self._split(low, high, likely)
        return padded

    def _split(self, start: float, end: float, likely: np.ndarray) -> list[tuple[float, float]]:
        """Cuts until nothing is longer than `max_s`, each time where speech is least likely in the second half of what fits."""
        pieces, frame_s = [], self.detector.frame_s
        while end - start > self.max_s:
            high = min(start + self.max_s, end - self.min_s)  # what remains must not be too short either
            first, last = int((start + self.max_s / 2) / frame_s) + 1, int(high / frame_s)
            at = min(high, (first + int(np.argmin(likely[first:last]))) * frame_s + frame_s / 2) if last > first else high
            pieces.append((start, at))
            start = at
        return [*pieces, (start, end)]
