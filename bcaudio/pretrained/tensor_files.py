"""safetensors files read and written as streams of bytes, so that the memory needed does not depend on their size."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

CHUNK_BYTES = 8 * 2**20
# safetensors name -> (torch's name, bytes)
DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("torch.float64", 8),
    "F32": ("torch.float32", 4),
    "F16": ("torch.float16", 2),
    "BF16": ("torch.bfloat16", 2),
    "I64": ("torch.int64", 8),
    "I32": ("torch.int32", 4),
    "I16": ("torch.int16", 2),
    "I8": ("torch.int8", 1),
    "U8": ("torch.uint8", 1),
    "BOOL": ("torch.bool", 1),
}
Advance = Callable[[int], None]


@dataclass(frozen=True)
class FileRange:
    """`size` bytes of a file, from `start` on."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in files, row-major; its bytes are those of the ranges, one after the other.

    Args:
        dtype: a key of DTYPES.
        shape: sizes.
        ranges: where the bytes are.
    """

    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[FileRange, ...]

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype][1]

    def rows(self, first: int, last: int) -> StoredTensor:
        """Rows first..last-1 of a tensor that is one range."""
        (whole,) = self.ranges
        row = self.num_bytes // self.shape[0]
        part = FileRange(whole.path, whole.start + first * row, (last - first) * row)
        return StoredTensor(self.dtype, (last - first, *self.shape[1:]), (part,))

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in pieces of at most CHUNK_BYTES; a piece is valid until the next is asked for.

        Raises:
            ValueError: the file ends too early.
        """
        buffer = memoryview(bytearray(min(CHUNK_BYTES, max((r.size for r in self.ranges), default=0))))
        for part in self.ranges:
            with open(part.path, "rb", buffering=0) as file:
                file.seek(part.start)
                left = part.size
                while left:
                    count = file.readinto(buffer[: min(left, len(buffer))])
                    if not count:
                        raise ValueError(f"{part.path}: ends {left} bytes too early; it was cut off while being read")
                    yield buffer[:count]
                    left -= count


def join_rows(parts: Sequence[StoredTensor]) -> StoredTensor:
    """Tensors one below the other.

    Raises:
        ValueError: dtypes or the sizes of the other axes differ.
    """
    if len({(part.dtype, part.shape[1:]) for part in parts}) > 1:
        kinds = ", ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
        raise ValueError(f"q, k and v of one layer must agree in dtype and width to be packed, got {kinds}; cast the model first")
    rows = sum(part.shape[0] for part in parts)
    return StoredTensor(parts[0].dtype, (rows, *parts[0].shape[1:]), tuple(r for part in parts for r in part.ranges))


def read_tensor_file(path: Path) -> dict[str, StoredTensor]:
    """What a safetensors file holds; only its header is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut off, damaged, or with a dtype we cannot handle.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; get it again from where the others come from")
    try:
        with safe_open(path, "pt"):  # the library checks sizes and offsets
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path}: no complete safetensors file ({error}); get it again, this one is cut off or damaged"
        ) from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is {entry['dtype']}; known are {', '.join(DTYPES)}; convert the checkpoint first")
        start, end = entry["data_offsets"]
        place = FileRange(path, 8 + length + start, end - start)
        tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), (place,))
    return tensors


def write_tensor_file(path: Path, tensors: Mapping[str, StoredTensor], advance: Advance | None = None) -> str:
    """Write a safetensors file tensor by tensor and keep it on the disk.

    The data lie by falling size of the elements, so that every tensor is aligned; they are written, and hashed, by name.

    Args:
        path: the new file.
        tensors: name -> bytes and shape; dtypes stay.
        advance: told the number of bytes after every piece.

    Returns:
        the hash that `checkpoint.tensor_sha256` gives for these tensors.

    Raises:
        ValueError: a source file ends too early; OSError: the disk is full.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, position = {}, 0
    for name in sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype][1], name)):
        tensor, starts[name] = tensors[name], position
        position += tensor.num_bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [starts[name], position]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file, ThreadPoolExecutor(1) as hashing:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            tensor = tensors[name]
            digest.update(json.dumps([name, DTYPES[tensor.dtype][0], list(tensor.shape)]).encode())
            file.seek(8 + len(text) + starts[name])
            for chunk in tensor.chunks():
                hashed = hashing.submit(digest.update, chunk)
                file.write(chunk)
                hashed.result()  # the chunk is overwritten next
                if advance:
                    advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def split_shards(tensors: Mapping[str, StoredTensor], limit: int) -> list[dict[str, StoredTensor]]:
    """Tensors in their order, cut where a shard would exceed `limit` bytes; a larger tensor has a shard of its own."""
    shards: list[dict[str, StoredTensor]] = []
    size = 0
    for name, tensor in tensors.items():
        if not shards or size + tensor.num_bytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.num_bytes
    return shards


def write_shards(
    folder: Path, tensors: Mapping[str, StoredTensor], limit: int, advance: Advance | None = None, always_index: bool = True
) -> None:
    """Write `model-0000i-of-0000n.safetensors` and their index in the Hugging Face form, in the order of `tensors`.

    Args:
        folder: where to.
        tensors: what to write.
        limit: bytes per shard.
        advance: see `write_tensor_file`.
        always_index: also for a single shard, which otherwise is a plain `model.safetensors`.
    """
    shards = split_shards(tensors, limit)
    if len(shards) == 1 and not always_index:
        write_tensor_file(folder / "model.safetensors", shards[0], advance)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_tensor_file(folder / file, shard, advance)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(t.num_bytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
