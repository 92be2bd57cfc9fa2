"""GPUs a plan can be made for."""

from __future__ import annotations

from dataclasses import dataclass

from bcaudio.recipe.errors import did_you_mean

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU as its vendor describes it.

    Args:
        name: as on the command line.
        memory_gib: GiB of memory.
        tflops: peak of dense bf16 matrix products with fp32 sums, TFLOP/s; half of what a data sheet gives "with sparsity".
        bandwidth_gbs: of the memory, GB/s.
        source: where the figures stand.
    """

    name: str
    memory_gib: float
    tflops: float
    bandwidth_gbs: float
    source: str

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes."""
        return int(self.memory_gib * GIB)

    @property
    def flops_per_s(self) -> float:
        """Peak of dense bf16 matrix products, FLOP/s."""
        return self.tflops * 1e12


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a10-24gb", 24, 125, 600, "NVIDIA A10 data sheet"),
        Gpu("a100-40gb", 40, 312, 1555, "NVIDIA A100 data sheet, SXM 40 GB"),
        Gpu("a100-80gb", 80, 312, 2039, "NVIDIA A100 data sheet, SXM 80 GB"),
        Gpu("a800-80gb", 80, 312, 2039, "NVIDIA A800 data sheet, SXM"),
        Gpu("l4-24gb", 24, 121, 300, "NVIDIA L4 data sheet (242 with sparsity)"),
        Gpu("l40s-48gb", 48, 362, 864, "NVIDIA L40S data sheet (733 with sparsity)"),
        Gpu("h20-96gb", 96, 148, 4000, "NVIDIA H20 product brief"),
        Gpu("h100-80gb", 80, 989, 3350, "NVIDIA H100 data sheet, SXM (1,979 with sparsity)"),
        Gpu("h100-pcie-80gb", 80, 756, 2000, "NVIDIA H100 data sheet, PCIe (1,513 with sparsity)"),
        Gpu("h800-80gb", 80, 989, 3350, "NVIDIA H800 data sheet, SXM"),
        Gpu("h200-141gb", 140, 989, 4800, "NVIDIA H200 data sheet, SXM (1,979 with sparsity)"),
        Gpu("b200-180gb", 180, 2250, 7700, "NVIDIA HGX B200 data sheet (4,500 with sparsity)"),
        Gpu("rtx4090-24gb", 24, 165, 1008, "NVIDIA Ada architecture white paper, bf16 with fp32 sums"),
        Gpu("rtx3090-24gb", 24, 71, 936, "NVIDIA GA102 architecture white paper, bf16 with fp32 sums"),
        Gpu("mi300x-192gb", 192, 1307, 5300, "AMD Instinct MI300X data sheet"),
    )
}


def find_gpu(name: str) -> Gpu:
    """The GPU of a name; ValueError names the nearest one and all of them."""
    if name not in GPUS:
        near = did_you_mean(name.lower(), GPUS)
        raise ValueError(f"--gpu: no GPU {name!r} in the table{near if 'did you mean' in near else ''}; known: {', '.join(GPUS)}")
    return GPUS[name]
