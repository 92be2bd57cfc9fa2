"""Batches of a recipe: order, filters, workers, resume."""

from types import SimpleNamespace

import numpy as np
import pytest

from bcaudio.data.batch import AudioBatch, AudioCollate
from bcaudio.data.datamodule import DataModule, Source
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    samples = []
    for i in range(20):
        duration_s = 0.1 + 0.01 * i
        sample = Sample(
            f"n-{i}",
            "numbers",
            "train",
            "zh" if i % 2 else "en",
            "m1",
            "one",
            (Span("one", 0.0, 0.1, "user"),),
            duration_s=duration_s,
        )
        samples.append((sample, np.full(round(24000 * duration_s), 0.5, dtype=np.float32)))
    write_shards(samples, folder, "numbers-train", 8, {"sample_rate": 24000})
    return str(folder / "*.tar")


def module(shards: str, workers: int = 0, first_step: int = 0) -> DataModule:
    source = Source(shards, "asr")
    made = DataModule(
        [source], AudioCollate([16000]), batch_size=4, max_steps=12, val=[source], val_batch_size=8, seed=1, num_workers=workers
    )
    made.first_step = first_step
    return made


def keys(batches: list[AudioBatch]) -> list[tuple[int, list[str]]]:
    return [(batch.step, [sample.key for sample in batch.samples]) for batch in batches]


def test_workers_do_not_change_the_order(shards: str) -> None:
    alone, two = (keys(list(module(shards, workers).train_dataloader())) for workers in (0, 2))
    assert alone == two
    assert [step for step, _ in alone] == list(range(12))


def test_a_resumed_run_gets_exactly_what_was_left(shards: str) -> None:
    assert keys(list(module(shards, first_step=7).train_dataloader())) == keys(list(module(shards).train_dataloader()))[7:]


def test_validation_passes_every_sample_once_in_order(shards: str) -> None:
    batches = list(module(shards).val_dataloader())
    assert [sample.key for batch in batches for sample in batch.samples] == [f"n-{i}" for i in range(20)]
    assert [batch.size for batch in batches] == [8, 8, 4]


def test_clips_with_less_validation_batches_than_ranks_are_refused_with_both_numbers(shards: str) -> None:
    made = module(shards)
    made.trainer = SimpleNamespace(global_rank=2, world_size=3)
    made.setup()
    assert [batch.size for batch in made.val_dataloader()] == [4]
    made.trainer = SimpleNamespace(global_rank=2, world_size=4)
    with pytest.raises(ValueError, match=r"data\.val: 3 batches for 4 ranks, .*; lower data\.val_batch_size \(8\)"):
        made.setup()


def test_filters_keep_language_and_duration(shards: str) -> None:
    assert len(Source(shards, "asr", languages=["zh"])) == 10
    assert len(Source(shards, "asr", min_duration_s=0.2)) == 10
    assert len(Source(shards, "asr", limit=3)) == 3


def test_a_filter_that_leaves_nothing_is_told_with_its_values(shards: str) -> None:
    with pytest.raises(ValueError, match=r"no sample left of 20 .*\['fr'\]"):
        len(Source(shards, "asr", languages=["fr"]))


def test_audio_comes_at_the_rate_asked_for(shards: str) -> None:
    item = Source(shards, "asr").item(0, [16000])
    assert len(item.waveforms[16000]) == 1600
    assert abs(int(np.median(item.waveforms[16000])) - 16384) < 40


def test_ranks_share_every_global_batch_without_overlap(shards: str) -> None:
    whole = keys(list(module(shards).train_dataloader()))
    parts = []
    for rank in range(2):
        made = module(shards)
        made.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        parts.append(keys(list(made.train_dataloader())))
        assert [len(found) for _, found in parts[rank]] == [2] * 12
    for (step, found), (_, left), (_, right) in zip(whole, *parts, strict=True):
        assert sorted(found) == sorted(left + right), step


def test_memory_for_clips_is_bounded_and_shared_by_the_sources(shards: str) -> None:
    sources = [Source(shards, "asr"), Source(shards, "audio")]
    made = DataModule(sources, AudioCollate([16000]), batch_size=4, max_steps=30, memory_mb=0.05)
    list(made.train_dataloader())
    assert sources[0].recent is sources[1].recent
    # a clip of 0.1 to 0.29 s takes 3,200 to 9,280 bytes and 2,000 for the rest
    assert 40_000 < sources[0].recent.size <= 50_000
    assert sources[0].item(3, [16000]) is sources[0].item(3, [16000])
