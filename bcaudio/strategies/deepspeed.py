"""DeepSpeed ZeRO through Lightning: on GPUs, and on CPUs with gloo so that tests can run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators.cuda import CUDAAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import nn

from bcaudio.strategies.sharding import shard_from_first_rank
from bcaudio.strategies.zero_files import load_zero, save_zero


class ZeRO(DeepSpeedStrategy):
    """ZeRO stage 2 (gradients and optimizer state are sharded) or 3 (parameters too), for modules with one optimizer.

    The optimizer is torch's AdamW, so nothing is compiled. Stage 1 is not offered: it saves little beside stage 2. A checkpoint
    is a file per rank; it is read by any number of ranks and by either stage (`strategies.zero_files`). Under bf16 the weights
    are bf16 with fp32 masters in the optimizer, frozen weights are rounded to bf16, and buffers stay fp32; inputs are not cast,
    so that models that take waveforms train in fp32 or under DDP.

    Args:
        stage: 2 or 3.
        offload_optimizer: keep optimizer state and fp32 masters in the host's memory.
        offload_parameters: keep parameters there as well; stage 3.
        bucket_elements: gradients or parameters that travel together.
        timeout_s: after which a collective that waits for a lost rank fails.

    Raises:
        ValueError: another stage, or parameters offloaded without stage 3.
    """

    def __init__(
        self,
        stage: int = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_elements: int = 200_000_000,
        timeout_s: float = 1800.0,
    ) -> None:
        if stage not in (2, 3):
            raise ValueError(f"ZeRO: stage is {stage}; use 2 or 3, or DDP (trainer.strategy: ddp) to shard nothing")
        if offload_parameters and stage != 3:
            raise ValueError(f"ZeRO: offload_parameters needs stage 3, but stage is {stage}; set stage: 3 or leave it out")
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            allgather_bucket_size=bucket_elements,
            reduce_bucket_size=bucket_elements,
            logging_batch_size_per_gpu=1,
            logging_level=40,  # errors
            timeout=timedelta(seconds=timeout_s),
        )
        self.stage = stage
        self.config["zero_force_ds_cpu_optimizer"] = False

    @property
    def shards_parameters(self) -> bool:
        """Whether ranks other than the first build their model without memory; see `shard`."""
        return self.stage == 3

    def shard(self, model: nn.Module) -> None:
        """Stage 3: part a model that is real on rank 0 alone. Called once, from `configure_model`."""
        if self.shards_parameters:
            dtype = torch.bfloat16 if self.precision_plugin.precision.startswith("bf16") else None
            shard_from_first_rank(model, self.config, dtype)

    # Lightning refuses CPUs in three places; an index in the device and DDP's environment cure all of them.
    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The devices of this node's processes; CPUs get an index."""
        devices = self._parallel_devices
        if devices is None or any(device.type != "cpu" for device in devices):
            return devices
        return [torch.device("cpu", index) for index in range(len(devices))]

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        self._parallel_devices = devices

    def setup_environment(self) -> None:
        self.precision_plugin.convert_input = _as_it_is  # casting would round the counts in a batch
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
        else:
            DDPStrategy.setup_environment(self)

    def _init_deepspeed_distributed(self) -> None:
        with _without_shared_memory_op():
            super()._init_deepspeed_distributed()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        self._init_config_if_needed()
        yield  # `shard` does the work; inside DeepSpeed's own context initial values would differ from other strategies'

    def _setup_model_and_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        kept = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
        engine, optimizer = super()._setup_model_and_optimizer(model, *args, **kwargs)
        engine.backward = partial(engine.backward, scale_wrt_gas=False)  # Lightning has divided by the micro-batches already
        for module, name, buffer in kept:
            if buffer is not None and buffer.dtype != module._buffers[name].dtype:  # under bf16 positions would be rounded
                module._buffers[name] = buffer.to(self.root_device)
        return engine, optimizer

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Write `filepath` (training state, by rank 0) and beside it a file per rank."""
        file = Path(self.broadcast(str(filepath)))
        file.parent.mkdir(parents=True, exist_ok=True)
        skipped = ("state_dict", "optimizer_states")
        state = {key: value for key, value in checkpoint.items() if key not in skipped}
        state["zero"] = save_zero(file.parent, self.lightning_module, self.optimizers[0])
        if self.is_global_zero:
            torch.save(state, file)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what save_checkpoint wrote, under any number of ranks."""
        state = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        if "zero" not in state:
            raise ValueError(
                f"{checkpoint_path} was written by another strategy, not by ZeRO; go on with that one, or begin anew with the "
                "weights alone: `bcaudio export CHECKPOINT --to DIR --format bcaudio` makes a folder that init_from takes"
            )
        load_zero(Path(checkpoint_path).parent, state["zero"], self.lightning_module, self.optimizers[0])
        return state

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing is left to do after load_checkpoint."""


def _as_it_is(data: Any) -> Any:
    return data


@contextmanager
def _without_shared_memory_op() -> Iterator[None]:
    """DeepSpeed would compile an operator, used for inference alone, for a minute wherever it finds a compiler."""
    import deepspeed

    ops = deepspeed.ops.__compatible_ops__
    before = ops.get("deepspeed_shm_comm")
    ops["deepspeed_shm_comm"] = False
    try:
        yield
    finally:
        if before is None:
            ops.pop("deepspeed_shm_comm")
        else:
            ops["deepspeed_shm_comm"] = before
