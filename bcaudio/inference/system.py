"""The whole system of a finished run: hears, answers, speaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bcaudio.audio.mel import AuxiliaryMel
from bcaudio.checkpoint import check_fingerprint, load_model, read_fingerprint
from bcaudio.data.schema import Sample
from bcaudio.data.sequence import SequenceBuilder
from bcaudio.data.tasks import Segment, segments_of
from bcaudio.inference.generate import Generator
from bcaudio.inference.prompt import Prompt
from bcaudio.inference.sampling import GREEDY, SamplingOptions
from bcaudio.recipe.load import load_recipe
from bcaudio.text.tokenizer import TextTokenizer

LISTEN_RATE, SPEAK_RATE = 16000, 24000


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
        text_tokenizer: folder of the text tokenizer; the others are stage folders. `flow_decoder`, `vocoder` and `auditor` may be
            left out.
        speech_options: how codes are sampled; greedy by default.
        flow_temperature, flow_guidance: scale of the flow's first noise, and classifier-free guidance in place of the flow
            decoder's own (0.7 as released).
        device: where the models run.

    Raises:
        ValueError: the audio LLM was trained on another codebook layout than the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: str | Path,
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
    ) -> None:
        self.device, self.speech_options, self.max_frames = device, speech_options, max_frames
        self.flow_temperature, self.flow_guidance = flow_temperature, flow_guidance
        self.text_tokenizer = TextTokenizer(text_tokenizer)
        self.tokenizer = self._load(tokenizer)
        self.codes_fingerprint = read_fingerprint(tokenizer)
        self.flow_decoder = self._load(flow_decoder)
        self.vocoder = self._load(vocoder)
        self.auditor = self._load(auditor)
        self.use_audio_llm(audio_llm)

    @classmethod
    def of_run(cls, run_dir: str | Path) -> System:
        """The system that `<run_dir>/pipeline.yaml` names under `system`.

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
        return cls(**{part: run_dir / name for part, name in names.items()})

    def use_audio_llm(self, folder: str | Path) -> None:
        """Put the audio LLM of another stage in place."""
        self.audio_llm = self._load(folder)
        sizes = list(self.audio_llm.codebook_sizes)
        if sizes:
            check_fingerprint({"codebook_sizes": sizes}, self.codes_fingerprint, where=f"audio LLM {folder}")
        self.builder = SequenceBuilder(self.text_tokenizer, sizes)
        rng = torch.Generator(device=self.device).manual_seed(0)
        self.generator = Generator(self.audio_llm, self.text_tokenizer.special, rng=rng)

    def _load(self, folder: str | Path | None) -> nn.Module | None:
        return None if folder is None else load_model(folder).to(self.device)

    # --- hearing and answering -------------------------------------------------------------------------------------------------

    def answer_text(self, samples: Sequence[Sample], task: str) -> list[str]:
        """The text reply to every sample under a task whose reply is text; heard audio comes from the samples' codes."""
        return self._texts([segments_of(task, sample) for sample in samples])

    def answer_text_from_text(self, samples: Sequence[Sample], task: str) -> list[str]:
        """The same question in writing: task `aqa`, `s2tt` or `asr` through its text form."""
        form = {"aqa": "text_answer", "s2tt": "text_translate", "asr": "text_repeat"}[task]
        return self._texts([segments_of(form, sample) for sample in samples])

    def _texts(self, conversations: Sequence[list[Segment]]) -> list[str]:
        prompts = [Prompt(*self.builder.prompt(segments)) for segments in conversations]
        answers = self.generator.generate_text_batch(prompts, max_new_tokens=64)
        return [self.text_tokenizer.decode(answer) for answer in answers]

    def choice_scores(self, samples: Sequence[Sample], mode: str) -> list[tuple[float, float]]:
        """Mean log-likelihood per token of the right and the wrong last sentence, as text.

        The story before it is read (mode `text`) or heard (mode `speech`).
        """
        prompts, endings = [], []
        for sample in samples:
            story = [Segment("text", span.text) for span in sample.spans[:-2]]
            if mode == "speech":
                story = [
                    Segment("audio", span.text, codes=sample.span_codes(i), span=i) for i, span in enumerate(sample.spans[:-2])
                ]
            for span in sample.spans[-2:]:
                prompts.append(Prompt(*self.builder.prompt(story)))
                endings.append(Prompt(self.text_tokenizer.encode(span.text)))
        scores = self.generator.score(prompts, endings)
        return list(zip(scores[::2], scores[1::2], strict=True))

    # --- speaking --------------------------------------------------------------------------------------------------------------

    def speak(self, samples: Sequence[Sample], task: str) -> list[SpokenAnswer]:
        """Task `tts`: read the text aloud; task `dialogue`: hear the question, write the answer, then say it."""
        conversations = [segments_of(task, sample) for sample in samples]
        if task == "tts":
            return self._say(
                [self.builder.prompt(segments) for segments in conversations], [sample.spans[0].text for sample in samples]
            )
        return self._reply([self.builder.prompt(segments) for segments in conversations])

    def reply(self, waveform: np.ndarray) -> SpokenAnswer:
        """Text and speech in answer to a spoken question, float32 [N] at 16 kHz."""
        codes = self.tokenizer.encode_long(torch.from_numpy(waveform).to(self.device)).cpu().numpy()
        question = [Segment("special", "question"), Segment("audio", "", codes=codes)]
        answer = [Segment("special", "audiotext_start"), Segment("special", "answer")]
        return self._reply([self.builder.prompt([*question, *answer])])[0]

    def _reply(self, prompts: Sequence[tuple[list[int], np.ndarray]]) -> list[SpokenAnswer]:
        special = self.text_tokenizer.special
        stops = {special.audiogen_start, special.eos}
        written = self.generator.generate_text_batch([Prompt(*prompt) for prompt in prompts], max_new_tokens=48, stop_ids=stops)
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
        self, clips: Sequence[tuple[Sample, np.ndarray]], num_levels: int | None = None, with_waveform: bool = False
    ) -> list[Reconstruction]:
        """Clips (float32 at 16 kHz) through tokenizer and back, with the codes of the first `num_levels` levels."""
        target = AuxiliaryMel()
        results = []
        for _, waveform in clips:
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
