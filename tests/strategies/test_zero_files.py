"""Pieces of tensors over several files: read in full, in part, and refused where one is missing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bcaudio.strategies.zero_files import ZeroFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`a` [10] in three pieces over two ranks, `b` [2, 2] in bf16 on one."""
    save_file({"fp32:0:a": torch.arange(4.0), "fp32:7:a": torch.tensor([7.0, 8.0, 9.0])}, tmp_path / "rank-00000.safetensors")
    save_file(
        {"fp32:4:a": torch.tensor([4.0, 5.0, 6.0]), "exp_avg:4:a": torch.ones(3), "value:0:b": torch.arange(4.0).bfloat16()},
        tmp_path / "rank-00001.safetensors",
    )
    return tmp_path


@pytest.mark.parametrize(("start", "size"), [(0, 10), (3, 5), (4, 3), (9, 1), (5, 0)])
def test_any_stretch_is_joined_from_the_pieces(folder: Path, start: int, size: int) -> None:
    assert ZeroFiles(folder).read("fp32", "a", start, size).tolist() == list(range(start, start + size))


def test_dtypes_stay_and_kinds_are_known(folder: Path) -> None:
    files = ZeroFiles(folder)
    found = files.read("value", "b", 1, 3)
    assert (found.dtype, found.tolist()) == (torch.bfloat16, [1.0, 2.0, 3.0])
    assert sorted(files.kinds("a")) == ["exp_avg", "fp32"]
    assert files.kinds("c") == []


def test_missing_pieces_are_named_with_their_tensor(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"elements 0 to 4 of a \(exp_avg\) are missing"):
        ZeroFiles(folder).read("exp_avg", "a", 0, 4)
    (folder / "rank-00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"elements 4 to 10 of a \(fp32\) are missing; take another checkpoint"):
        ZeroFiles(folder).read("fp32", "a", 0, 10)
    (folder / "rank-00000.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="name the folder of a checkpoint written under ZeRO"):
        ZeroFiles(folder)
