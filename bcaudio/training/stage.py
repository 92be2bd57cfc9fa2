"""The base of every LightningModule here."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from bcaudio.distributed import rank
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.training.optim import AdamWCosine


class StageModule(L.LightningModule):
    """A model, its losses and its optimizer.

    Everything random in a training step follows from (seed, step, micro-batch, rank), so that a run that was cut off goes on
    exactly as if it had not been.

    Args:
        model: what the stage trains and exports.
        optimizer: builds optimizer and schedule over the trainable parameters.
        losses: joins named loss terms.
        seed: of the recipe.
    """

    def __init__(self, model: nn.Module, optimizer: AdamWCosine, losses: WeightedSum | None = None, seed: int = 0) -> None:
        super().__init__()
        self.model, self.optimizer, self.losses, self.seed = model, optimizer, losses, seed
        self.next_step = 0

    def configure_model(self) -> None:
        """Part the model where the strategy wants it in pieces (ZeRO-3), before anything of it reaches a GPU."""
        shard = getattr(self.trainer.strategy, "shard", None)
        if shard is not None:
            shard(self.model)

    def configure_optimizers(self) -> Any:
        return self.optimizer.build(self.named_parameters())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        micro, num_micro = getattr(batch, "micro", 0), getattr(batch, "num_micro", 1)
        torch.manual_seed(step_seed(self.seed, batch.step, micro, rank()))
        self.next_step = batch.step + (micro == num_micro - 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["next_step"] = self.next_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on at the next step, also where a step has another number of micro-batches than it had."""
        self.next_step = checkpoint["next_step"]
        self.trainer.datamodule.first_step = self.next_step
        epoch = {key.removeprefix("epoch_loop."): value for key, value in checkpoint.get("loops", {}).get("fit_loop", {}).items()}
        num_batches = self.next_step * self.trainer.accumulate_grad_batches
        for counts in epoch.get("batch_progress", {}).values():
            if isinstance(counts, dict):  # Lightning looks for a checkpoint made before the step's last batch was completed
                counts.update({key: num_batches - (key == "completed") for key in counts})
        if "state_dict" in epoch:
            epoch["state_dict"]["_batches_that_stepped"] = self.next_step - 1

    def log_terms(self, split: str, terms: dict[str, Tensor], batch_size: int, synced: bool = False) -> None:
        """Log loss terms as `<split>/<name>`; every rank's batch counts by its size, unless ranks have joined them already."""
        values = {f"{split}/{name}": value.detach().float() for name, value in terms.items()}
        validation = split != "train"
        self.log_dict(
            values, batch_size=batch_size, on_step=not validation, on_epoch=validation, sync_dist=validation and not synced
        )

    def export(self, folder: str) -> None:
        """Write what the stage hands over beside `model.safetensors`; nothing by default."""


def step_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Seed of a training step's random numbers on one rank; that of a single process is seed * 1,000,003 + step."""
    return (seed * 1_000_003 + step + (rank * 1_009 + micro) * 6_364_136_223_846_793_005) % 2**63
