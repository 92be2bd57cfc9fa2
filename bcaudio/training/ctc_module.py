"""Training of the auditor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bcaudio.data.batch import AudioBatch
from bcaudio.models.ctc_recognizer import BLANK, CTCRecognizer
from bcaudio.text.normalize import units
from bcaudio.training.stage import StageModule

SAMPLE_RATE = 16000


class CTCModule(StageModule):
    """CTC over the units of each clip's transcript, from its waveform at 16 kHz. The model is a `CTCRecognizer`."""

    model: CTCRecognizer

    def loss(self, batch: AudioBatch) -> Tensor:
        """Mean over clips of CTC loss per unit; a clip with fewer frames than its units need counts as 0."""
        targets = [self.model.encode(units(sample.text, sample.language), where=sample.key) for sample in batch.samples]
        log_probs, frames = self.model(batch.waveforms[SAMPLE_RATE], batch.lengths[SAMPLE_RATE])
        joined = torch.tensor([unit for target in targets for unit in target], device=log_probs.device)
        lengths = torch.tensor([len(target) for target in targets], device=log_probs.device)
        return F.ctc_loss(log_probs.transpose(0, 1), joined, frames, lengths, blank=BLANK, zero_infinity=True)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log_terms("train", {"loss": loss}, batch_size=batch.size)
        return loss

    def validation_step(self, batch: AudioBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        loss = self.loss(batch)
        self.log_terms("val", {"loss": loss}, batch_size=batch.size)
        return loss

    def transcribe(self, batch: AudioBatch) -> list[tuple[str, str, str, str, str]]:
        """(id, hypothesis, reference, language, task) of each clip, for the error-rate callback."""
        heard: list[list[str]] = self.model.transcribe(batch.waveforms[SAMPLE_RATE], batch.lengths[SAMPLE_RATE])
        return [
            (sample.key, " ".join(words), sample.text, sample.language, "asr")
            for sample, words in zip(batch.samples, heard, strict=True)
        ]
