"""Reading shards, opening a large index, planning and preparing (two cores, local disk, files in the page cache)."""

import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bcaudio.data.batch import zeros
from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import Entry, Written, index_path, pack_index
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import SAMPLE_RATE, write_shards
from benchmarks.data_work import open_step
from benchmarks.measure import ROOT, Row, WrongResultError, alternate, check_close, peak_growth, speedup

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
    """Clips as int16, as `bcaudio.data.datamodule` keeps them: half the bytes that a worker has to hand over."""

    def __init__(self, tars: Sequence[Path]) -> None:
        self.index = ShardIndex(tars)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Tensor:
        self.index.sample(i)
        return torch.from_numpy((self.index.waveform(i) * 32768).astype(np.int16))


def _joined(clips: list[Tensor]) -> tuple[Tensor, list[int]]:
    """One after the other: padding would nearly double the memory that is shared and has to be mapped, page by page."""
    lengths = [len(clip) for clip in clips]
    return torch.cat(clips, out=zeros([sum(lengths)], torch.int16)), lengths


def _read_alone(tars: Sequence[Path], places: Sequence[int]) -> None:
    dataset = _Waveforms(tars)
    for i in places:
        dataset[i]


def workers(count: int = 4000, max_s: float = 11.0, samples_per_shard: int = 200, repeats: int = 3) -> list[Row]:
    """One epoch of a DataLoader over the index in random order, with two processes and with one."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as folder:
        tars = write_shards(_samples(count, max_s), folder, "bench-train", samples_per_shard, {})
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()

        def epoch(num_workers: int) -> float:
            loader = DataLoader(_Waveforms(tars), 8, sampler=order, num_workers=num_workers, collate_fn=_joined)
            return sum(sum(lengths) for _, lengths in loader)

        def apart(num_processes: int) -> None:
            """The same reading by processes that hand nothing over: what the machine could give."""
            shares = [order[first::num_processes] for first in range(num_processes)]
            processes = [fork.Process(target=_read_alone, args=(tars, share)) for share in shares]
            for process in processes:
                process.start()
            for process in processes:
                process.join()

        durations_s = ShardIndex(tars).durations_s
        if (found := epoch(2)) != (expected := round(durations_s.sum() * SAMPLE_RATE)):
            raise WrongResultError(f"two workers give {found} samples of sound, but the shards hold {expected}")
        ways: list[Callable[[], Any]] = [lambda: epoch(2), lambda: epoch(1), lambda: apart(2), lambda: apart(1)]
        two, one, both, single = (count / seconds for seconds in alternate(*ways, repeats=repeats))
    what = (
        f"{count} samples of 1-{max_s:g} s in random order, each once, in int16 batches of 8 without padding through torch's "
        f"DataLoader, {os.cpu_count()} cores; opening the index and starting the processes counts; peer: one worker; two "
        f"processes that read and hand nothing over reach {both / single:.2f} x of one here ({both:.0f}, {single:.0f} samples/s)"
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


def _apart(function: str, **options: Any) -> dict[str, Any]:
    """A function of `benchmarks.data_work` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data_work", function, json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as `python -m data_prep` sets it
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{function} with {options}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
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
        num_shards = int(_apart("plan", folder=name, pretend=True)["made"])
        runs = [_apart("plan", folder=name, pretend=False) for _ in range(repeats)]
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


def _auditor() -> str:
    """The trained micro auditor's folder: `$BCAUDIO_AUDITOR`, else runs/micro/auditor; empty where there is none."""
    return _trained("auditor")


def _trained(stage: str) -> str:
    folder = Path(os.environ.get(f"BCAUDIO_{stage.upper()}") or ROOT / "runs" / "micro" / stage).absolute()
    return str(folder) if (folder / "model.safetensors").is_file() else ""


def preparation(hours: float = 1.0, samples_per_shard: int = 16, repeats: int = 1) -> list[Row]:
    """Synthetic speech through VAD, forced alignment, segmentation, interleaving and sharding: 1 and 2 workers, and Ray."""
    kinds = {"one": ("local", 1), "two": ("local", 2)}
    if find_spec("ray"):
        kinds["ray"] = ("ray", 2)
    else:
        print("preparation.ray: left out, Ray is not installed; pip install bcaudio[ray]", file=sys.stderr)
    auditor = _auditor()
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as folder:
        recorded = _apart("record_speech", folder=folder, hours=hours)
        first: dict[str, Any] = {}
        for turn in range(repeats):
            for name, (kind, num_workers) in kinds.items():
                options = {"out": f"{name}-{turn}", "auditor": auditor, "samples_per_shard": samples_per_shard}
                made = _apart("prepare", folder=folder, kind=kind, workers=num_workers, **options)
                taken[name].append(made.pop("seconds"))
                first = first or made
                if made != first or not made["num_samples"]:
                    raise WrongResultError(f"preparation with {kind}, {num_workers} workers: {made}, but first {first}")
    seconds = {name: median(values) for name, values in taken.items()}
    what = (
        f"{recorded:.2f} h of synthetic speech (en, zh) in {len(first['shards'])} shards, {first['num_samples']} samples, "
        f"{first['lost']} clips lost; silero-vad, words by {'the micro auditor' if auditor else 'espeak-ng: no auditor here'}, "
        "segments, interleaving, shards of equal bytes; one thread per worker, each run in a fresh process"
    )
    local = "loading of torch and models counts, in every worker, and so does the start of the two processes"
    rows = [speedup("preparation.two_workers", seconds["two"], seconds["one"], 1.8, f"{what}; {local}; peer: one worker")]
    if "ray" in seconds:
        ratio = seconds["ray"] / seconds["two"]
        told = f"{what}; Ray and its two worker processes run before time is taken, their loading of torch and models counts"
        rows.append(Row("preparation.ray", seconds["ray"], seconds["two"], "s", ratio, "<=", 1.15, f"{told}; peer: local, 2"))
    return rows


def alignment(count: int = 60) -> list[Row]:
    """Forced alignment by the aligner that was trained on the micro world against espeak-ng's word events."""
    if not (aligner := _trained("aligner")):
        print(
            "alignment: left out, there is no runs/micro/aligner; train recipes/micro/aligner.yaml, or set BCAUDIO_ALIGNER",
            file=sys.stderr,
        )
        return []
    rows = []
    for language in ("en", "zh"):
        found = _apart("boundary_errors", aligner=aligner, language=language, count=count)
        starts, ends = (sorted(1000 * error for error in found[name]) for name in ("starts", "ends"))
        what = (
            f"beginnings of {len(starts)} words in strings of numbers and stories of the micro world's test split (voices and "
            f"texts that were not trained on), nine in ten below {starts[len(starts) * 9 // 10]:.0f} ms; ends of words "
            f"{median(ends):.1f} ms; peer: the limit"
        )
        rows.append(Row(f"alignment.{language}", median(starts), 60.0, "ms", median(starts), "<=", 60.0, what))
    return rows


ENTRIES: dict[str, Callable[[], list[Row]]] = {
    "reading": reading,
    "workers": workers,
    "open_index": open_index,
    "plan": plan,
    "preparation": preparation,
    "alignment": alignment,
}
