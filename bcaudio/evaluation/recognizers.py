"""The ears of the evaluation: who writes down what a system said. One benchmark can ask several of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import torch

from bcaudio.audio.io import resample
from bcaudio.checkpoint import tensor_sha256
from bcaudio.data.schema import Sample, Span
from bcaudio.evaluation.hearing import MIN_SAMPLES, NUMBER_WORDS, TARGET_RATE, auditor_of, hear
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.inference.openai_client import Client, EndpointError

SILENCE_S = 0.3
REFUSED = (400, 413, 415, 422)  # statuses of an endpoint that speak of the sound it was given, not of itself


class NotHeardError(Exception):
    """One waveform cannot be heard; the others can.

    Args:
        index: its place.
        reason: why.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"waveform {index}: {reason}")
        self.index, self.reason = index, reason


class Recognizer(Protocol):
    """One ear. A recipe builds it without a system and without loading anything, so that stored outputs are scored without it.

    `name` begins the keys of its figures as a second opinion; `stamp` says exactly who listened, and stands beside every figure.
    """

    name: str

    @property
    def stamp(self) -> dict[str, Any]:
        """JSON-able: name, and what else would change what is written."""

    def of(self, system: Any) -> Recognizer:
        """The ear, ready to listen; NotRunError where a part of it is not here."""

    def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        """What is said in each waveform, float32 [N] at `sample_rate` Hz; "" for less than 0.1 s of sound.

        Raises:
            NotHeardError: one of them cannot be heard. NotRunError: none can, such as in another language.
        """


def hear_items(
    ear: Recognizer, ids: Sequence[str], waveforms: Sequence[np.ndarray], sample_rate: int, language: str
) -> list[str]:
    """`ear.hear` of one waveform per item; ItemError names the item that cannot be heard."""
    try:
        return ear.hear(waveforms, sample_rate, language)
    except NotHeardError as error:
        raise ItemError(ids[error.index], f"{ear.name} cannot hear it: {error.reason}") from error


def each_audible(waveforms: Sequence[np.ndarray], sample_rate: int) -> dict[int, np.ndarray]:
    """The waveforms of at least 0.1 s by their place, float32 [N] at 16 kHz, shortest first."""
    clips = [resample(np.asarray(waveform, dtype=np.float32), sample_rate, TARGET_RATE) for waveform in waveforms]
    return {i: clips[i] for i in sorted(range(len(clips)), key=lambda i: len(clips[i])) if len(clips[i]) >= MIN_SAMPLES}


class Auditor:
    """The system's own CTC auditor, which was trained beside it and never for it.

    Args:
        batch_size: clips per call of the model.
    """

    name = "auditor"

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size, self.model = batch_size, None

    def of(self, system: Any) -> Auditor:
        if self.model is not getattr(system, "auditor", None) or self.model is None:
            self.model = auditor_of(system)
            self.__dict__.pop("stamp", None)
        return self

    @cached_property
    def stamp(self) -> dict[str, Any]:
        weights = {} if self.model is None else {"weights_sha256": tensor_sha256(self.model.state_dict())}
        return {"name": self.name, **weights}

    def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        return hear(self.model, waveforms, sample_rate, self.batch_size)


class Whisper:
    """Any Whisper in a local Hugging Face folder (arXiv 2502.17239, section 4, hears spoken answers with whisper-large-v3).

    Greedy, so that the same sound gives the same words. Clips beyond 30 s go through Whisper's own long form, one by one.

    Args:
        folder: config.json, generation_config.json, preprocessor_config.json, tokenizer and *.safetensors; no code of it is run.
        batch_size: clips per call of the model.
        device: where it runs.
        dtype: of its weights, e.g. `float16`.
        name: begins its keys as a second opinion.

    Raises:
        NotRunError: (from `of`) no such folder, or one without safetensors.
    """

    def __init__(
        self, folder: str, batch_size: int = 16, device: str = "cpu", dtype: str = "float32", name: str = "whisper"
    ) -> None:
        self.folder, self.batch_size, self.device, self.dtype, self.name = Path(folder), batch_size, device, dtype, name

    def of(self, system: Any) -> Whisper:
        if not (self.folder / "config.json").is_file() or not any(self.folder.glob("*.safetensors")):
            raise NotRunError(
                f"{self.folder}: not a Hugging Face folder with config.json and *.safetensors; download a Whisper such as "
                "openai/whisper-large-v3 there"
            )
        return self

    @cached_property
    def stamp(self) -> dict[str, Any]:
        import transformers

        digest = tensor_sha256(self._parts[1].state_dict())
        version = f"transformers {transformers.__version__}"
        return {"name": self.name, "folder": self.folder.name, "weights_sha256": digest, "dtype": self.dtype, "by": version}

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        model = WhisperForConditionalGeneration.from_pretrained(
            self.folder, local_files_only=True, use_safetensors=True, dtype=getattr(torch, self.dtype)
        )
        return WhisperProcessor.from_pretrained(self.folder, local_files_only=True), model.to(self.device).eval()

    def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        """`language` is told to Whisper; it finds out itself in `mixed` speech, and an English-only Whisper is told nothing."""
        processor, _ = self._parts
        texts, clips = [""] * len(waveforms), each_audible(waveforms, sample_rate)
        window = processor.feature_extractor.n_samples
        short = [i for i, clip in clips.items() if len(clip) <= window]
        batches = [short[start : start + self.batch_size] for start in range(0, len(short), self.batch_size)]
        for batch in [*batches, *([i] for i, clip in clips.items() if len(clip) > window)]:
            for i, text in zip(batch, self._transcribe([clips[i] for i in batch], language), strict=True):
                texts[i] = text.strip()
        return texts

    @torch.inference_mode()
    def _transcribe(self, clips: Sequence[np.ndarray], language: str) -> list[str]:
        processor, model = self._parts
        extractor = processor.feature_extractor
        is_long = max(map(len, clips)) > extractor.n_samples
        how = {"truncation": False} if is_long else {}
        inputs = extractor(list(clips), sampling_rate=TARGET_RATE, return_tensors="pt", return_attention_mask=True, **how)
        options: dict[str, Any] = {"return_timestamps": True} if is_long else {}
        if getattr(model.generation_config, "is_multilingual", True):
            options |= {"task": "transcribe", "language": None if language == "mixed" else language}
        tokens = model.generate(
            inputs.input_features.to(self.device, model.dtype),
            attention_mask=inputs.attention_mask.to(self.device),
            do_sample=False,
            num_beams=1,
            **options,
        )
        return processor.batch_decode(tokens, skip_special_tokens=True)


