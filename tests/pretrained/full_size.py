"""Write a synthetic released folder of full size: real names and shapes, random bf16 weights, fp32 codebooks, shards of 5 GB.

    python tests/pretrained/full_size.py DIR

needs 21 GB of disk and, whatever the size, less than MEMORY_LIMIT of memory; then `bcaudio import DIR --to OTHER` can be watched.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

DATA = Path(__file__).parent / "data"
SHARD_BYTES, BLOCK_BYTES, MEMORY_LIMIT = 5 * 10**9, 2**24, 2 * 2**30
NAMES = {"bfloat16": "BF16", "float32": "F32"}
# of the released tokenizer, as far as the project names them; the audio tokens' ids come from config.json
IDS = {"<|endoftext|>": 151643, "<B_SYS>": 151665, "<C_Q>": 151667, "<C_A>": 151668}


def released_tensors() -> dict[str, tuple[str, list[int]]]:
    """Name -> (dtype, shape) of all 2,022 tensors, in the published order."""
    return json.loads(gzip.decompress((DATA / "released_state_dict.json.gz").read_bytes()))


def hift_tensors() -> dict[str, list[int]]:
    """Name -> shape of the 328 tensors of hift.pt."""
    return json.loads(gzip.decompress((DATA / "hift_state_dict.json.gz").read_bytes()))


def released_config() -> dict:
    """The published config.json."""
    return json.loads((DATA / "config.json").read_text())


def write_tokenizer(folder: Path, ids: Mapping[str, int]) -> None:
    """A tokenizer.json that knows these tokens and the word `word`, each with its id."""
    free = next(i for i in range(len(ids) + 1) if i not in ids.values())
    tokenizer = Tokenizer(models.WordLevel({**ids, "word": free}, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(ids))
    tokenizer.save(str(folder / "tokenizer.json"))


def num_bytes(dtype: str, shape: list[int]) -> int:
    """Size of a tensor."""
    return torch.Size(shape).numel() * (4 if dtype == "float32" else 2)


def shards_of(tensors: Mapping[str, tuple[str, list[int]]], limit: int) -> list[dict[str, tuple[str, list[int]]]]:
    """The tensors in order, a new shard where `limit` bytes would be exceeded."""
    shards, size = [{}], 0
    for name, entry in tensors.items():
        if shards[-1] and size + num_bytes(*entry) > limit:
            shards.append({})
            size = 0
        shards[-1][name] = entry
        size += num_bytes(*entry)
    return shards


def write_shard(path: Path, tensors: Mapping[str, tuple[str, list[int]]], generator: torch.Generator) -> None:
    """A safetensors file of random normal numbers (deviation 0.02), made in blocks of BLOCK_BYTES."""
    # fp32 first, so that every tensor is aligned
    order = sorted(tensors, key=lambda name: tensors[name][0] != "float32")
    header, position = {}, 0
    for name in order:
        dtype, shape = tensors[name]
        end = position + num_bytes(dtype, shape)
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = {}
    for dtype in NAMES:
        values = torch.randn(BLOCK_BYTES // (4 if dtype == "float32" else 2), generator=generator) * 0.02
        noise[dtype] = memoryview(values.to(getattr(torch, dtype)).view(torch.uint8).numpy())
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            dtype, shape = tensors[name]
            left = num_bytes(dtype, shape)
            # every tensor begins at a place of its own in the noise
            start = int(torch.randint(BLOCK_BYTES // 8, (), generator=generator)) * 4
            while left:
                count = min(left, BLOCK_BYTES - start)
                file.write(noise[dtype][start : start + count])
                left, start = left - count, 0


def write_released(folder: Path) -> None:
    """Write everything a published folder holds."""
    folder.mkdir(parents=True)
    shutil.copyfile(DATA / "config.json", folder / "config.json")
    audio_ids = {f"<{key.removesuffix('_token_id')}_baichuan>": i for key, i in token_ids(released_config()).items()}
    write_tokenizer(folder, IDS | audio_ids)
    (folder / "generation_config.json").write_text('{"bos_token_id": 151643, "eos_token_id": 151643, "max_new_tokens": 2048}\n')
    generator = torch.Generator().manual_seed(0)
    torch.save({name: torch.randn(shape, generator=generator) for name, shape in hift_tensors().items()}, folder / "hift.pt")
    shards = shards_of(released_tensors(), SHARD_BYTES)
    weight_map, total = {}, 0
    for i, shard in enumerate(shards, start=1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / name, shard, generator)
        weight_map |= dict.fromkeys(shard, name)
        total += sum(num_bytes(*entry) for entry in shard.values())
        print(f"{name}: {(folder / name).stat().st_size / 1e9:.3f} GB, {len(shard)} tensors", flush=True)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{len(weight_map)} tensors, {total / 1e9:.3f} GB, peak memory {peak:.0f} MiB")
    assert peak * 2**20 < MEMORY_LIMIT, "the script is to need little memory"


def token_ids(config: dict) -> dict[str, int]:
    """The entries `*_token_id` of audio_config."""
    return {key: value for key, value in config["audio_config"].items() if key.endswith("_token_id")}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/pretrained/full_size.py DIR")
    write_released(Path(sys.argv[1]))
