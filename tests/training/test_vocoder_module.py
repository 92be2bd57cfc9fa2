"""Wiring of the vocoder's GAN: what is counted, what learns when, what a checkpoint keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from bcaudio.audio.mel import DecoderMel
from bcaudio.data.batch import AudioBatch
from bcaudio.losses.stft import MultiResolutionSTFTLoss
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.vocoder import Vocoder
from bcaudio.nn.discriminators import Discriminators
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.vocoder_module import VocoderModule


class Stream(IterableDataset):
    """Batches of the given steps, without a length, as the project's own loader has none."""

    def __init__(self, steps: range) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[AudioBatch]:
        return (Tones.batch(step) for step in self.steps)


class Tones(L.LightningDataModule):
    """One batch of two tones per step, a pure function of the step."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps, self.first_step = num_steps, 0

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(range(self.first_step, self.num_steps)), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Stream(range(99, 100)), batch_size=None)

    @staticmethod
    def batch(step: int) -> AudioBatch:
        time = torch.arange(4900) / 24000  # 10 whole frames and a rest
        f0 = torch.tensor([[120.0 + step], [200.0 - step]])
        waveforms = sum(0.1 / h * torch.sin(2 * math.pi * h * f0 * time) for h in (1, 2, 3))
        return AudioBatch({24000: waveforms}, {24000: torch.tensor([4900, 4900])}, [None, None], step=step)


def module_of(adversarial_start: int = 0, adversarial: bool = True, losses: WeightedSum | None = None) -> VocoderModule:
    torch.manual_seed(0)
    model = Vocoder(base_channels=16, f0_channels=8, resblock_kernel_sizes=(3,), resblock_dilations=((1,),))
    judges = Discriminators((2,), ((256, 64),), period_channels=(4, 4), spectrogram_channels=(4, 4)) if adversarial else None
    return VocoderModule(
        model,
        AdamWCosine(1e-3, max_steps=6, warmup_steps=1),
        DecoderMel(),
        losses=losses,
        discriminators=judges,
        discriminator_optimizer=AdamWCosine(1e-3, max_steps=6, warmup_steps=1) if adversarial else None,
        adversarial_start=adversarial_start,
        stft=MultiResolutionSTFTLoss(((256, 64),)),
    )


def fit(
    module: VocoderModule, max_steps: int, folder: Path, data: Tones | None = None, ckpt_path: str | None = None
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data or Tones(6), ckpt_path=ckpt_path)
    return trainer


def test_max_steps_counts_generator_steps_with_and_without_discriminators(tmp_path: Path) -> None:
    for adversarial in (True, False):
        module = module_of(adversarial=adversarial)
        trainer = fit(module, 4, tmp_path)
        assert (trainer.global_step, module.generator_step, module.next_step) == (4, 4, 4)


def test_discriminators_learn_from_adversarial_start_on(tmp_path: Path) -> None:
    for start, learns in ((2, True), (3, False)):
        module = module_of(adversarial_start=start)
        before = copy.deepcopy(module.discriminators.state_dict())
        fit(module, 3, tmp_path)
        changed = any(not torch.equal(value, before[name]) for name, value in module.discriminators.state_dict().items())
        assert changed == learns
        assert all(parameter.requires_grad for parameter in module.discriminators.parameters())


def test_generator_gradient_before_the_start_is_that_of_a_run_without_discriminators(tmp_path: Path) -> None:
    with_judges, without = module_of(adversarial_start=9), module_of(adversarial=False)
    without.model.load_state_dict(with_judges.model.state_dict())
    fit(with_judges, 2, tmp_path)
    fit(without, 2, tmp_path)
    for ours, theirs in zip(with_judges.model.parameters(), without.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_run_cut_in_two_ends_where_the_whole_run_ends(tmp_path: Path) -> None:
    whole = module_of(adversarial_start=2)
    fit(whole, 6, tmp_path)

    trainer = fit(module_of(adversarial_start=2), 4, tmp_path)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    resumed = module_of(adversarial_start=2)
    resumed.model.conv_pre.bias.data.fill_(7.0)  # overwritten by the checkpoint
    trainer = fit(resumed, 6, tmp_path, ckpt_path=str(tmp_path / "cut.ckpt"))
    assert (trainer.global_step, resumed.generator_step) == (6, 6)
    for (name, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_validation_logs_the_mel_and_f0_error_with_the_same_noise_every_time(tmp_path: Path) -> None:
    module = module_of()
    trainer = fit(module, 1, tmp_path, Tones(1))
    assert {"val/mel_mae", "val/f0_mae"} <= trainer.callback_metrics.keys()
    logged: list[dict[str, torch.Tensor]] = []
    module.log_terms = lambda split, terms, batch_size: logged.append(terms)
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.validation_step(Tones.batch(0), 0)
    torch.testing.assert_close(logged[0], logged[1])


def test_recipe_weights_must_name_every_term(tmp_path: Path) -> None:
    weights = {"stft": 1.0, "mel": 5.0, "f0": 0.01, "adversarial": 1.0, "feature": 2.0}
    fit(module_of(losses=WeightedSum(weights)), 1, tmp_path)
    with pytest.raises(ValueError, match="feature"):
        fit(module_of(losses=WeightedSum({"mel": 1.0})), 1, tmp_path)


def test_unequal_hop_lengths_and_half_a_gan_are_refused() -> None:
    model, optimizer = Vocoder(base_channels=16, f0_channels=8), AdamWCosine(1e-3, max_steps=1)
    with pytest.raises(ValueError, match="480 samples per frame"):
        VocoderModule(model, optimizer, DecoderMel(hop_length=240))
    with pytest.raises(ValueError, match="or neither"):
        VocoderModule(model, optimizer, DecoderMel(), discriminators=Discriminators())
