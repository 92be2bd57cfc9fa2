"""Training of the audio tokenizer: reconstruction, commitment, and a frozen LLM that must read it (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bcaudio.audio.mel import AuxiliaryMel
from bcaudio.checkpoint import load_model
from bcaudio.data.batch import AlignedBatch
from bcaudio.inference.generate import Generator, Prompt
from bcaudio.losses.commitment import commitment_loss
from bcaudio.losses.mel_reconstruction import mel_reconstruction
from bcaudio.losses.token_cross_entropy import token_cross_entropy
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.audio_tokenizer import AudioTokenizer, TokenizerOutput
from bcaudio.text.tokenizer import TextTokenizer
from bcaudio.training.audio_llm_module import language_of, reference_of
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule


class TokenizerModule(StageModule):
    """L = w1 * reconstruction + w2 * LLM + w3 * commitment (eq. 3).

    Args:
        model: AudioTokenizer.
        losses: weights of `reconstruction`, `text`, `commitment`.
        text_llm: stage folder of the frozen text LLM, ours or imported; it reads the quantised features through a linear adapter
            that is trained here and exported as `adapter.safetensors`.
        tokenizer: folder of the text tokenizer.
        target_mel: the mel that coarse and refined mel are compared with.
        vq_schedule: (step, share) pairs, linear between them: the share of clips whose features are replaced by their quantised
            form (progressive schedule, 10 % to 100 % in the paper; whole clips, not single tokens).
    """

    def __init__(
        self,
        model: AudioTokenizer,
        optimizer: AdamWCosine,
        losses: WeightedSum,
        text_llm: str,
        tokenizer: str,
        target_mel: AuxiliaryMel,
        vq_schedule: Sequence[Sequence[float]] = ((0, 1.0),),
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, losses, seed)
        self.text_tokenizer = TextTokenizer(tokenizer)
        llm = load_model(text_llm).requires_grad_(False)
        if not isinstance(llm, AudioLLM):  # an imported causal LM; ours reads features already
            llm = AudioLLM(llm, (), self.text_tokenizer.special.audio_pad)
        self._llm = (llm,)  # in a tuple: not a part of this module's parameters or checkpoints
        self.adapter = nn.Linear(model.quantizer.dim, llm.dim)
        self.generator = Generator(llm, self.text_tokenizer.special)
        self.target_mel, self.vq_schedule = target_mel, [tuple(pair) for pair in vq_schedule]

    def on_fit_start(self) -> None:
        self._llm[0].to(self.device).eval()

    def training_step(self, batch: AlignedBatch, batch_idx: int) -> Tensor:
        share = self.vq_share(batch.step)
        output, terms = self._terms(batch, share)
        total, terms = self.losses(terms)
        self.last_codes, self.last_num_codes = output.codes, output.num_codes
        self.log_terms("train", {"loss": total, "vq_share": torch.tensor(share), **terms}, batch.size)
        return total

    def validation_step(self, batch: AlignedBatch, batch_idx: int) -> None:
        total, terms = self.losses(self._terms(batch, 1.0)[1])
        self.log_terms("val", {"loss": total, **terms}, batch.size)

    def vq_share(self, step: int) -> float:
        """Share of quantised clips at a step."""
        (step_0, share_0), *rest = self.vq_schedule
        for step_1, share_1 in rest:
            if step < step_1:
                return share_0 + (share_1 - share_0) * max(0.0, step - step_0) / (step_1 - step_0)
            step_0, share_0 = step_1, share_1
        return share_0

    def _terms(self, batch: AlignedBatch, vq_share: float) -> tuple[TokenizerOutput, dict[str, Tensor]]:
        waveform, lengths = batch.audio.waveforms[16000], batch.audio.lengths[16000]
        mel, mel_lengths = self.target_mel(waveform, lengths)
        output = self.model(waveform, lengths, vq_share=vq_share)
        lengths = torch.minimum(mel_lengths, output.mel_lengths)
        hidden = self._llm[0](batch.text.input_ids, features=self._features(output)).hidden
        return output, {
            "reconstruction": mel_reconstruction(output.coarse_mel, output.refined_mel, mel.transpose(1, 2), lengths),
            "text": token_cross_entropy(hidden, self._llm[0].llm.get_output_embeddings().weight, batch.text.labels),
            "commitment": commitment_loss(output.commitment, valid_tokens(output)),
        }

    def _features(self, output: TokenizerOutput) -> Tensor:
        return self.adapter(output.quantized[valid_tokens(output)])

    @torch.no_grad()
    def transcribe(self, batch: AlignedBatch) -> list[tuple[str, str, str, str, str]]:
        """(key, hypothesis, reference, language, task): what the frozen LLM reads from the quantised features."""
        output = self.model(batch.audio.waveforms[16000], batch.audio.lengths[16000])
        features = self._features(output).split(output.num_codes.tolist())
        rows = []
        for ids, labels in zip(batch.text.input_ids, batch.text.labels, strict=True):
            first = int((labels >= 0).nonzero()[0, 0])
            rows.append(ids[: first + 1].tolist())
        prompts = [Prompt(ids, features=feature) for ids, feature in zip(rows, features, strict=True)]
        answers = self.generator.generate_text_batch(prompts, max_new_tokens=48)
        return [
            (item.sample.key, self.text_tokenizer.decode(answer), reference_of(item) or "", language_of(item), item.task)
            for item, answer in zip(batch.items, answers, strict=True)
        ]

    def export(self, folder: str) -> None:
        state = {name: tensor.detach().contiguous() for name, tensor in self.adapter.state_dict().items()}
        save_file(state, str(Path(folder) / "adapter.safetensors"))


def valid_tokens(output: TokenizerOutput) -> Tensor:
    """[B, T], True at real tokens."""
    return torch.arange(output.quantized.shape[1], device=output.num_codes.device) < output.num_codes[:, None]
