"""The benchmarks of training at tiny sizes: what is compared must agree, how fast is not asked."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import suite_train


@pytest.mark.parametrize(
    ("entry", "names", "sizes"),
    [
        (
            suite_train.first_batch,
            ["first_batch.growth", "first_batch.seconds"],
            {"num_shards": 12, "samples_per_shard": 400, "late": 5000, "repeats": 1},
        ),
        (suite_train.data_time, ["data_time.counted", "data_time.packed"], {"steps": 6, "count": 60}),
        (suite_train.step, ["step.time"], {"steps": 4, "rows": 2, "count": 60, "repeats": 1}),
        (suite_train.export, ["export.seconds"], {"hidden": 128, "layers": 1, "repeats": 1}),
        (
            suite_train.fill,
            ["fill.4096", "fill.4096.ranks", "fill.8192", "fill.8192.ranks"],
            {"steps": 6},
        ),
    ],
    ids=["first_batch", "data_time", "step", "export", "fill"],
)
def test_entries_give_rows_with_bars(entry, names, sizes) -> None:
    rows = entry(**sizes)
    assert [row.name for row in rows] == names
    assert all(row.ratio > 0 and math.isfinite(row.ratio) and row.conditions for row in rows)
    assert all(row.holds for row in rows if row.name.startswith("fill"))
