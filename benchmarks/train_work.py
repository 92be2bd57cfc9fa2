"""What the suite `train` measures with: shards of sizes as in training, and a checkpoint of ZeRO, made by the numbers."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bcaudio.data.batch import SequenceCollate
from bcaudio.data.datamodule import DataModule, Source
from bcaudio.data.index_file import Written, entry_of, index_path, pack_index
from bcaudio.data.lengths import table_files
from bcaudio.data.schema import Sample, Span
from bcaudio.recipe.build import build
from bcaudio.text.tokenizer import train_tokenizer

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "plus", "minus", "is")
JSON_BYTES = 40_000  # per sample of the large index


def make_tokenizer(folder: Path) -> str:
    train_tokenizer([" ".join(WORDS)] * 5, vocab_size=400).save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def log_normal(rng: np.random.Generator, count: int, limit: int, mean: float = 300, sigma: float = 0.8) -> np.ndarray:
    """Lengths as of real clips with their texts."""
    return rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count).clip(12, limit).astype(np.int32)


def _text_sample(key: str, num_tokens: int) -> Sample:
    """A sample of so many tokens under the task text_story: words of one token, and the end."""
    text = " ".join(["one"] * (num_tokens - 1))
    return Sample(key, "crawl", "train", "en", "s", "one", (Span(text, 0.0, 0.0, "narrator"),))


class LargeIndex:
    """Shards whose indices and lengths are whole, while their tars are holes but for the samples that are asked for."""

    def __init__(self, folder: Path, num_shards: int, samples_per_shard: int, row_tokens: int) -> None:
        self.folder, self.per_shard = folder, samples_per_shard
        self.collate = SequenceCollate(make_tokenizer(folder), row_tokens=row_tokens)
        self.lengths = log_normal(np.random.default_rng(0), samples_per_shard, row_tokens)
        written = [
            Written(entry_of(_text_sample(self.key(0, i), 12)), "crawl", {"json": (512 + JSON_BYTES * i, JSON_BYTES)}, i)
            for i in range(samples_per_shard)
        ]
        num_bytes = (JSON_BYTES + 512) * samples_per_shard
        first = pack_index(self._tar(0).name, f"{0:064d}", num_bytes, {"format": "bench"}, written)
        checksums = [f"{shard:064d}" for shard in range(num_shards)]
        tables = table_files(checksums, "text_story", self.collate.builder, folder / "lengths")
        (folder / "lengths").mkdir()
        for shard, (checksum, table) in enumerate(zip(checksums, tables, strict=True)):
            rest = first[48:].replace(self.key(0, 0)[:21].encode(), self.key(shard, 0)[:21].encode())
            rest = rest.replace(self._tar(0).name.encode(), self._tar(shard).name.encode()).replace(b"0" * 64, checksum.encode())
            self._tar(shard).touch()
            os.truncate(self._tar(shard), num_bytes)
            Path(index_path(self._tar(shard))).write_bytes(first[:16] + hashlib.sha256(rest).digest() + rest)
            rolled = np.roll(self.lengths, shard)
            np.save(table, np.stack([rolled, rolled, np.zeros_like(rolled)]))

    def key(self, shard: int, i: int) -> str:
        return f"crawl-train-en-{shard:06d}-{i:06d}"

    def _tar(self, shard: int) -> Path:
        return self.folder / f"crawl-train-{shard:06d}.tar"

    def data(self, step: int, rows: int, ranks: int) -> DataModule:
        """The data module of rank 0 as it stands when a run goes on at `step`."""
        source = Source(f"{self.folder}/*.tar", "text_story")
        made = DataModule([source], self.collate, max_steps=step + 1, rows=rows, lengths=str(self.folder / "lengths"))
        made.trainer, made.first_step = SimpleNamespace(global_rank=0, world_size=ranks), step
        return made

    def fill(self, step: int, rows: int, ranks: int) -> list[str]:
        """Write the samples that rank 0 reads at a step. Returns their keys."""
        keys = []
        for row in self.data(step, rows, ranks).plan.share(step, 0, ranks, 1)[0]:
            for sample, num_tokens in zip(row.samples.tolist(), row.tokens.tolist(), strict=True):
                shard, i = divmod(sample, self.per_shard)
                keys.append(self.key(shard, i))
                with open(self._tar(shard), "r+b") as stream:
                    stream.seek(512 + JSON_BYTES * i)
                    stream.write(_text_sample(keys[-1], num_tokens).to_json().encode().ljust(JSON_BYTES))
        return keys


def micro_samples(kind: str, count: int, spans: tuple[int, int], words: tuple[int, int]) -> Iterator[tuple[Sample, None]]:
    """Samples with codes, of the sizes of the micro corpora: 12.5 frames a second, about 3.5 frames a word."""
    rng = np.random.default_rng(len(kind))
    for i in range(count):
        texts = [" ".join(rng.choice(WORDS, rng.integers(*words))) for _ in range(rng.integers(*spans))]
        frames = tuple(round(3.5 * len(text.split())) + 4 for text in texts)
        ends = np.cumsum([n / 12.5 for n in frames]).tolist()
        parts = tuple(Span(t, end - n / 12.5, end, "user") for t, end, n in zip(texts, ends, frames, strict=True))
        codes = rng.integers(0, 64, (sum(frames), 8)).astype(np.int16)
        text = " ".join(texts)
        yield Sample(f"{kind}-train-en-{i:06d}", kind, "train", "en", "m1", text, parts, translation=text, target_language="zh",
                     answer=texts[0], duration_s=ends[-1], span_num_codes=frames, codes=codes), None  # fmt: skip


def zero_checkpoint(stage: Path, hidden: int, layers: int) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint of two ranks under ZeRO as the strategy writes it, of a text LLM; and its weights."""
    config = {"model_type": "qwen2", "vocab_size": 16384, "hidden_size": hidden, "intermediate_size": 8 * hidden // 3,
              "num_hidden_layers": layers, "num_attention_heads": hidden // 128, "num_key_value_heads": hidden // 128,
              "tie_word_embeddings": False}  # fmt: skip
    llm = {"_target_": "bcaudio.models.text_llm.causal_lm", "config": config}
    model = {"_target_": "bcaudio.models.audio_llm.AudioLLM", "llm": llm, "codebook_sizes": [], "audio_pad_id": 6}
    recipe = {"name": "bench", "fingerprint": {}, "model": model}
    checkpoint = stage / "checkpoints" / "step=1.ckpt"
    checkpoint.mkdir(parents=True)
    (stage / "recipe.yaml").write_text(json.dumps(recipe))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build(model, "model").state_dict().items()}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    for rank in range(2):
        pieces = {}
        for name, tensor in weights.items():
            half = tensor.numel() // 2
            start = rank * half
            part = tensor.flatten()[start:] if rank else tensor.flatten()[:half]
            pieces |= {f"{kind}:{start}:model.{name}": part for kind in ("fp32", "exp_avg", "exp_avg_sq")}
        save_file({label: part.clone() for label, part in pieces.items()}, checkpoint / f"rank-{rank:05d}.safetensors")
    about = {"shapes": {f"model.{name}": list(shape) for name, shape in shapes.items()}, "aliases": {}}
    torch.save({"zero": about}, checkpoint / "state.ckpt")
    return checkpoint, weights
