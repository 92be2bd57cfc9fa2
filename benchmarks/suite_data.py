"""Reading shards, opening a large index, planning a large manifest (two cores, local disk, files in the page cache)."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import Entry, Written, index_path, pack_index
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import SAMPLE_RATE, write_shards
from benchmarks.data_work import open_step
from benchmarks.measure import ROOT, Row, WrongResultError, alternate, check_close, peak_growth

MEGABYTE = 1e6
TEXT = "the quick brown fox jumps over the lazy dog while 今天天气很好我们去公园走走"


def _samples(count: int, max_s: float) -> Iterator[tuple[Sample, np.ndarray]]:
    """Clips of 1 s to `max_s`: a swelling tone with harmonics in noise, which flac packs about as tightly as speech."""
    rng = np.random.default_rng(0)
    for i, duration_s in enumerate(rng.uniform(min(1.0, max_s), max_s, count).round(2).tolist()):
        t = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
        tones = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 12))
        waveform = 0.1 * tones * np.sin(2 * np.pi * 1.5 * t) ** 2 + 0.004 * rng.standard_normal(len(t))
        span = Span(TEXT, 0.0, duration_s, "user")
        sample = Sample(f"bench-train-en-{i:06d}", "bench", "train", "en", f"s{i % 50}", TEXT, (span,), duration_s=duration_s)
        yield sample, waveform.astype(np.float32)


def _decode(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def _by_index(tars: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    index = ShardIndex(tars)
    for i in range(len(index)):
        yield index.sample(i).key, index.waveform(i)


def _by_tarfile(tars: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    for tar in tars:
        with tarfile.open(tar) as archive:
            for member in archive:
                data = archive.extractfile(member).read()
                if member.name.endswith(".flac"):
                    waveform = _decode(data)
                else:
                    yield json.loads(data)["key"], waveform


def _by_webdataset(tars: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    import webdataset

    stream = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    for fields, waveform in stream.decode(webdataset.handle_extension("flac", _decode)).to_tuple("json", "flac"):
        yield fields["key"], waveform


def reading(count: int = 800, max_s: float = 11.0, samples_per_shard: int = 200, repeats: int = 15) -> list[Row]:
    """Every sample of some shards in order: its JSON and its decoded sound, in one process."""
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as folder:
        tars = write_shards(_samples(count, max_s), folder, "bench-train", samples_per_shard, {})
        for peer in (_by_tarfile, _by_webdataset):
            for (key, ours), (peer_key, theirs) in zip(_by_index(tars), peer(tars), strict=True):
                if key != peer_key:
                    raise WrongResultError(f"{peer.__name__} gives {peer_key} where ours gives {key}")
                check_close(key, torch.from_numpy(ours), torch.from_numpy(theirs), 0)
        ways: list[Callable[[], int]] = [
            lambda read=read: sum(1 for _ in read(tars)) for read in (_by_index, _by_tarfile, _by_webdataset)
        ]
        ours, plain, web = (count / seconds for seconds in alternate(*ways, repeats=repeats))
        megabytes = sum(Path(tar).stat().st_size for tar in tars) / MEGABYTE
    what = (
        f"{count} samples of 1-{max_s:g} s at {SAMPLE_RATE} Hz in {len(tars)} tars of {megabytes:.0f} MB together, in order, one "
        "process, files in the page cache; JSON parsed and flac decoded by soundfile on both sides, ours checks the JSON too"
    )
    return [
        Row("reading.tarfile", ours, plain, "samples/s", ours / plain, ">=", 0.85, f"{what}; peer: tarfile and soundfile"),
        Row("reading.webdataset", ours, web, "samples/s", ours / web, ">=", 1.0, f"{what}; peer: webdataset's pipeline"),
    ]


class _Waveforms(Dataset):
    def __init__(self, tars: Sequence[Path]) -> None:
        self.index = ShardIndex(tars)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Tensor:
        self.index.sample(i)
        return torch.from_numpy(self.index.waveform(i))


def _padded(clips: list[Tensor]) -> tuple[Tensor, list[int]]:
    return pad_sequence(clips, batch_first=True), [len(clip) for clip in clips]


def workers(count: int = 2400, max_s: float = 11.0, samples_per_shard: int = 200, repeats: int = 5) -> list[Row]:
    """One epoch of a DataLoader over the index in random order, with two processes and with one."""
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as folder:
        tars = write_shards(_samples(count, max_s), folder, "bench-train", samples_per_shard, {})

        def epoch(num_workers: int) -> float:
            order = torch.Generator().manual_seed(0)
            dataset = _Waveforms(tars)
            loader = DataLoader(dataset, 8, shuffle=True, num_workers=num_workers, collate_fn=_padded, generator=order)
            return sum(sum(lengths) for _, lengths in loader)

        durations_s = ShardIndex(tars).durations_s
        if (found := epoch(2)) != (expected := round(durations_s.sum() * SAMPLE_RATE)):
            raise WrongResultError(f"two workers give {found} samples of sound, but the shards hold {expected}")
        two, one = (count / seconds for seconds in alternate(lambda: epoch(2), lambda: epoch(1), repeats=repeats))
    what = (
        f"{count} samples of 1-{max_s:g} s in random order, each once, in padded batches of 8 through torch's DataLoader, "
        f"{os.cpu_count()} cores; opening the index and starting the processes counts; peer: one worker"
    )
    return [Row("workers.two", two, one, "samples/s", two / one, ">=", 1.8, what)]


def _make_indices(folder: Path, num_shards: int, samples_per_shard: int) -> None:
    """Indices of shards that hold nothing: every one is the first with other keys; the tars are holes of the right size."""

    def key(shard: int, i: int) -> str:
        return f"crawl-train-zh-{shard:06d}-{i:06d}"

    shape = "crawl-train-{:06d}.tar"
    written = [
        Written(
            Entry(key(0, i), "crawl", "train", "zh" if i % 3 else "en", f"s{i % 97}", "CC-BY", 0.5 + i % 29, 0, 10 + i % 90),
            "crawl",
            {"flac": (512 + 200_000 * i, 190_000), "json": (195_000 + 200_000 * i, 700)},
            i,
        )
        for i in range(samples_per_shard)
    ]
    num_bytes = 200_000 * samples_per_shard
    first = pack_index(shape.format(0), f"{0:064d}", num_bytes, {"format": "bench"}, written)
    for shard in range(num_shards):
        rest = first[48:].replace(key(0, 0)[:21].encode(), key(shard, 0)[:21].encode())
        rest = rest.replace(shape.format(0).encode(), shape.format(shard).encode()).replace(b"0" * 64, b"%064d" % shard)
        tar = folder / shape.format(shard)
        tar.touch()
        os.truncate(tar, num_bytes)
        Path(index_path(tar)).write_bytes(first[:16] + hashlib.sha256(rest).digest() + rest)


def open_index(num_shards: int = 1000, samples_per_shard: int = 10_000, repeats: int = 7) -> list[Row]:
    """Open an index of 10,000,000 samples."""
    total = num_shards * samples_per_shard
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as folder:
        _make_indices(Path(folder), num_shards, samples_per_shard)
        index = open_step(folder)()
        last = index.entry(total - 1).key
        expected = f"crawl-train-zh-{num_shards - 1:06d}-{samples_per_shard - 1:06d}"
        if (len(index), last) != (total, expected):
            raise WrongResultError(f"the index has {len(index)} samples up to {last}; it should have {total} up to {expected}")
        (seconds,) = alternate(open_step(folder), repeats=repeats)
        (column_s,) = alternate(lambda: open_step(folder)().durations_s, repeats=3)
        growth = peak_growth("benchmarks.data_work:open_step", folder=folder)
    what = (
        f"{total} samples in {num_shards} shards of {samples_per_shard}, opened through a glob with sizes and fingerprints "
        f"checked, {growth:.1f} MiB more of peak memory; with the durations of all samples as one array {column_s:.2f} s"
    )
    return [Row("open_index.seconds", seconds, 1.0, "s", seconds, "<=", 1.0, f"{what}; peer: the limit")]


def _planned(folder: Path, pretend: bool = False) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data_work", str(folder), str(int(pretend))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"planning {folder}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _plan_of(count: int, repeats: int) -> tuple[float, float, int]:
    """Median seconds and bytes of a run over a generated manifest that finds everything done, and the number of shards."""
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as name:
        folder = Path(name)
        with open(folder / "manifest.jsonl", "w", encoding="utf-8") as lines:
            for i in range(count):
                words = f"{TEXT[i % 40 :]} {i * 7919 % 10_007}"
                fields = {"key": f"{i:08d}", "audio": f"audio/{i // 1000}/{i}.flac", "text": words, "speaker": f"s{i % 5000}"}
                lines.write(json.dumps({**fields, "language": "zh" if i % 3 else "en"}, ensure_ascii=False) + "\n")
        num_shards = int(_planned(folder, pretend=True)["made"])
        runs = [_planned(folder) for _ in range(repeats)]
    if any(run["made"] or run["kept"] != num_shards for run in runs):
        raise WrongResultError(f"planning again makes {runs[0]['made']:.0f} of {num_shards} finished shards anew")
    return median(run["seconds"] for run in runs), max(run["peak"] for run in runs), num_shards


def plan(count: int = 1_000_000, repeats: int = 3) -> list[Row]:
    """Plan a manifest of a million utterances and skip all of its shards, which are done."""
    quarter_s, _, _ = _plan_of(count // 4, repeats)
    seconds, peak, num_shards = _plan_of(count, repeats)
    what = (
        f"a manifest of {count} lines, {num_shards} shards, all done: Pipeline.run lists, plans and skips them, in a "
        "fresh process; its start and imports count for memory, not for time"
    )
    growth = seconds / quarter_s
    return [
        Row("plan.seconds", seconds, 30.0, "s", seconds, "<=", 30.0, f"{what}; peer: the limit"),
        Row("plan.memory", peak / MEGABYTE, 500.0, "MB", peak / MEGABYTE, "<=", 500.0, f"{what}; peer: the limit"),
        Row("plan.growth", seconds, quarter_s, "s", growth, "<=", 4.6, f"{what}; peer: a quarter of the lines, so 4 is linear"),
    ]


ENTRIES: dict[str, Callable[[], list[Row]]] = {
    "reading": reading,
    "workers": workers,
    "open_index": open_index,
    "plan": plan,
}
