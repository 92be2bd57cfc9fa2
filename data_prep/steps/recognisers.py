"""Ears for transcription, checks and alignment, behind two protocols. Models are loaded at the first call."""

from __future__ import annotations

import io
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from bcaudio.audio.io import resample
from data_prep.steps.words import rules_of, units_of

RATE = 16_000


class Recogniser(Protocol):
    """Writes down what it hears."""

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        """float32 [N] each, all of one rate (Hz) and language -> a text each; "" for nothing heard."""
        ...


class Emitter(Protocol):
    """A CTC model that shows its probabilities; index 0 of a frame is the blank."""

    def emissions(self, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
        """float32 [N] -> natural log-probabilities [T, C] and the seconds from one frame to the next."""
        ...

    def tokens(self, word: str, language: str) -> list[int] | None:
        """The output indices of a word, None where it cannot be written with them."""
        ...


class CTCStage:
    """Our own CTC recogniser (`bcaudio.models.ctc_recognizer`) from a stage folder; `Recogniser` and `Emitter`.

    Args:
        folder: written by a stage that trains a CTCRecognizer.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._model: Any = None

    def _loaded(self) -> Any:
        if self._model is None:
            from bcaudio.checkpoint import load_model
            from bcaudio.models.ctc_recognizer import CTCRecognizer

            model = load_model(self.folder)
            if not isinstance(model, CTCRecognizer):
                raise ValueError(f"CTCStage: {self.folder} holds a {type(model).__name__}; name a stage of a CTCRecognizer")
            self._model = model
        return self._model

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        from bcaudio.evaluation.hearing import hear

        return hear(self._loaded(), waveforms, sample_rate, batch_size=1)  # one by one: no clip's result depends on another

    def emissions(self, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
        import torch

        model, clip = self._loaded(), resample(waveform, sample_rate, RATE)
        with torch.inference_mode():
            log_probs, frames = model(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
        return log_probs[0, : int(frames[0])].numpy(), 4 * model.front_end.hop_length / RATE

    def tokens(self, word: str, language: str) -> list[int] | None:
        index = self._loaded().index
        parts = units_of(word, language)
        return [index[part] for part in parts] if parts and all(part in index for part in parts) else None


class HuggingFaceCTC:
    """A CTC model in Hugging Face layout (wav2vec2, HuBERT, ...) from a local folder; `Recogniser` and `Emitter`.

    Its blank, the padding token, is moved to index 0, and what it gives to the mark between words is added to the blank: both
    are no sound of the text.

    Args:
        folder: config, safetensors weights, vocabulary; nothing is fetched.
        device: where it runs.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        self._parts: Any = None

    def _loaded(self) -> Any:
        if self._parts is None:
            from transformers import AutoModelForCTC, AutoProcessor

            _need_folder(self.folder, "HuggingFaceCTC")
            model = AutoModelForCTC.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
            processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True)
            self._parts = model.eval().to(self.device), processor
        return self._parts

    def _log_probs(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        import torch

        model, processor = self._loaded()
        clip = resample(waveform, sample_rate, RATE)
        inputs = processor(clip, sampling_rate=RATE, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            return model(**inputs).logits[0].float().log_softmax(-1).cpu().numpy()

    def emissions(self, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
        model, processor = self._loaded()
        log_probs, blank = self._log_probs(waveform, sample_rate), model.config.pad_token_id
        mark = processor.tokenizer.word_delimiter_token_id
        if mark is not None:
            log_probs[:, blank] = np.logaddexp(log_probs[:, blank], log_probs[:, mark])
        order = [blank, *(i for i in range(log_probs.shape[1]) if i != blank)]
        return log_probs[:, order], model.config.inputs_to_logits_ratio / RATE

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        processor = self._loaded()[1]
        heard = [self._log_probs(waveform, sample_rate).argmax(-1) if len(waveform) else [] for waveform in waveforms]
        return [processor.decode(ids).strip() for ids in heard]

    def tokens(self, word: str, language: str) -> list[int] | None:
        model, processor = self._loaded()
        blank, vocabulary = model.config.pad_token_id, processor.tokenizer.get_vocab()
        upper = any(len(name) == 1 and name.isupper() for name in vocabulary)  # a model has letters of one case
        letters = "".join(units_of(word, language))
        ids = [vocabulary.get(letter) for letter in (letters.upper() if upper else letters)]
        known = [i for i in ids if i is not None]  # an apostrophe or accent that the model lacks is not a reason to give up
        return [i + (i < blank) for i in known] if len(known) > len(ids) / 2 else None


class Whisper:
    """Whisper in Hugging Face layout from a local folder, greedy; `Recogniser`. Clips of at most 30 s.

    Args:
        folder: config, safetensors weights, tokenizer; nothing is fetched.
        device: where it runs.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        self._parts: Any = None

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        import torch
        from transformers import AutoProcessor, WhisperForConditionalGeneration

        if self._parts is None:
            _need_folder(self.folder, "Whisper")
            model = WhisperForConditionalGeneration.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
            self._parts = model.eval().to(self.device), AutoProcessor.from_pretrained(self.folder, local_files_only=True)
        model, processor = self._parts
        spoken = {"language": rules_of(language), "task": "transcribe"} if model.generation_config.is_multilingual else {}
        texts = []
        for waveform in waveforms:
            clip = resample(waveform, sample_rate, RATE)
            if len(clip) > 30 * RATE:
                raise ValueError(f"Whisper: a clip of {len(clip) / RATE:.1f} s, but it hears 30 s; cut with CutSpeech(max_s=30)")
            inputs = processor(clip, sampling_rate=RATE, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                ids = model.generate(inputs.input_features, do_sample=False, num_beams=1, **spoken)
            texts.append(processor.decode(ids[0], skip_special_tokens=True).strip())
        return texts


class HttpRecogniser:
    """A server with OpenAI's `POST /v1/audio/transcriptions` (vLLM, faster-whisper-server, ...); `Recogniser`.

    Args:
        url: of the endpoint.
        model: its name on the server.
        timeout_s: per request.
        num_tries: a request that fails for a reason that may pass (no connection, 429, 5xx) is sent again after 1, 2, 4, ... s.
        key_variable: environment variable with the API key; nothing is sent where it is unset.

    Raises:
        ConnectionError: all tries failed, or the server refuses; names the address and its answer.
    """

    def __init__(
        self, url: str, model: str, timeout_s: float = 60.0, num_tries: int = 4, key_variable: str = "OPENAI_API_KEY"
    ) -> None:
        self.url, self.model, self.timeout_s, self.num_tries, self.key_variable = url, model, timeout_s, num_tries, key_variable

    def transcribe(self, waveforms: Sequence[np.ndarray], sample_rate: int, language: str) -> list[str]:
        return [self._ask(waveform, sample_rate, language) if len(waveform) else "" for waveform in waveforms]

    def _ask(self, waveform: np.ndarray, sample_rate: int, language: str) -> str:
        wav = io.BytesIO()
        soundfile.write(wav, np.clip(waveform, -1, 1), sample_rate, format="WAV", subtype="PCM_16")
        edge = uuid.uuid4().hex
        fields = {"model": self.model, "language": rules_of(language), "response_format": "json", "temperature": "0"}
        lines = [f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        body = "".join([*lines, head]).encode() + wav.getvalue() + f"\r\n--{edge}--\r\n".encode()
        reply = post(self.url, body, f"multipart/form-data; boundary={edge}", self.timeout_s, self.num_tries, self.key_variable)
        try:
            return str(json.loads(reply)["text"]).strip()
        except (ValueError, KeyError, TypeError) as error:
            raise ConnectionError(f"{self.url}: the answer is no JSON with 'text': {reply[:80]!r}") from error


def post(url: str, body: bytes, content_type: str, timeout_s: float, num_tries: int, key_variable: str) -> bytes:
    """POST with retries; ConnectionError names the address and the last failure."""
    headers = {"Content-Type": content_type}
    if os.environ.get(key_variable):
        headers["Authorization"] = f"Bearer {os.environ[key_variable]}"
    failure: object = "no try made"
    for number in range(num_tries):
        if number:
            time.sleep(2.0 ** (number - 1))
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout_s) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            failure = f"HTTP {error.code} {error.read()[:200].decode(errors='replace')}"
            if error.code != 429 and error.code < 500:
                break
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            failure = error
    raise ConnectionError(f"{url}: {failure}; is the server up and the model's name right?")


def _need_folder(folder: str, who: str) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{who}: {folder}/config.json is missing; give a local folder in Hugging Face layout")
