"""A system behind an OpenAI-style endpoint: the same questions, asked over HTTP."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import soundfile

from bcaudio.audio.io import resample
from bcaudio.checkpoint import load_model
from bcaudio.inference.encoding import LISTEN_RATE
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.inference.openai_client import Client, EndpointError, text_of
from bcaudio.inference.system import SPEAK_RATE, SpokenAnswer

# a change of any prompt is a new version, since it changes figures
PROMPTS_VERSION = "remote-1"
PROMPTS = {
    "asr": "Transcribe the speech in this audio word for word, in {language}. Reply with the transcript alone.",
    "s2tt": "Translate the speech in this audio into {target}. Reply with the translation alone.",
    "aqa": "Answer the question in this audio. Reply with the answer alone.",
    "dialogue": "Answer the question in this audio.",
    "text.asr": "Repeat this text word for word. Reply with the text alone.\n\n{text}",
    "text.s2tt": "Translate this text into {target}. Reply with the translation alone.\n\n{text}",
    "text.aqa": "Answer this question. Reply with the answer alone.\n\n{text}",
}
LANGUAGES = {"en": "English", "zh": "Chinese", "fr": "French", "es": "Spanish", "de": "German", "ja": "Japanese", "ar": "Arabic",
             "ca": "Catalan", "it": "Italian", "pt": "Portuguese", "ru": "Russian", "nl": "Dutch", "tr": "Turkish",
             "yue": "Cantonese", "ko": "Korean"}  # fmt: skip
WRONG_REQUEST = (400, 413, 415, 422)
NO_SUCH_PATH = (404, 405, 501)


class RemoteSystem:
    """Asks one model behind one endpoint, many requests at a time; answers are kept, so that none is paid for twice.

    Args:
        url, model, api_key_env, requests_per_minute, max_retries, timeout_s, max_parallel: see Client.
        cache: folder of the answers; None keeps them only as long as this object lives.
        chat_options: go into every chat request.
        voice: of spoken answers and of texts read aloud.
        speech_model: what reads texts aloud behind `/audio/speech`; None takes `model`.
        auditor: stage folder of what listens to spoken answers.
        check: send a small request at once, so that a wrong URL, key or option is found before the first benchmark.

    Raises:
        EndpointError: the first request was not answered.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        requests_per_minute: float | None = None,
        max_retries: int = 5,
        timeout_s: float = 120.0,
        max_parallel: int = 4,
        chat_options: Mapping[str, Any] | None = None,
        voice: str = "alloy",
        speech_model: str | None = None,
        auditor: str | Path | None = None,
        check: bool = True,
    ) -> None:
        self._kept = None if cache is not None else tempfile.TemporaryDirectory(prefix="bcaudio-answers-")
        folder = cache if self._kept is None else self._kept.name
        limits = {"requests_per_minute": requests_per_minute, "timeout_s": timeout_s, "max_parallel": max_parallel}
        self.client = Client(url, model, api_key_env, folder, max_retries=max_retries, **limits)
        self.speaker = Client(url, speech_model or model, api_key_env, folder, max_retries=max_retries, **limits)
        self._probe = Client(url, model, api_key_env, None, max_retries=1, timeout_s=min(timeout_s, 30.0), first_pause_s=0.2)
        self.chat_options = dict({"temperature": 0.0, "max_tokens": 512} if chat_options is None else chat_options)
        self.voice = voice
        self.auditor = None if auditor is None else load_model(auditor)
        self._failed: dict[tuple[str, str], str] = {}
        self._blaming = threading.Lock()
        if check:
            self._check()

    @property
    def description(self) -> dict[str, Any]:
        """What the answers depend on, as far as it can be known from here."""
        digest = hashlib.sha256(json.dumps(PROMPTS, sort_keys=True).encode()).hexdigest()
        return {
            "kind": "remote",
            **self.client.stamp,
            "speech_model": self.speaker.model,
            "voice": self.voice,
            "options": self.chat_options,
            "prompts": {"name": PROMPTS_VERSION, "sha256": digest},
        }

    def answer_text(self, items: Sequence[Item], task: str) -> list[str]:
        """The text reply to the sound of every item, task `asr`, `s2tt` or `aqa`.

        Raises (as all methods that take items):
            ItemError: the endpoint refused one item, with the server's words; or its sound cannot be read.
            EndpointError: the endpoint answers nothing at all.
        """
        return self._each(items, task, lambda item: text_of(self._chat(_heard(item, task))))

    def answer_text_from_text(self, items: Sequence[Item], task: str) -> list[str]:
        """The same question in writing."""
        return self._each(items, f"text.{task}", lambda item: text_of(self._chat(_prompt(item, f"text.{task}"))))

    def speak(self, items: Sequence[Item], task: str) -> list[SpokenAnswer]:
        """Task `tts`: `/audio/speech` reads the text aloud; `dialogue`: a spoken answer to a spoken question."""
        return self._each(items, task, self._read_aloud if task == "tts" else self._reply)

    def generate_from_text(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """What the model answers to free text; EndpointError where it does not."""
        limit = {name: max_new_tokens for name in ("max_tokens", "max_completion_tokens") if name in self.chat_options}
        return self.client.map(lambda prompt: text_of(self._chat(prompt, **limit)), prompts)

    def choice_scores(self, items: Sequence[Item], mode: str) -> NoReturn:
        """NotRunError: endpoints give no likelihoods of a text that they did not write."""
        raise NotRunError("an endpoint gives no likelihoods; ask a local model")

    def continuation_scores(self, prompts: Sequence[str], endings: Sequence[Sequence[str]]) -> NoReturn:
        """NotRunError, as `choice_scores`."""
        return self.choice_scores((), "text")

    def log_likelihoods(self, texts: Sequence[str], max_tokens: int = 512) -> NoReturn:
        """NotRunError, as `choice_scores`."""
        return self.choice_scores((), "text")

    def reconstruct(self, items: Sequence[Item], num_levels: int | None = None, with_waveform: bool = False) -> NoReturn:
        """NotRunError: its tokenizer cannot be reached."""
        raise NotRunError("an endpoint has no audio tokenizer to be reached; ask a local model")

    def use_audio_llm(self, folder: str | Path) -> NoReturn:
        """NotRunError: there are no stages behind an endpoint."""
        raise NotRunError(f"an endpoint has no other stages, such as {folder}; ask a local model")

    # --- requests --------------------------------------------------------------------------------------------------------------

    def _each(self, items: Sequence[Item], task: str, ask: Callable[[Item], Any]) -> list[Any]:
        """Asks all items at once. All are asked before the first that failed is told; it will not be asked again."""

        def one(item: Item) -> Any:
            reason = self._failed.get((item.id, task))
            if reason is None:
                try:
                    return ask(item)
                except ItemError as error:
                    reason = error.reason
                except EndpointError as error:
                    self._blame(error)
                    reason = str(error)
                self._failed[item.id, task] = reason
            return ItemError(item.id, reason)

        answers = self.client.map(one, items)
        for answer in answers:
            if isinstance(answer, ItemError):
                raise answer
        return answers

    def _blame(self, error: EndpointError) -> None:
        """Returns where the item is at fault: its request is wrong, or the endpoint still answers others."""
        if error.status in WRONG_REQUEST:
            return
        if error.status in (401, 403, 429) or error.status in NO_SUCH_PATH:
            raise error
        with self._blaming:
            self._check()

    def _check(self) -> None:
        self._probe.chat([{"role": "user", "content": "Say yes."}], **self.chat_options)

    def _chat(self, content: Any, **options: Any) -> dict[str, Any]:
        return self.client.chat([{"role": "user", "content": content}], **{**self.chat_options, **options})

    def _reply(self, item: Item) -> SpokenAnswer:
        wanted = {"modalities": ["text", "audio"], "audio": {"voice": self.voice, "format": "wav"}}
        answer = self._chat(_heard(item, "dialogue"), **wanted)
        sound = answer["choices"][0]["message"].get("audio") or {}
        if not isinstance(sound.get("data"), str):
            raise NotRunError(f"{self.client.model} at {self.client.url} was asked for sound and gave none")
        return SpokenAnswer(text_of(answer), NO_CODES, _sound_of(item, base64.b64decode(sound["data"])))

    def _read_aloud(self, item: Item) -> SpokenAnswer:
        text = item.sample.spans[0].text
        try:
            sound = self.speaker.speech(text, self.voice)
        except EndpointError as error:
            if error.status in NO_SUCH_PATH:
                raise NotRunError(f"{self.speaker.model} reads no text aloud: {error}") from error
            raise
        return SpokenAnswer(text, NO_CODES, _sound_of(item, sound))


NO_CODES = np.zeros((0, 0), dtype=np.int16)


def _prompt(item: Item, task: str) -> str:
    if task not in PROMPTS:
        raise NotRunError(f"no prompt for the task {task}")
    sample = item.sample
    target = LANGUAGES.get(sample.target_language or "", sample.target_language)
    return PROMPTS[task].format(language=LANGUAGES.get(sample.language, sample.language), target=target, text=sample.text)


def _heard(item: Item, task: str) -> list[dict[str, Any]]:
    """A prompt and the sound of an item, 16 kHz mono 16 bit; of several spans the first is the question."""
    waveform, spans = item.waveform(LISTEN_RATE), item.sample.spans
    if len(spans) > 1 and spans[0].end_s > 0:
        waveform = waveform[: round(spans[0].end_s * LISTEN_RATE)]
    wav = io.BytesIO()
    soundfile.write(wav, waveform, LISTEN_RATE, format="WAV", subtype="PCM_16")
    sound = {"data": base64.b64encode(wav.getvalue()).decode(), "format": "wav"}
    return [{"type": "text", "text": _prompt(item, task)}, {"type": "input_audio", "input_audio": sound}]


def _sound_of(item: Item, wav: bytes) -> np.ndarray:
    try:
        waveform, sample_rate = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ItemError(item.id, f"the endpoint's sound is no WAV ({error})") from error
    return resample(np.ascontiguousarray(waveform.mean(axis=1)), sample_rate, SPEAK_RATE)
