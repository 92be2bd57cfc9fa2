"""The benchmarks of data at tiny sizes: what is compared must agree, how fast is not asked."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import suite_data
from benchmarks.measure import WrongResultError


@pytest.mark.parametrize(
    ("entry", "names", "sizes"),
    [
        (suite_data.reading, ["reading.tarfile", "reading.webdataset"], {"count": 6, "max_s": 0.2, "samples_per_shard": 4}),
        (suite_data.workers, ["workers.two"], {"count": 16, "max_s": 0.2, "samples_per_shard": 8}),
        (suite_data.open_index, ["open_index.seconds"], {"num_shards": 12, "samples_per_shard": 50}),
        (suite_data.plan, ["plan.seconds", "plan.memory", "plan.growth"], {"count": 2000}),
    ],
    ids=["reading", "workers", "open_index", "plan"],
)
def test_entries_give_rows_with_bars(entry, names, sizes) -> None:
    rows = entry(**sizes, repeats=1)
    assert [row.name for row in rows] == names
    assert all(row.ratio > 0 and math.isfinite(row.ratio) and row.conditions for row in rows)


def test_a_reader_that_gives_another_sample_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    right = suite_data._by_tarfile
    monkeypatch.setattr(suite_data, "_by_tarfile", lambda tars: ((key + "x", wave) for key, wave in right(tars)))
    with pytest.raises(WrongResultError, match="bench-train-en-000000x where ours gives bench-train-en-000000"):
        suite_data.reading(count=2, max_s=0.1, repeats=1)
