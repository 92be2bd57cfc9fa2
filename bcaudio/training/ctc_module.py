"""Training of the auditor and of the aligner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bcaudio.data.batch import AudioBatch
from bcaudio.data.schema import Sample
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.ctc_recognizer import BLANK, CTCRecognizer
from bcaudio.text.normalize import units
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule

SAMPLE_RATE = 16000
UNITS_FILE = "units.json"
QUIET = 0.005  # of the clip's peak (-46 dB)


class CTCModule(StageModule):
    """CTC over the units of each clip's transcript, from its waveform at 16 kHz. The model is a `CTCRecognizer`.

    CTC alone lets a unit fire anywhere in its word. An aligner also learns when a word is said, from the word times of its
    clips: a cross-entropy per frame, whose target is the word that the frame's middle lies in, or blank.

    Args:
        model, optimizer, losses, seed: as in `StageModule`.
        frame_weight: of that cross-entropy beside CTC; clips without word times go without it. 0: CTC alone.
    """

    model: CTCRecognizer

    def __init__(
        self,
        model: CTCRecognizer,
        optimizer: AdamWCosine,
        losses: WeightedSum | None = None,
        seed: int = 0,
        frame_weight: float = 0.0,
    ) -> None:
        super().__init__(model, optimizer, losses, seed)
        if frame_weight < 0:
            raise ValueError(f"CTCModule: frame_weight is {frame_weight}; it must be 0 (CTC alone) or more")
        self.frame_weight = frame_weight

    def terms(self, batch: AudioBatch) -> dict[str, Tensor]:
        """`loss`, which is trained on: the mean over clips of CTC loss per unit (0 for a clip with fewer frames than its units
        need). With a `frame_weight` that is `ctc`, and `frames`, the mean cross-entropy of a frame, is added by that weight;
        `timed` is the share of clips with word times.
        """
        targets = [self.model.encode(units(sample.text, sample.language), where=sample.key) for sample in batch.samples]
        recorded = batch.lengths[SAMPLE_RATE]
        waveforms, lengths = self.model.vary_speed(batch.waveforms[SAMPLE_RATE], recorded)
        log_probs, frames = self.model(waveforms, lengths)
        joined = torch.tensor([unit for target in targets for unit in target], device=log_probs.device)
        sizes = torch.tensor([len(target) for target in targets], device=log_probs.device)
        ctc = F.ctc_loss(log_probs.transpose(0, 1), joined, frames, sizes, blank=BLANK, zero_infinity=True)
        if not self.frame_weight:
            return {"loss": ctc}
        allowed = self.frame_targets(batch.samples, waveforms, frames, (recorded / lengths).tolist())
        timed = allowed.any(dim=-1)
        said = log_probs.masked_fill(~allowed, -torch.inf).logsumexp(dim=-1)[timed]
        found = -said.sum() / timed.sum().clamp(min=1)
        share = torch.tensor([float(bool(sample.words)) for sample in batch.samples]).mean()
        return {"loss": ctc + self.frame_weight * found, "ctc": ctc, "frames": found, "timed": share}

    def frame_targets(self, samples: Sequence[Sample], waveforms: Tensor, frames: Tensor, speed: Sequence[float]) -> Tensor:
        """Which outputs may be on which frame.

        Frame t stands for the time from t to t + 1 frames; the word that its middle lies in is its target, any unit of it where
        a word has several. Synthesisers let a word last until the next one begins: silence at its end is no part of it here.

        Args:
            samples: B clips.
            waveforms: [B, N]; frames: [B] of each clip.
            speed: seconds of the recording per second of the waveform, for each clip.

        Returns:
            bool [B, T, 1 + units]; all False beyond a clip's frames and for clips without word times.
        """
        size, num_frames = self.model.samples_per_frame, int(frames.max())
        allowed = torch.zeros(len(samples), num_frames, 1 + len(self.model.units), dtype=torch.bool)
        blocks = F.pad(waveforms, (0, max(0, num_frames * size - waveforms.shape[1])))[:, : num_frames * size].cpu()
        peaks = blocks.abs().view(len(samples), num_frames, size).amax(dim=-1)
        loud = peaks >= QUIET * peaks.amax(dim=-1, keepdim=True)
        middles_s = (torch.arange(num_frames) + 0.5) * size / SAMPLE_RATE
        for row, (sample, length) in enumerate(zip(samples, frames.tolist(), strict=True)):
            if not sample.words:
                continue
            times_s = middles_s[:length] * speed[row]
            allowed[row, :length, BLANK] = True
            for word, start_s, end_s in sample.words:
                inside = (times_s >= start_s) & (times_s < end_s)
                loud_ahead = (inside & loud[row, :length]).flip(0).cumsum(0).flip(0)
                spoken = (inside & (loud_ahead > 0)).nonzero()[:, 0]
                allowed[row, spoken, BLANK] = False
                for unit in self.model.encode(units(word, sample.language), where=sample.key):
                    allowed[row, spoken, unit] = True
        return allowed.to(waveforms.device)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: AudioBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self._step("val", batch)

    def _step(self, split: str, batch: AudioBatch) -> Tensor:
        terms = self.terms(batch)
        self.log_terms(split, terms, batch_size=batch.size)
        return terms["loss"]

    def transcribe(self, batch: AudioBatch) -> list[tuple[str, str, str, str, str]]:
        """(id, hypothesis, reference, language, task) of each clip, for the error-rate callback."""
        heard: list[list[str]] = self.model.transcribe(batch.waveforms[SAMPLE_RATE], batch.lengths[SAMPLE_RATE])
        return [
            (sample.key, " ".join(words), sample.text, sample.language, "asr")
            for sample, words in zip(batch.samples, heard, strict=True)
        ]

    def export(self, folder: str) -> None:
        """Write `units.json` (the vocabulary), so that the folder loads wherever it lies (`bcaudio.checkpoint.load_model`)."""
        Path(folder, UNITS_FILE).write_text(json.dumps(self.model.units, ensure_ascii=False), encoding="utf-8")
