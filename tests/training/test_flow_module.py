"""Wiring of the flow decoder's training: what is target, what is frozen, what is saved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bcaudio.audio.mel import DecoderMel
from bcaudio.data.batch import AudioBatch, Item
from bcaudio.data.schema import Sample, Span
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.flow_decoder import FlowDecoder, FlowPrenet
from bcaudio.nn.unet1d import VelocityUNet
from bcaudio.training.flow_module import FlowDecoderModule
from bcaudio.training.optim import AdamWCosine


class EmbeddingTokenizer(nn.Module):
    """A stand-in with the tokenizer's decode interface: one embedding per code, repeated at the decoder's frames."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.dropout = nn.Dropout(0.5)

    def decode_hidden(self, codes: Tensor, num_codes: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dropout(self.table(codes).sum(dim=2)).repeat_interleave(4, dim=1)[:, :-1]
        return hidden, 4 * num_codes - 1


def sample(key: str) -> Sample:
    span = Span("one", 0.0, 0.5, "narrator")
    return Sample(key, "numbers", "train", "en", "voice", "one", (span,), duration_s=0.5)


def batch_of(step: int = 0, with_codes: bool = True) -> AudioBatch:
    generator = np.random.default_rng(step)
    waveforms = torch.from_numpy(0.1 * generator.standard_normal((2, 12000))).float()
    codes = torch.from_numpy(generator.integers(0, 16, (2, 6, 2))) if with_codes else None
    num_codes = torch.tensor([6, 4]) if with_codes else None
    items = [Item(sample(key), "") for key in ("one", "two")]
    return AudioBatch({24000: waveforms}, {24000: torch.tensor([12000, 9000])}, items, codes, num_codes, step)


def loader(steps: Iterable[int]) -> DataLoader:
    return DataLoader([batch_of(step) for step in steps], batch_size=None)


def module_of(losses: WeightedSum | None = None) -> FlowDecoderModule:
    torch.manual_seed(0)
    prenet = FlowPrenet(in_dim=8, d_model=8, num_heads=2, ffn_dim=16, num_layers=1, mel_bins=80, max_source_positions=8)
    model = FlowDecoder(prenet, VelocityUNet(80, (8,), n_blocks=1, num_mid_blocks=1, num_heads=1, attention_head_dim=8))
    return FlowDecoderModule(model, AdamWCosine(1e-3, max_steps=10, warmup_steps=1), EmbeddingTokenizer(), DecoderMel(), losses)


def test_target_is_cut_to_the_hidden_states_and_lengths_to_the_shorter() -> None:
    module = module_of()
    hidden, lengths, mel = module.inputs(batch_of())
    assert hidden.shape == (2, 23, 8)  # 4 * 6 - 1 of the mel's 25 frames
    assert mel.shape == (2, 23, 80)
    assert lengths.tolist() == [23, 15]  # 4 * 4 - 1 codes' frames against 9000 // 480 = 18 of the mel
    expected, _ = module.mel(batch_of().waveforms[24000], batch_of().lengths[24000])
    torch.testing.assert_close(mel, expected.transpose(1, 2)[:, :23])


def test_frozen_tokenizer_is_no_part_of_the_module_and_stays_in_eval() -> None:
    module = module_of()
    assert not any("table" in name for name, _ in [*module.named_parameters(), *module.state_dict().items()])
    module.train()
    first, second = module.inputs(batch_of())[0], module.inputs(batch_of())[0]
    torch.testing.assert_close(first, second)  # no dropout
    assert not first.requires_grad


def test_weights_of_the_recipe_join_the_terms() -> None:
    terms = {}
    for name, weights in (("both", None), ("flow", {"flow": 1.0, "prior": 0.0}), ("prior", {"flow": 0.0, "prior": 1.0})):
        module = module_of(WeightedSum(weights) if weights else None)
        module.log_terms = lambda *args, **kwargs: None
        torch.manual_seed(5)
        terms[name] = module.training_step(batch_of(), 0).detach()
    torch.testing.assert_close(terms["both"], terms["flow"] + terms["prior"])


def test_trainer_trains_and_logs_the_mel_error_of_a_sample(tmp_path: Path) -> None:
    module = module_of()
    before = module._tokenizer[0].table.weight.clone()
    start = module.model.prenet.out_proj.weight.detach().clone()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(range(3)), loader([9]))
    assert {"val/flow", "val/prior", "val/mel_mae"} <= trainer.callback_metrics.keys()
    assert not torch.equal(module.model.prenet.out_proj.weight, start)
    torch.testing.assert_close(module._tokenizer[0].table.weight, before)


def test_shards_without_codes_name_the_step_that_makes_them() -> None:
    with pytest.raises(ValueError, match="encode_codes"):
        module_of().inputs(batch_of(with_codes=False))


def test_sound_that_does_not_belong_to_its_codes_is_refused() -> None:
    batch = batch_of()
    cropped = AudioBatch(
        {24000: batch.waveforms[24000][:, :6000]}, {24000: torch.tensor([6000, 6000])}, batch.items, batch.codes, batch.num_codes
    )
    with pytest.raises(ValueError, match="one: 23 decoder frames against 12 mel frames"):
        module_of().inputs(cropped)
