"""Training of the vocoder: spectral losses and f0 from the first step, discriminators from `adversarial_start` on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bcaudio.audio.mel import DecoderMel
from bcaudio.audio.pitch import PitchEstimator
from bcaudio.data.batch import AudioBatch
from bcaudio.losses.adversarial import discriminator_loss, feature_matching_loss, generator_loss
from bcaudio.losses.pitch import f0_loss
from bcaudio.losses.stft import MultiResolutionSTFTLoss
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.vocoder import Vocoder
from bcaudio.nn.discriminators import Discriminators
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule


class VocoderModule(StageModule):
    """A GAN under manual optimization, trained on random segments of equal length.

    Loss terms of the generator: `stft` (multi-resolution), `mel` (L1 of the natural-log mel), `f0` (L1 in Hz of the f0 predictor,
    which gets no gradient from the sound) and, with discriminators, `adversarial` (least squares) and `feature` (feature
    matching); the last two are 0 before `adversarial_start`.

    Steps: Lightning's `global_step`, and so `max_steps`, counts every `step()` of an optimizer in Lightning's wrapper. The
    discriminators' optimizer is therefore stepped outside the wrapper, and a recipe's `max_steps` means generator steps =
    batches, as in every other stage. `generator_step` counts them here and is kept in the checkpoint. Under DDP use
    find_unused_parameters; DeepSpeed takes one optimizer only.

    Args:
        model: Vocoder.
        optimizer: of the vocoder.
        mel: the features the vocoder reads; hop_length must be the vocoder's samples_per_frame.
        losses: weights of the terms; all 1.0 when not given.
        discriminators: none trains with the spectral losses alone.
        discriminator_optimizer: of the discriminators; its steps count from `adversarial_start`.
        adversarial_start: generator step from which discriminators learn and judge.
        pitch: teacher of the f0 predictor.
        stft: the spectral loss.
        teacher_f0: drive the source with the teacher's f0 in training (the predicted f0 is used in validation and at inference).
        gradient_clip: largest gradient norm of either optimizer (Trainer's own clipping is refused under manual optimization);
            None is off.
        seed: of the recipe.

    Raises:
        ValueError: if the hop lengths differ, or discriminators come without an optimizer.
    """

    def __init__(
        self,
        model: Vocoder,
        optimizer: AdamWCosine,
        mel: DecoderMel,
        losses: WeightedSum | None = None,
        discriminators: Discriminators | None = None,
        discriminator_optimizer: AdamWCosine | None = None,
        adversarial_start: int = 0,
        pitch: PitchEstimator | None = None,
        stft: MultiResolutionSTFTLoss | None = None,
        teacher_f0: bool = True,
        gradient_clip: float | None = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, losses, seed)
        pitch = PitchEstimator(model.sample_rate, model.samples_per_frame) if pitch is None else pitch
        hops = (mel.hop_length, pitch.hop_length)
        if any(hop != model.samples_per_frame for hop in hops):
            raise ValueError(
                f"VocoderModule: the vocoder makes {model.samples_per_frame} samples per frame, but mel and pitch "
                f"have hop_length {hops}; make them equal (product of upsample_rates times istft_hop)"
            )
        if (discriminators is None) != (discriminator_optimizer is None):
            raise ValueError("VocoderModule: give discriminators and discriminator_optimizer together, or neither")
        self.automatic_optimization = False
        self.mel, self.pitch = mel, pitch
        self.stft = MultiResolutionSTFTLoss() if stft is None else stft
        self.discriminators, self.discriminator_optimizer = discriminators, discriminator_optimizer
        self.adversarial_start, self.teacher_f0, self.gradient_clip = adversarial_start, teacher_f0, gradient_clip
        self.generator_step = 0

    def configure_optimizers(self) -> Any:
        generator = self.optimizer.build(self.model.parameters())
        if self.discriminators is None:
            return [generator["optimizer"]], [generator["lr_scheduler"]]
        judge = self.discriminator_optimizer.build(self.discriminators.parameters())
        return [generator["optimizer"], judge["optimizer"]], [generator["lr_scheduler"], judge["lr_scheduler"]]

    def on_fit_start(self) -> None:
        """Refuse loss scaling, which the unwrapped discriminator step would not undo.

        Raises:
            ValueError: under precision 16-mixed.
        """
        if self.trainer.precision == "16-mixed":
            raise ValueError("VocoderModule: precision is 16-mixed, which scales losses; use bf16-mixed or 32-true in the recipe")

    def training_step(self, batch: AudioBatch, batch_idx: int) -> None:
        waveform, mel, f0 = self._targets(batch)
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        if self.discriminators is None:
            optimizers, schedules = [optimizers], [schedules]
        judged = self.discriminators is not None and self.generator_step >= self.adversarial_start

        made, predicted_f0 = self.model(mel, f0=f0 if self.teacher_f0 else None)
        zero = made.new_zeros(())
        verdict = self._discriminator_step(optimizers[1], schedules[1], waveform, made.detach()) if judged else zero

        terms = {
            "stft": self.stft(made, waveform),
            "mel": (self._mel_of(made) - mel).abs().mean(),
            "f0": f0_loss(predicted_f0, f0),
        }
        if self.discriminators is not None:
            terms |= {"adversarial": zero, "feature": zero}
        if judged:
            self.discriminators.requires_grad_(False)
            with torch.no_grad():
                real = self.discriminators(waveform)
            fake = self.discriminators(made)
            terms |= {"adversarial": generator_loss(fake), "feature": feature_matching_loss(real, fake)}
        total, terms = (sum(terms.values()), terms) if self.losses is None else self.losses(terms)
        optimizers[0].zero_grad()
        self.manual_backward(total)
        self._clip(optimizers[0])
        optimizers[0].step()
        schedules[0].step()
        if judged:
            self.discriminators.requires_grad_(True)
        self.generator_step += 1
        logged = {"loss": total, **terms} if self.discriminators is None else {"loss": total, **terms, "discriminator": verdict}
        self.log_terms("train", logged, batch.size)

    def _discriminator_step(self, optimizer: Any, schedule: Any, waveform: Tensor, made: Tensor) -> Tensor:
        loss = discriminator_loss(self.discriminators(waveform), self.discriminators(made))
        optimizer.zero_grad()
        self.manual_backward(loss)
        self._clip(optimizer)
        optimizer.optimizer.step()  # not optimizer.step(): see "Steps" above
        schedule.step()
        return loss.detach()

    def _clip(self, optimizer: Any) -> None:
        if self.gradient_clip is not None:
            self.clip_gradients(optimizer, gradient_clip_val=self.gradient_clip, gradient_clip_algorithm="norm")

    @torch.no_grad()
    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Mel MAE of the sound made with the predicted f0, and the predictor's error in Hz; the same noise every time."""
        torch.manual_seed(self.seed + batch_idx)
        _, mel, f0 = self._targets(batch)
        made, predicted_f0 = self.model(mel)
        self.log_terms(
            "val", {"mel_mae": (self._mel_of(made) - mel).abs().mean(), "f0_mae": f0_loss(predicted_f0, f0)}, batch.size
        )

    @torch.no_grad()
    def _targets(self, batch: AudioBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Waveform [B, N] cut to whole frames, its mel [B, F, T] and its f0 [B, T]."""
        waveform = batch.waveforms[self.model.sample_rate]
        waveform = waveform[:, : waveform.shape[1] - waveform.shape[1] % self.model.samples_per_frame]
        return waveform, self._mel_of(waveform), self.pitch(waveform)

    def _mel_of(self, waveform: Tensor) -> Tensor:
        lengths = torch.full((waveform.shape[0],), waveform.shape[1], device=waveform.device)
        return self.mel(waveform, lengths)[0]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["generator_step"] = self.generator_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.generator_step = checkpoint["generator_step"]
