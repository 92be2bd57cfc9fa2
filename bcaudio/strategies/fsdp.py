"""Fully sharded data parallel (torch's `fully_shard`) through Lightning, on GPUs and on CPUs with gloo."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard


class FSDP(ModelParallelStrategy):
    """Parameters, gradients and optimizer state are sharded, as under ZeRO-3 but without DeepSpeed.

    The checkpoint is one file with everything whole, whatever the number of ranks; DDP goes on from it as well. Every rank builds
    the model in its host's memory, and only its pieces reach the GPU. Lightning's own FSDPStrategy runs on GPUs alone, and wraps
    the module that holds the losses, which read the text head outside of its forward pass.

    Args:
        blocks: regular expression over whole names below `model.`: modules that are gathered one by one. What lies in none of
            them (embeddings and heads) is gathered for the whole step.
        timeout_s: after which a collective that waits for a lost rank fails.
    """

    def __init__(self, blocks: str = r"llm\.model\.layers\.\d+", timeout_s: float = 1800.0) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout_s))
        self.blocks = blocks

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def shard(self, model: nn.Module) -> None:
        """Part a model; called once, from `configure_model`.

        Raises:
            ValueError: no module's name matches `blocks`.
        """
        mesh = self.device_mesh["data_parallel"]
        blocks = [module for name, module in model.named_modules() if re.fullmatch(self.blocks, name)]
        if not blocks:
            raise ValueError(f"FSDP: blocks is {self.blocks!r}, which matches no module; name the layers of the language model")
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the losses read heads after the forward pass

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Write one file, by rank 0."""
        super().save_checkpoint({**checkpoint, "fsdp": True}, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what save_checkpoint wrote, under any number of ranks.

        Raises:
            ValueError: another strategy wrote it; its optimizer counts parameters in another way.
        """
        if "fsdp" not in torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True):
            raise ValueError(
                f"{checkpoint_path} was written by another strategy, not by FSDP; go on with that one, or begin anew with the "
                "weights alone: `bcaudio export CHECKPOINT --to DIR --format bcaudio` makes a folder that init_from takes"
            )
        return super().load_checkpoint(checkpoint_path, weights_only=True)