class PocketSphinx:
    """PocketSphinx' bundled English acoustic model, bound to a grammar: any sequence of the given words.

    It has never seen this project's data.

    Args:
        words: all it can write.

    Raises:
        NotRunError: (from `of`) pocketsphinx is not installed.
    """

    name = "pocketsphinx"

    def __init__(self, words: Sequence[str] = NUMBER_WORDS) -> None:
        self.words = list(words)

    def of(self, system: Any) -> PocketSphinx:
        self._decoder  # noqa: B018  built here, so that its absence is said before anything is asked
        return self

    @property
    def stamp(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {"name": self.name, "version": version("pocketsphinx"), "words": len(self.words)}

    @cached_property
    def _decoder(self) -> Any:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise NotRunError("pocketsphinx is not installed (pip install pocketsphinx)") from error
        decoder = Decoder(lm=None, loglevel="FATAL")
        decoder.add_jsgf_string("words", f"#JSGF V1.0; grammar words; public <s> = ( {' | '.join(self.words)} )+;")
        decoder.activate_search("words")
        return decoder

    def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        """NotRunError in another language than English; "" where the grammar fits nothing."""
        if language != "en":
            raise NotRunError(f"PocketSphinx' own model hears English alone, not {language}; name another recognizer")
        texts = [""] * len(waveforms)
        for i, clip in each_audible(waveforms, sample_rate).items():
            texts[i] = self._hear(clip)
        return texts

    def _hear(self, clip: np.ndarray) -> str:
        peak = float(np.abs(clip).max())
        if peak == 0.0:
            return ""
        silence = np.zeros(round(SILENCE_S * TARGET_RATE), dtype=np.float32)  # its noise estimate needs a margin
        samples = np.concatenate([silence, clip / peak * 0.7, silence])
        self._decoder.start_utt()
        self._decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""


class TheModelItself:
    """The system that spoke also listens (task `asr`): what it cannot hear in itself, it hardly said."""

    name = "itself"

    def __init__(self) -> None:
        self.system: Any = None

    def of(self, system: Any) -> TheModelItself:
        self.system = system
        return self

    @property
    def stamp(self) -> dict[str, Any]:
        return {"name": self.name, "system": getattr(self.system, "description", None)}

    def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        texts, items = [""] * len(waveforms), {}
        for i, clip in each_audible(waveforms, sample_rate).items():
            seconds, spoken = len(clip) / TARGET_RATE, "zh" if language == "mixed" else language
            span = Span("", 0.0, seconds, "user")
            sample = Sample(f"heard-{i}", "heard", "test", spoken, "", "", (span,), duration_s=seconds)
            items[i] = Item(sample, partial(resample, clip, TARGET_RATE))
        if items:
            for i, text in zip(items, self.system.answer_text(list(items.values()), "asr"), strict=True):
                texts[i] = text
        return texts


class Remote:
    """An OpenAI-style endpoint for transcriptions.

    Args:
        url, model, api_key_env, cache, requests_per_minute, max_retries, timeout_s, max_parallel: as of
            `bcaudio.inference.openai_client.Client`.
        name: begins its keys as a second opinion.
    """

    def __init__(self, url: str, model: str, name: str = "remote", **options: Any) -> None:
        self.name, self.client = name, Client(url, model, **options)

    def of(self, system: Any) -> Remote:
        return self

    @property
    def stamp(self) -> dict[str, Any]:
        return {"name": self.name, **self.client.stamp}

    def hear(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        """EndpointError where the endpoint does not answer; NotHeardError where it refuses a sound."""
        texts, clips = [""] * len(waveforms), each_audible(waveforms, sample_rate)
        told = None if language == "mixed" else language

        def transcribe(i: int) -> str:
            try:
                return self.client.transcribe(_wav(clips[i]), told)
            except EndpointError as error:
                if error.status in REFUSED:
                    raise NotHeardError(i, str(error)) from error
                raise

        for i, text in zip(clips, self.client.map(transcribe, clips), strict=True):
            texts[i] = text.strip()
        return texts


def _wav(clip: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(clip, -1.0, 1.0), TARGET_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
