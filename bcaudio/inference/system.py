"""The whole system of a finished run: hears, answers, speaks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcaudio.audio.mel import AuxiliaryMel
from bcaudio.checkpoint import FINGERPRINT, RECIPE, check_fingerprint, load_model, read_fingerprint, with_files
from bcaudio.data.schema import Sample
from bcaudio.data.sequence import SequenceBuilder
from bcaudio.data.tasks import Segment
from bcaudio.inference.asking import ANSWER, TEXT_FORMS, asked, choices
from bcaudio.inference.encoding import LISTEN_RATE, encode_clips, with_codes
from bcaudio.inference.generate import Generator
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.inference.prompt import Prompt
from bcaudio.inference.sampling import GREEDY, SamplingOptions
from bcaudio.recipe.load import load_recipe
from bcaudio.text.tokenizer import TextTokenizer

SPEAK_RATE = 24000
PARTS = ("text_tokenizer", "tokenizer", "audio_llm", "flow_decoder", "vocoder", "auditor")


@dataclass(frozen=True)
class SpokenAnswer:
    """What the system said.

    Args:
        text: what the text head wrote (the given text for TTS).
        codes: [T, K].
        waveform: float32 [N] at 24 kHz, empty when no frame was spoken.
    """

    text: str
    codes: np.ndarray
    waveform: np.ndarray


@dataclass(frozen=True)
class Reconstruction:
    """Mels [F, n_mels] of one clip through the tokenizer, and through flow and vocoder when asked for."""

    target_mel: np.ndarray
    coarse_mel: np.ndarray
    refined_mel: np.ndarray
    flow_mel: np.ndarray | None = None
    waveform: np.ndarray | None = None


class System:
    """Tokenizer, audio LLM, flow decoder and vocoder of one run.

    Args:
        text_tokenizer: folder of the text tokenizer; the others are stage folders. All but the audio LLM may be left out; what
            needs them is not run then.
        speech_options: how codes are sampled; greedy by default.
        max_text_tokens, max_reply_tokens, max_frames: limits of a written answer, of the text of a spoken one, and of its speech.
        flow_temperature, flow_guidance: scale of the flow's first noise, and classifier-free guidance in place of the flow
            decoder's own (0.7 as released).
        device: where the models run.

    Raises:
        ValueError: the audio LLM was trained on another codebook layout than the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: str | Path | None,
        audio_llm: str | Path,
        text_tokenizer: str | Path,
        flow_decoder: str | Path | None = None,
        vocoder: str | Path | None = None,
        auditor: str | Path | None = None,
        speech_options: SamplingOptions = GREEDY,
        max_frames: int = 100,
        flow_temperature: float = 1.0,
        flow_guidance: float | None = None,
        device: str = "cpu",
        max_text_tokens: int = 64,
        max_reply_tokens: int = 48,
    ) -> None:
        self.device, self.speech_options, self.max_frames = device, speech_options, max_frames
        self.flow_temperature, self.flow_guidance = flow_temperature, flow_guidance
        self.max_text_tokens, self.max_reply_tokens = max_text_tokens, max_reply_tokens
        given = (text_tokenizer, tokenizer, audio_llm, flow_decoder, vocoder, auditor)
        self.folders = {part: Path(folder) for part, folder in zip(PARTS, given, strict=True) if folder is not None}
        self.text_tokenizer = TextTokenizer(text_tokenizer)
        self.tokenizer = self._load(tokenizer)
        self.codes_fingerprint = {} if tokenizer is None else read_fingerprint(tokenizer)
        self.flow_decoder = self._load(flow_decoder)
        self.vocoder = self._load(vocoder)
        self.auditor = self._load(auditor)
        self.use_audio_llm(audio_llm)

    @classmethod
    def of_run(cls, run_dir: str | Path, **options: Any) -> System:
        """The system that `<run_dir>/pipeline.yaml` names under `system`; options as of the class.

        Raises:
            FileNotFoundError: no such run, or a stage of it that is not finished.
        """
        run_dir = Path(run_dir)
        if not (run_dir / "pipeline.yaml").is_file():
            raise FileNotFoundError(
                f"{run_dir}: no pipeline.yaml, so this is not the folder of a run; make one with `bcaudio run PIPELINE`"
            )
        names = load_recipe(run_dir / "pipeline.yaml")["system"]
        for name in names.values():
            record = run_dir / name / "stage.json"
            if not record.is_file() or json.loads(record.read_text())["status"] != "done":
                raise FileNotFoundError(f"{run_dir / name}: this stage is not finished; go on with `bcaudio run`")
        return cls(**{part: run_dir / name for part, name in names.items()}, **options)

    def use_audio_llm(self, folder: str | Path) -> None:
        """Put the audio LLM of another stage in place."""
        self.audio_llm = self._load(folder)
        self.folders["audio_llm"] = Path(folder)
        sizes = list(self.audio_llm.codebook_sizes)
        if sizes and self.codes_fingerprint:
            check_fingerprint({"codebook_sizes": sizes}, self.codes_fingerprint, where=f"audio LLM {folder}")
        self.builder = SequenceBuilder(self.text_tokenizer, sizes)
        rng = torch.Generator(device=self.device).manual_seed(0)
        self.generator = Generator(self.audio_llm, self.text_tokenizer.special, rng=rng)

    def _load(self, folder: str | Path | None) -> nn.Module | None:
        return None if folder is None else load_model(folder).to(self.device)

    @property
    def description(self) -> dict[str, Any]:
        """What the answers depend on: every part by its stage and weights, and the options; the same wherever the run lies."""
        options = {
            "speech_options": asdict(self.speech_options),
            **{name: getattr(self, name) for name in ("max_text_tokens", "max_reply_tokens", "max_frames")},
            **{name: getattr(self, name) for name in ("flow_temperature", "flow_guidance")},
        }
        return {"kind": "local", "parts": {part: _stamp(folder) for part, folder in self.folders.items()}, "options": options}

    # --- hearing and answering -------------------------------------------------------------------------------------------------

    def answer_text(self, items: Sequence[Item], task: str) -> list[str]:
        """The text reply to the sound of every item under a task whose reply is text.

        Raises (as all methods that take items):
            NotRunError: the system lacks a part, or was never taught the task in this language.
            ItemError: an item whose sound is missing or cannot be read.
        """
        return self._texts([asked(task, sample) for sample in self._encoded(items)])

    def answer_text_from_text(self, items: Sequence[Item], task: str) -> list[str]:
        """The same question in writing: task `aqa`, `s2tt` or `asr` through its text form."""
        return self._texts([asked(TEXT_FORMS[task], item.sample) for item in items])

    def _encoded(self, items: Sequence[Item]) -> list[Sample]:
        return with_codes(items, self.tokenizer, self.codes_fingerprint)

    def _texts(self, conversations: Sequence[list[Segment]]) -> list[str]:
        return self._written([self._prompt(segments) for segments in conversations], self.max_text_tokens)

    def _prompt(self, segments: Sequence[Segment]) -> Prompt:
        return Prompt(*self.builder.prompt(segments))

    def _written(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        answers = self.generator.generate_text_batch(prompts, max_new_tokens=max_new_tokens)
        return [self.text_tokenizer.decode(answer) for answer in answers]

    def generate_from_text(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """What the model writes after free text, without any mark of a task."""
        return self._written([Prompt(self._ids(prompt)) for prompt in prompts], max_new_tokens)

    def _ids(self, text: str) -> list[int]:
        ids = self.text_tokenizer.encode(text)
        if not ids:
            raise ValueError(f"text {text!r} has no token; give at least one character")
        return ids

    def continuation_scores(self, prompts: Sequence[str], endings: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-likelihood (nats, summed over tokens) of each ending after its prompt, both plain text."""
        befores = [Prompt(self._ids(prompt)) for prompt, choices in zip(prompts, endings, strict=True) for _ in choices]
        rests = [Prompt(self._ids(ending)) for choices in endings for ending in choices]
        scores = iter(self.generator.score(befores, rests, reduction="sum"))
        return [[next(scores) for _ in choices] for choices in endings]

    def log_likelihoods(self, texts: Sequence[str], max_tokens: int = 512) -> list[tuple[float, int, int]]:
        """(log-likelihood in nats, tokens, bytes) of each text from its second token to its end; texts are cut at `max_tokens`.

        A document's first token is never predicted in training either; its end is. A text without a token gives (0, 0, 0).
        """
        ids = [self.text_tokenizer.encode(text)[:max_tokens] for text in texts]
        read = [tokens for tokens in ids if tokens]
        firsts, rests = [Prompt(tokens[:1]) for tokens in read], [Prompt([*tokens[1:], self._eos]) for tokens in read]
        scores = iter(self.generator.score(firsts, rests, reduction="sum"))
        return [(next(scores), len(tokens), self._num_bytes(tokens)) if tokens else (0.0, 0, 0) for tokens in ids]

    @property
    def _eos(self) -> int:
        return self.text_tokenizer.special.eos

    def _num_bytes(self, tokens: Sequence[int]) -> int:
        return max(1, len(self.text_tokenizer.decode(tokens[1:]).encode()))

    def choice_scores(self, items: Sequence[Item], mode: str) -> list[list[float]]:
        """Mean log-likelihood per token of each ending (spans of role `right` or `wrong`, in their order).

        The spans before them are read and so is the ending (mode `text`), heard before a written ending (`speech`: S->T), or
        heard before a spoken one (`speech_to_speech`: the codes of all levels and the end of speech count).
        """
        samples = [item.sample for item in items] if mode == "text" else self._encoded(items)
        if mode == "speech_to_speech" and self.audio_llm.audio_head is None:
            raise NotRunError("the audio LLM has no audio head, so spoken endings have no likelihood")
        pairs = [choices(sample, mode) for sample in samples]
        flat = [pair for found in pairs for pair in found]
        # a prompt stops at its first segment that pays, and opens speech where that one is spoken
        befores = [self._prompt([*story, ending]) for story, ending in flat]
        scores = iter(self.generator.score(befores, [self._ending(ending) for _, ending in flat]))
        return [[next(scores) for _ in found] for found in pairs]

    def _ending(self, said: Segment) -> Prompt:
        if said.codes is None:
            return Prompt(self.text_tokenizer.encode(said.text))
        special = self.text_tokenizer.special
        return Prompt([special.audio_pad] * len(said.codes) + [special.audiogen_end], said.codes)

    # --- speaking --------------------------------------------------------------------------------------------------------------

    def speak(self, items: Sequence[Item], task: str) -> list[SpokenAnswer]:
        """Task `tts`: read the text aloud; task `dialogue`: hear the question, write the answer, then say it."""
        missing = [part for part in ("tokenizer", "flow_decoder", "vocoder") if getattr(self, part) is None]
        missing += ["audio head"] if self.audio_llm.audio_head is None else []
        if missing:
            raise NotRunError(f"the system has no {', '.join(missing)}, so it cannot speak")
        if task == "tts":
            texts = [item.sample.spans[0].text for item in items]
            speech = Segment("audio", "", train=True, direction="speak")
            return self._say([self.builder.prompt([Segment("text", text), speech]) for text in texts], texts)
        return self._reply([self.builder.prompt(asked(task, sample)) for sample in self._encoded(items)])

    def reply(self, waveform: np.ndarray) -> SpokenAnswer:
        """Text and speech in answer to a spoken question, float32 [N] at 16 kHz."""
        question = Segment("audio", "", codes=encode_clips(self.tokenizer, [waveform])[0])
        return self._reply([self.builder.prompt([Segment("special", "question"), question, *ANSWER])])[0]

    def _reply(self, prompts: Sequence[tuple[list[int], np.ndarray]]) -> list[SpokenAnswer]:
        special = self.text_tokenizer.special
        stops = {special.audiogen_start, special.eos}
        written = self.generator.generate_text_batch(
            [Prompt(*prompt) for prompt in prompts], max_new_tokens=self.max_reply_tokens, stop_ids=stops
        )
        spoken = [([*ids, *tokens, special.audiogen_start], codes) for (ids, codes), tokens in zip(prompts, written, strict=True)]
        return self._say(spoken, [self.text_tokenizer.decode(tokens) for tokens in written])

    def _say(self, prompts: Sequence[tuple[list[int], np.ndarray]], texts: Sequence[str]) -> list[SpokenAnswer]:
        codes = self.generator.generate_speech_batch(
            [Prompt(*prompt) for prompt in prompts], max_frames=self.max_frames, options=self.speech_options
        )
        waveforms = self.synthesize(codes)
        return [SpokenAnswer(*answer) for answer in zip(texts, codes, waveforms, strict=True)]

    @torch.inference_mode()
    def synthesize(self, codes: Sequence[np.ndarray], num_levels: int | None = None) -> list[np.ndarray]:
        """Codes [T, K] of every clip -> waveforms float32 at 24 kHz. A clip's sound does not depend on the others."""
        return [self.flow_and_vocode(rows, num_levels)[1] if len(rows) else np.zeros(0, dtype=np.float32) for rows in codes]

    @torch.inference_mode()
    def flow_and_vocode(self, codes: np.ndarray, num_levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Codes [T, K] -> flow mel [F, 80] and waveform [N] at 24 kHz; the flow's noise is drawn from a fixed seed.

        Raises:
            ValueError: the system has no flow decoder or no vocoder.
        """
        if self.flow_decoder is None or self.vocoder is None:
            missing = "flow_decoder" if self.flow_decoder is None else "vocoder"
            raise ValueError(
                f"this system has no {missing}, so it cannot speak; name one under `system` in its pipeline.yaml "
                "(of published weights: import them again with hift.pt in their folder)"
            )
        rows = torch.as_tensor(np.asarray(codes), dtype=torch.long, device=self.device)[None]
        hidden, lengths = self.tokenizer.decode_hidden(rows, torch.tensor([rows.shape[1]], device=self.device), num_levels)
        torch.manual_seed(0)  # the flow's first noise, then the vocoder's excitation
        mel = self.flow_decoder.sample(hidden, lengths, temperature=self.flow_temperature, guidance=self.flow_guidance)
        waveform = self.vocoder.synthesize(mel, lengths)[0]
        return mel[0].cpu().numpy(), np.asarray(waveform.cpu(), dtype=np.float32)

    @torch.inference_mode()
    def reconstruct(
        self, items: Sequence[Item], num_levels: int | None = None, with_waveform: bool = False
    ) -> list[Reconstruction]:
        """The items' sounds through tokenizer and back, with the codes of the first `num_levels` levels."""
        if self.tokenizer is None or (with_waveform and None in (self.flow_decoder, self.vocoder)):
            raise NotRunError("the system has no audio tokenizer, flow decoder or vocoder, so it cannot give sound back")
        target, frontend = AuxiliaryMel(), self.tokenizer.frontend
        results = []
        for item in items:
            waveform = item.waveform(LISTEN_RATE)
            if not self.tokenizer.num_codes(torch.tensor([len(waveform)])) or len(waveform) > frontend.max_samples:
                raise ItemError(
                    item.id,
                    f"is {len(waveform) / LISTEN_RATE:.2f} s long; the tokenizer takes 0.06 to {frontend.max_audio_s:g} s",
                )
            audio, length = torch.from_numpy(waveform)[None].to(self.device), torch.tensor([len(waveform)], device=self.device)
            codes, num_codes = self.tokenizer.encode(audio, length)
            decoded = self.tokenizer.decode(codes, num_codes, num_levels)
            mel, _ = target(audio, length)
            frames = int(decoded.mel_lengths[0])
            flow, sound = self.flow_and_vocode(codes[0].cpu().numpy(), num_levels) if with_waveform else (None, None)
            results.append(
                Reconstruction(
                    self._numpy(mel[0].T[:frames]),
                    self._numpy(decoded.coarse_mel[0, :frames]),
                    self._numpy(decoded.refined_mel[0, :frames]),
                    flow,
                    sound,
                )
            )
        return results

    @staticmethod
    def _numpy(tensor: Tensor) -> np.ndarray:
        return tensor.cpu().numpy()


def _stamp(folder: Path) -> dict[str, Any]:
    """A stage by its name, weights and what builds them, files included; a text tokenizer by its file."""
    if not (folder / FINGERPRINT).is_file() and (folder / "tokenizer.json").is_file():
        return {"stage": folder.name, "tokenizer_sha256": _sha256((folder / "tokenizer.json").read_bytes())}
    node = with_files(load_recipe(folder / RECIPE)["model"], folder)
    files = {name: _sha256(Path(path).read_bytes()) for name, path in node.items() if name.endswith("_file") and path}
    model = _sha256(json.dumps({**node, **files}, sort_keys=True).encode())
    return {"stage": folder.name, "weights_sha256": read_fingerprint(folder).get("weights_sha256"), "model_sha256": model}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
