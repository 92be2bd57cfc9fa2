"""The base of every LightningModule here."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.training.optim import AdamWCosine


class StageModule(L.LightningModule):
    """A model, its losses and its optimizer.

    Everything random in a training step follows from (seed, batch.step), so that a run that was cut off goes on exactly as if it
    had not been.

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

    def configure_optimizers(self) -> Any:
        return self.optimizer.build(self.parameters())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.seed * 1_000_003 + batch.step)
        self.next_step = batch.step + 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["next_step"] = self.next_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.next_step = checkpoint["next_step"]
        self.trainer.datamodule.first_step = self.next_step

    def log_terms(self, split: str, terms: dict[str, Tensor], batch_size: int) -> None:
        """Log loss terms as `<split>/<name>`; every rank's batch counts by its size."""
        values = {f"{split}/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(
            values, batch_size=batch_size, on_step=split == "train", on_epoch=split != "train", sync_dist=split != "train"
        )

    def export(self, folder: str) -> None:
        """Write what the stage hands over beside `model.safetensors`; nothing by default."""
