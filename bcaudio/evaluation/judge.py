"""Who says whether an answer is right: rules (offline, always the same), a local language model, or one behind an endpoint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from bcaudio.evaluation.judge_numbers import numbers_in
from bcaudio.evaluation.judge_prompts import Prompt
from bcaudio.inference.openai_client import Client, EndpointError, text_of
from bcaudio.text.normalize import DEFAULT, Normalizer, normalizer

_SHOWN = 200  # characters of an unreadable reply that an error shows
_FAILURES_IN_A_ROW = 5  # then an endpoint is not asked any more


@dataclass(frozen=True)
class Question:
    """One answer to be judged.

    Args:
        id: of the item.
        question: what was asked.
        references: the right answers, any of which counts; may be empty where a judge needs none.
        hypothesis: what was answered.
        language: code of the references and the hypothesis.
    """

    id: str
    question: str
    references: tuple[str, ...]
    hypothesis: str
    language: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says.

    Args:
        score: in [0, 1]; None where there is no verdict, never 0 in its place.
        reason: why, in the judge's words.
        error: why there is none; empty otherwise.
    """

    score: float | None
    reason: str
    error: str = ""


class Judge(Protocol):
    """Judges answers. `stamp` is what results name: whatever could change a verdict."""

    @property
    def stamp(self) -> dict[str, Any]:
        """`name`, `version` and what the judge depends on."""

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """One verdict per question, in order."""


class ExactMatch:
    """Right if the hypothesis equals one of the references after normalisation.

    Args:
        normalizer: the form in which texts are compared, or its name.
    """

    name, version = "exact", 1

    def __init__(self, normalizer: Normalizer | str = DEFAULT) -> None:
        self.normalizer = _form_of(normalizer)

    @property
    def stamp(self) -> dict[str, Any]:
        """`name`, `version`, `normalizer`."""
        return {"name": self.name, "version": self.version, "normalizer": self.normalizer.name}

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """1.0 or 0.0 each; an error where no reference is left after normalisation."""
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict:
        wanted = {text: self.normalizer.units(text, question.language) for text in question.references}
        wanted = {text: units for text, units in wanted.items() if units}
        if not wanted:
            return Verdict(None, "", f"none of the references {list(question.references)} has text in {self.normalizer.name}")
        heard = self.normalizer.units(question.hypothesis, question.language)
        for text, units in wanted.items():
            if self._fits(heard, units):
                return Verdict(1.0, f"{self.name}: {text!r}")
        return Verdict(0.0, f"{self.name}: none of {list(wanted)}")

    def _fits(self, heard: list[str], wanted: list[str]) -> bool:
        return heard == wanted


class Contains(ExactMatch):
    """Right if the units of one of the references stand in the hypothesis, next to each other and in order.

    Args:
        normalizer: the form in which texts are compared, or its name.
    """

    name = "contains"

    def _fits(self, heard: list[str], wanted: list[str]) -> bool:
        return any(heard[i : i + len(wanted)] == wanted for i in range(len(heard) - len(wanted) + 1))


class Numeric:
    """Right if the last number of the hypothesis has the value of the reference's: 23, twenty-three and 二十三 are equal.

    Where a reference holds several numbers, the hypothesis must end with the same ones in the same order. What counts as a number
    is told at `bcaudio.evaluation.judge_numbers.numbers_in`; units (euros, apples, percent) are not compared.
    """

    @property
    def stamp(self) -> dict[str, Any]:
        """`name`, `version`."""
        return {"name": "numeric", "version": 1}

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """1.0 or 0.0 each; an error where no reference holds a number."""
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: Question) -> Verdict:
        wanted = [numbers for text in question.references if (numbers := numbers_in(text, question.language))]
        if not wanted:
            return Verdict(None, "", f"none of the references {list(question.references)} holds a number")
        heard = numbers_in(question.hypothesis, question.language)
        right = any(heard[-len(numbers) :] == numbers for numbers in wanted)
        said = ", ".join(str(number) for number in heard) or "no number"
        return Verdict(float(right), f"numeric: {said}")


@dataclass(frozen=True)
class Reply:
    """What a model answered: `text`, or None and the `error`."""

    text: str | None
    error: str = ""


class PromptedJudge(ABC):
    """A judge that is a language model. An unreadable reply is asked for once more; then there is no verdict.
    An empty hypothesis gets the lowest score unasked.
    """

    name, version = "", 1

    def __init__(self, prompt: str) -> None:
        self.prompt = Prompt.load(prompt)

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """The scores of the prompt's scale; an error where a reply cannot be read or does not come."""
        verdicts: dict[int, Verdict] = {}
        texts: dict[int, str] = {}
        for i, question in enumerate(questions):
            if not question.hypothesis.strip():
                verdicts[i] = Verdict(self.prompt.lowest, "empty answer")
            elif self.prompt.wants_references and not any(text.strip() for text in question.references):
                verdicts[i] = Verdict(None, "", f"there is no reference, which prompt {self.prompt.name} needs")
            else:
                references = "\n".join(" ".join(text.split()) for text in question.references)
                fields = {"question": question.question, "references": references, "answer": question.hypothesis}
                texts[i] = self.prompt.filled(fields)
        for _ in range(2):
            unread = {}
            for (i, text), reply in zip(texts.items(), self._replies(list(texts.values())), strict=True):
                found = None if reply.error else self.prompt.read(reply.text or "")
                if found:
                    verdicts[i] = Verdict(*found)
                elif reply.text is None:
                    verdicts[i] = Verdict(None, "", reply.error)
                else:
                    why = reply.error or "not in the form asked for"
                    verdicts[i] = Verdict(None, "", f"the judge's reply cannot be read ({why}), twice: {reply.text[:_SHOWN]!r}")
                    unread[i] = f"{text}\n\n{self.prompt.reminder}"
            texts = unread
        return [verdicts[i] for i in range(len(questions))]

    @abstractmethod
    def _replies(self, texts: Sequence[str]) -> list[Reply]:
        """What the model says to each prompt, in their order."""


