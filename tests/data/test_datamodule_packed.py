"""Packed batches of a recipe: order, ranks, workers, accumulation, resume; what is refused before the first step."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bcaudio.data.batch import AudioCollate, PackedBatch, SequenceCollate
from bcaudio.data.datamodule import DataModule, Source
from bcaudio.data.schema import Sample, Span
from bcaudio.data.sequence import IGNORE, SequenceBuilder
from bcaudio.data.shards import write_shards
from bcaudio.text.tokenizer import TextTokenizer

SIZES = [16, 8]
WORDS = ["one", "two", "three", "four", "seven"]


def make_shards(folder: Path, name: str, count: int, fingerprint: dict[str, Any], seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        frames = int(rng.integers(2, 12))
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 6))))
        sample = Sample(
            f"{name}-{i}", name, "train", "en" if i % 3 else "zh", "m1", text, (Span(text, 0.0, 1.0, "user"),), duration_s=1.0,
            translation=text if i % 3 else None, target_language="zh" if i % 3 else None,
            span_num_codes=(frames,), codes=rng.integers(0, 8, (frames, 2)).astype(np.int16),
        )  # fmt: skip
        samples.append((sample, None))
    write_shards(samples, folder, f"{name}-train", 40, fingerprint)
    return str(folder / f"{name}-train-*.tar")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    return [make_shards(folder, name, count, {"codebook_sizes": SIZES}) for name, count in (("a", 130), ("b", 70))]


@pytest.fixture(scope="module")
def collate(text_tokenizer: TextTokenizer) -> SequenceCollate:
    return SequenceCollate(str(text_tokenizer.file), SIZES, row_tokens=128)


def module(shards: list[str], collate: SequenceCollate, rank: int = 0, world_size: int = 1, **options: Any) -> DataModule:
    sources = [Source(shards[0], "asr", weight=3), Source(shards[1], "tts")]
    made = DataModule(sources, collate, max_steps=20, rows=8, seed=1, **options)
    made.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    made.setup()
    return made


def keys(batches: list[PackedBatch]) -> list[str]:
    return [item.sample.key for batch in batches for item in batch.items]


@pytest.mark.parametrize(("world_size", "accumulate", "workers"), [(1, 1, 0), (1, 4, 2), (2, 2, 0), (8, 1, 0), (2, 1, 2)])
def test_batches_are_those_of_the_ledger_for_any_ranks_workers_and_accumulation(
    shards: list[str], collate: SequenceCollate, world_size: int, accumulate: int, workers: int
) -> None:
    plain = module(shards, collate)
    ranks = [
        list(module(shards, collate, rank, world_size, accumulate=accumulate, num_workers=workers).train_dataloader())
        for rank in range(world_size)
    ]
    for rank in ranks:
        assert [(batch.step, batch.micro) for batch in rank] == [(s, m) for s in range(20) for m in range(accumulate)]
        assert {batch.num_micro for batch in rank} == {accumulate}
        assert {tuple(batch.input_ids.shape) for batch in rank} == {(8 // world_size // accumulate, 128)}
    for step in range(20):
        here = [batch for rank in ranks for batch in rank if batch.step == step]
        assert Counter(keys(here)) == Counter(plain.ledger(step))
    assert keys(ranks[0][:1]) == plain.ledger(0) or world_size * accumulate > 1


def test_paid_counts_what_a_rank_pays_for_in_the_whole_step(shards: list[str], collate: SequenceCollate) -> None:
    batches = list(module(shards, collate, rank=1, world_size=2, accumulate=2).train_dataloader())
    seen = np.zeros(2)
    for step in range(20):
        here = [batch for batch in batches if batch.step == step]
        text = sum(int((batch.labels != IGNORE).sum()) for batch in here)
        frames = sum(int((batch.audio_labels[..., 0] != IGNORE).sum()) for batch in here)
        seen += np.array([text, frames])
        for batch in here:
            assert batch.paid.dtype == torch.float64
            assert batch.paid.tolist() == [text, frames]
    assert seen.min() > 100


def test_documents_stay_whole_and_apart(shards: list[str], collate: SequenceCollate) -> None:
    made = module(shards, collate)
    eos = collate.builder.special.eos
    for batch in made.train_dataloader():
        ends = 0
        for ids, positions, row in zip(batch.input_ids, batch.position_ids, made.plan.share(batch.step, 0, 1, 1)[0], strict=True):
            lengths = row.tokens.tolist()
            tail = [128 - sum(lengths)] if sum(lengths) < 128 else []
            assert positions.tolist() == [p for length in lengths + tail for p in range(length)]
            closed = np.cumsum(lengths) - 1
            assert set(ids[closed].tolist()) == {eos}
            ends += len(lengths)
            assert batch.labels[0].shape == ids.shape
        assert ends == len(batch.items)
        assert len(batch.codes) == int((batch.input_ids == collate.builder.special.audio_pad).sum())


def test_a_resumed_run_gets_exactly_what_was_left(shards: list[str], collate: SequenceCollate) -> None:
    made = module(shards, collate, accumulate=2)
    made.first_step = 7
    whole, left = list(module(shards, collate, accumulate=2).train_dataloader()), list(made.train_dataloader())
    assert [batch.step for batch in left] == [batch.step for batch in whole[14:]]
    for ours, theirs in zip(left, whole[14:], strict=True):
        torch.testing.assert_close(ours.input_ids, theirs.input_ids, rtol=0, atol=0)


def test_lengths_are_measured_once_and_kept(
    shards: list[str], collate: SequenceCollate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lengths"
    made = module(shards, collate, lengths=str(folder))
    assert len(list(folder.iterdir())) == 6  # four shards of a, two of b
    next(folder.iterdir()).write_bytes(b"\x93NUMPY cut off")
    assert module(shards, collate, lengths=str(folder)).train[0].table.tolist() == made.train[0].table.tolist()
    monkeypatch.setattr(SequenceBuilder, "measure", lambda *_: pytest.fail("measured again"))
    assert module(shards, collate, lengths=str(folder)).ledger(3) == made.ledger(3)


def test_several_processes_measure_the_same_lengths(
    shards: list[str], collate: SequenceCollate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = module(shards, collate)
    monkeypatch.setattr("bcaudio.data.lengths.MANY", 10)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    together = module(shards, collate, lengths=str(tmp_path))
    for ours, theirs in zip(together.train, alone.train, strict=True):
        assert ours.table.tolist() == theirs.table.tolist()


def test_a_length_that_is_not_the_planned_one_stops_the_run(shards: list[str], collate: SequenceCollate) -> None:
    made = module(shards, collate)
    made.plan.tokens[0][:] = made.plan.tokens[0] + 1
    with pytest.raises(ValueError, match=r"a-\d+, task asr: planned with \d+ tokens, but it has \d+; .*delete the folder"):
        next(iter(made.train_dataloader()))


def test_an_audio_source_with_a_filter_plans_only_what_it_keeps(shards: list[str], collate: SequenceCollate) -> None:
    made = DataModule([Source(shards[0], "s2tt", languages=["en"])], collate, max_steps=6, rows=4)
    found = {key for step in range(6) for key in made.ledger(step)}
    assert found
    assert all(int(key.split("-")[1]) % 3 for key in found)


def test_everything_wrong_is_told_at_once(shards: list[str], collate: SequenceCollate, tmp_path: Path) -> None:
    other = make_shards(tmp_path, "c", 3, {"codebook_sizes": [16, 9]})
    sources = [
        Source(shards[0], "asr", weight=0, name="zero"),
        Source(shards[1], "tts", weight=-1.5),
        Source(other, "asr"),
        Source(str(tmp_path / "missing-*.tar"), "asr"),
        Source(shards[0], "sing"),
    ]
    schedule = [{"step": 5, "weights": {"zero": 0, "nobody": 1}}]
    with pytest.raises(ValueError, match=r"data.rows") as caught:
        DataModule(sources, collate, max_steps=5, rows=6, accumulate=4, schedule=schedule, temperature=-1)
    lines = str(caught.value).splitlines()
    for line, part in zip(
        lines,
        [
            "data.rows is 6, which 1 ranks with accumulate 4",
            "data.train[2]: fingerprint codebook_sizes of its shards is [16, 9], but [16, 8] in data.train[0] (zero)",
            "missing-*.tar: no such tar",
            "data.train[4]: unknown task 'sing'",
            "data.train[0] (zero).weight is 0; a weight must be above 0",
            "data.train[1].weight is -1.5",
            "data.temperature is -1",
            "data.schedule[0].weights.zero is 0",
            "data.schedule[0]: there is no source 'nobody'; sources with a name: zero",
        ],
        strict=True,
    ):
        assert part in line


def test_samples_longer_than_a_row_and_samples_without_the_field_are_told_at_once(shards: list[str], collate: Any) -> None:
    short = SequenceCollate(str(collate.builder.tokenizer.file), SIZES, row_tokens=14)
    with pytest.raises(ValueError, match="do not suit") as caught:
        DataModule([Source(shards[0], "s2tt"), Source(shards[1], "tts")], short, max_steps=5, rows=4)
    first, second, third = str(caught.value).splitlines()
    assert "data.train[0]: 44 of 130 samples do not suit the task s2tt; the first is a-0: a-0: the task needs" in first
    longest = max((short.builder.measure(_segments(shards[1], i))[0], -i) for i in range(70))
    assert second.startswith("data.train[0]: ")
    assert f"row_tokens, 14; the longest is b-{-longest[1]} with {longest[0]}; raise row_tokens or lower" in third


def _segments(shards: str, i: int) -> Any:
    from bcaudio.data.index import ShardIndex
    from bcaudio.data.tasks import tts

    return tts(ShardIndex(shards).sample(i))


def test_more_ranks_than_rows_are_refused(shards: list[str], collate: SequenceCollate, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"data.rows is 8, which 16 ranks .* multiple of 16"):
        module(shards, collate, world_size=16)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"which 3 ranks with accumulate 2 .* multiple of 6"):
        module(shards, collate, accumulate=2)


def test_batch_size_and_rows_exclude_each_other(shards: list[str], collate: SequenceCollate) -> None:
    source = Source(shards[0], "asr")
    for options in ({}, {"batch_size": 4, "rows": 4}):
        with pytest.raises(ValueError, match="give one of them"):
            DataModule([source], collate, max_steps=5, **options)
    with pytest.raises(ValueError, match=r"data.accumulate needs data.rows"):
        DataModule([source], collate, max_steps=5, batch_size=4, accumulate=2)
    with pytest.raises(ValueError, match="needs a SequenceCollate"):
        DataModule([source], AudioCollate(), max_steps=5, rows=4)
    text = SequenceCollate(str(collate.builder.tokenizer.file), row_tokens=64, audio_as="text")
    with pytest.raises(ValueError, match=r"130 of 130 samples do not suit the task asr; .*no fixed length"):
        DataModule([source], text, max_steps=5, rows=4)


def test_temperature_and_schedule_reach_the_plan(shards: list[str], collate: SequenceCollate) -> None:
    sources = [Source(shards[0], "asr", name="a"), Source(shards[1], "asr", name="b")]
    schedule = [{"step": 16, "weights": {"b": 13 / 7 * 9}}]
    made = DataModule(sources, collate, max_steps=40, rows=8, temperature=1, schedule=schedule)
    drawn = [Counter(key[0] for step in steps for key in made.ledger(step)) for steps in (range(16), range(16, 32))]
    assert drawn[0]["a"] / drawn[0].total() == pytest.approx(0.65, abs=0.03)  # 130 of 200
    assert drawn[1]["a"] / drawn[1].total() == pytest.approx(0.1, abs=0.03)
