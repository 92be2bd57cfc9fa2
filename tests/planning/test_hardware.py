"""The table of GPUs."""

import pytest

from bcaudio.planning.hardware import GPUS, find_gpu


def test_every_gpu_names_its_source_and_its_memory() -> None:
    assert len(GPUS) == 15
    for name, gpu in GPUS.items():
        assert abs(int(name.rpartition("-")[2].removesuffix("gb")) - gpu.memory_gib) <= 1
        assert gpu.source


def test_an_unknown_gpu_is_answered_with_the_nearest_and_all_names() -> None:
    assert find_gpu("h100-80gb").flops_per_s == 989e12
    with pytest.raises(ValueError, match=r"did you mean 'h200-141gb'\?; known: a10-24gb, a100-40gb, .*mi300x-192gb"):
        find_gpu("H200-141")
