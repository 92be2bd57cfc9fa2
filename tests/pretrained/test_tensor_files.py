from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bcaudio.checkpoint import tensor_sha256
from bcaudio.pretrained import tensor_files
from bcaudio.pretrained.tensor_files import (
    StoredTensor,
    join_rows,
    read_tensor_file,
    split_shards,
    write_shards,
    write_tensor_file,
)

# bf16 of an odd number of elements before a float32: the order of the file must keep all aligned
STATE = {
    "a": torch.arange(3, dtype=torch.bfloat16),
    "b": torch.arange(10, dtype=torch.float32).view(5, 2),
    "c": torch.tensor(7),
    "d": torch.zeros(0, 4),
    "e": torch.tensor([True, False, True]),
}


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, StoredTensor]:
    save_file(STATE, tmp_path / "source.safetensors")
    return read_tensor_file(tmp_path / "source.safetensors")


def test_a_written_file_holds_the_same_tensors_and_gives_their_hash(
    tmp_path: Path, stored: dict[str, StoredTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 3)
    moved: list[int] = []
    digest = write_tensor_file(tmp_path / "copy.safetensors", stored, moved.append)
    copy = load_file(tmp_path / "copy.safetensors")
    assert copy.keys() == STATE.keys()
    assert all(torch.equal(copy[name], tensor) and copy[name].dtype == tensor.dtype for name, tensor in STATE.items())
    assert digest == tensor_sha256(STATE)
    places = {name: tensor.ranges[0].start for name, tensor in read_tensor_file(tmp_path / "copy.safetensors").items()}
    assert all(place % STATE[name].element_size() == 0 for name, place in places.items())
    assert sum(moved) == 6 + 40 + 8 + 0 + 3
    assert max(moved) == 3


def test_rows_cut_and_joined_give_the_tensor_back(tmp_path: Path, stored: dict[str, StoredTensor]) -> None:
    parts = [stored["b"].rows(0, 2), stored["b"].rows(2, 3), stored["b"].rows(3, 5)]
    joined = join_rows(parts)
    write_tensor_file(tmp_path / "rows.safetensors", {"middle": parts[1], "all": joined, "turned": join_rows(parts[::-1])})
    rows = load_file(tmp_path / "rows.safetensors")
    assert rows["middle"].tolist() == [[4, 5]]
    assert torch.equal(rows["all"], STATE["b"])
    assert rows["turned"].tolist() == [[6, 7], [8, 9], [4, 5], [0, 1], [2, 3]]
    with pytest.raises(ValueError, match="must agree in dtype and width"):
        join_rows([stored["a"], stored["b"]])


def test_shards_stay_below_the_limit_and_keep_the_order(tmp_path: Path, stored: dict[str, StoredTensor]) -> None:
    ordered = {name: stored[name] for name in "abcde"}
    assert [list(shard) for shard in split_shards(ordered, 46)] == [["a", "b"], ["c", "d", "e"]]
    assert [list(shard) for shard in split_shards(ordered, 10)] == [["a"], ["b"], ["c", "d"], ["e"]]
    write_shards(tmp_path, ordered, 46)
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert '"total_size": 57' in (tmp_path / "model.safetensors.index.json").read_text()


@pytest.mark.parametrize("keep", [4, 60, -1])
def test_a_file_cut_off_is_refused_with_its_name(tmp_path: Path, stored: dict[str, StoredTensor], keep: int) -> None:
    path = tmp_path / "source.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"source.safetensors: no complete safetensors file .*get it again"):
        read_tensor_file(path)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path, stored: dict[str, StoredTensor]) -> None:
    path = tmp_path / "source.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"ends \d+ bytes too early"):
        write_tensor_file(tmp_path / "copy.safetensors", stored)
