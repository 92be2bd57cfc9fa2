"""Training of the flow-matching decoder on codes of the frozen tokenizer (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.audio.mel import DecoderMel
from bcaudio.data.batch import AudioBatch
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.flow_decoder import FlowDecoder, frame_mask
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule

SAMPLE_RATE = 24000
MAX_OFFSET_FRAMES = 8


class FlowDecoderModule(StageModule):
    """Prior loss and flow loss against the mel of the 24 kHz sound; prenet and velocity network learn, the tokenizer does not.

    Args:
        model: FlowDecoder.
        optimizer: of the flow decoder.
        tokenizer: trained audio tokenizer; `decode_hidden(codes, num_codes)` gives hidden states [B, 4T - 1, d] and their
            lengths. It is no part of this module's parameters, state dict or checkpoints.
        mel: the target features.
        losses: weights of `prior` and `flow`; 1.0 each when not given.
        validation_steps: Euler steps of the mel that validation samples.
        seed: of the recipe.
    """

    def __init__(
        self,
        model: FlowDecoder,
        optimizer: AdamWCosine,
        tokenizer: nn.Module,
        mel: DecoderMel,
        losses: WeightedSum | None = None,
        validation_steps: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, losses, seed)
        self._tokenizer = (tokenizer.requires_grad_(False).eval(),)  # a tuple hides it from nn.Module
        self.mel = mel
        self.validation_steps = validation_steps

    def setup(self, stage: str) -> None:
        self._tokenizer[0].to(self.device)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        terms = self.model.loss(*self.inputs(batch))
        total, terms = (sum(terms.values()), terms) if self.losses is None else self.losses(terms)
        self.log_terms("train", {"loss": total, **terms}, batch.size)
        return total

    @torch.no_grad()
    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Both losses and the mean absolute error of a sampled mel; the same noise in every validation."""
        torch.manual_seed(self.seed + batch_idx)
        hidden, lengths, mel = self.inputs(batch)
        terms = self.model.loss(hidden, lengths, mel)
        sampled = self.model.sample(hidden, lengths, steps=self.validation_steps)
        mask = frame_mask(lengths, mel.shape[1]).unsqueeze(-1)
        error = ((sampled - mel).abs() * mask).sum() / (mask.sum() * mel.shape[-1])
        self.log_terms("val", {**terms, "mel_mae": error}, batch.size)

    @torch.no_grad()
    def inputs(self, batch: AudioBatch) -> tuple[Tensor, Tensor, Tensor]:
        """What the flow decoder is trained on.

        The decoder has 4 n - 1 frames for n codes, the mel up to four more; both are cut to the shorter.

        Returns:
            hidden states [B, T, d], lengths [B] in frames, target mel [B, T, F].

        Raises:
            ValueError: if the batch carries no codes, or codes of other lengths than its sound (a clip cut by the collate, or one
                whose spans leave gaps).
        """
        if batch.codes is None or batch.num_codes is None:
            raise ValueError(
                f"FlowDecoderModule: the shards of {batch.samples[0].key} carry no codes; "
                "run data_prep.encode_codes with this tokenizer first"
            )
        hidden, lengths = self._tokenizer[0].decode_hidden(batch.codes, batch.num_codes)
        mel, mel_lengths = self.mel(batch.waveforms[SAMPLE_RATE], batch.lengths[SAMPLE_RATE])
        off = (lengths - mel_lengths).abs()
        if int(off.max()) > MAX_OFFSET_FRAMES:
            i = int(off.argmax())
            raise ValueError(
                f"FlowDecoderModule: {batch.samples[i].key}: {int(lengths[i])} decoder frames against "
                f"{int(mel_lengths[i])} mel frames, but at most {MAX_OFFSET_FRAMES} may differ; "
                "train on whole clips of one span (crop_s: null), encoded from the same sound"
            )
        mel = mel.transpose(1, 2)[:, : hidden.shape[1]]
        mel = F.pad(mel, (0, 0, 0, hidden.shape[1] - mel.shape[1]))
        return hidden, torch.minimum(lengths, mel_lengths), mel