class OpenAIJudge(PromptedJudge):
    """A model behind an OpenAI-style endpoint.

    Args:
        url, model: as `Client` takes them.
        prompt: name of a prompt of this package, or the path of a file.
        cache: folder of answers; a second run with it asks nothing and gives the same verdicts.
        options: what goes into every request; by default `temperature: 0, max_tokens: 400`.
        client: further arguments of `Client`: api_key_env, requests_per_minute, max_retries, timeout_s, max_parallel, ...
    """

    name = "openai"

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str = "qa-correct-1",
        cache: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        **client: Any,
    ) -> None:
        super().__init__(prompt)
        self.client = Client(url, model, cache=cache, **client)
        self.options = {"temperature": 0, "max_tokens": 400} if options is None else dict(options)

    @property
    def stamp(self) -> dict[str, Any]:
        """`name`, `version`, `url`, `model`, `options`, `prompt`, `prompt_sha256`."""
        named = {"name": self.name, "version": self.version}
        return {**named, **self.client.stamp, "options": self.options, **self.prompt.stamp}

    def _replies(self, texts: Sequence[str]) -> list[Reply]:
        failed: list[str] = []  # since the last answer

        def ask(text: str) -> Reply:
            recent = list(failed)
            if len(recent) >= _FAILURES_IN_A_ROW:
                return Reply(None, f"not asked after {_FAILURES_IN_A_ROW} failures in a row: {recent[-1]}")
            try:
                response = self.client.chat([{"role": "user", "content": text}], **self.options)
            except EndpointError as error:
                failed.append(str(error))
                return Reply(None, str(error))
            failed.clear()
            cut = response["choices"][0].get("finish_reason") == "length"
            return Reply(text_of(response), "cut off at its limit of tokens" if cut else "")

        return self.client.map(ask, texts)


class HuggingFaceJudge(PromptedJudge):
    """A causal language model in a local folder (safetensors, a chat template, no code of its own), decoded greedily.

    Args:
        folder: as `save_pretrained` writes it.
        prompt: name of a prompt of this package, or the path of a file.
        batch_size: how many questions go through the model at once.
        max_new_tokens: longer replies are unreadable.
        device: `cpu`, `cuda`, ...; None takes a GPU where there is one.

    Raises:
        FileNotFoundError: the folder lacks a part.
        ValueError: the tokenizer has no chat template.
    """

    name = "huggingface"

    def __init__(
        self,
        folder: str | Path,
        prompt: str = "qa-correct-1",
        batch_size: int = 8,
        max_new_tokens: int = 200,
        device: str | None = None,
    ) -> None:
        super().__init__(prompt)
        from transformers import AutoTokenizer

        self.folder, self.batch_size, self.max_new_tokens = Path(folder), batch_size, max_new_tokens
        for part in ("config.json", "*.safetensors"):
            if not any(self.folder.glob(part)):
                raise FileNotFoundError(f"judge {folder}: holds no {part}; give a folder as save_pretrained writes it")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        if not self.tokenizer.chat_template:
            raise ValueError(f"judge {folder}: its tokenizer has no chat template; take an instruction-tuned model")
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._model: Any = None
        self._sha256 = ""

    @property
    def stamp(self) -> dict[str, Any]:
        """`name`, `version`, `model` (the folder's name), `model_sha256` (of its files), limits, `prompt`, `prompt_sha256`."""
        if not self._sha256:
            digest = hashlib.sha256()
            for file in sorted(file for file in self.folder.iterdir() if file.suffix in (".json", ".safetensors", ".jinja")):
                with file.open("rb") as stream:
                    digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
            self._sha256 = digest.hexdigest()
        limits = {"batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens}
        model = {"model": self.folder.resolve().name, "model_sha256": self._sha256}
        return {"name": self.name, "version": self.version, **model, **limits, **self.prompt.stamp}

    def encode(self, text: str) -> list[int]:
        """The ids of the chat that asks `text`. Names of special tokens in it stay ordinary text, so data cannot end a turn."""
        for token in sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True):
            text = text.replace(token, f"{token[0]} {token[1:]}") if len(token) > 1 else text
        chat = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)

    def _replies(self, texts: Sequence[str]) -> list[Reply]:
        replies: list[Reply] = []
        for start in range(0, len(texts), self.batch_size):
            replies += self._generate([self.encode(text) for text in texts[start : start + self.batch_size]])
        return replies

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]]) -> list[Reply]:
        from transformers import AutoModelForCausalLM, GenerationConfig

        if self._model is None:
            options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": "auto"}
            self._model = AutoModelForCausalLM.from_pretrained(self.folder, **options).to(self.device).eval()
        ends = self._model.generation_config.eos_token_id
        ends = [self.tokenizer.eos_token_id] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.device)
        config = GenerationConfig(
            do_sample=False, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, max_new_tokens=self.max_new_tokens,
            eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        made = self._model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :].tolist()
        whole = [any(token in ends for token in row) for row in made]
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [Reply(text, "" if done else "cut off at its limit of tokens") for text, done in zip(texts, whole, strict=True)]


def _form_of(form: Normalizer | str) -> Normalizer:
    return normalizer(form) if isinstance(form, str) else form
