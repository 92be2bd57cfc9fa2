"""The curves of a stage that was cut off are kept, each step once."""

import csv
from pathlib import Path

import pytest

from bcaudio.training.metrics_log import join_metrics, set_metrics_aside


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def log(out: Path, text: str) -> None:
    (out / "logs" / "metrics.csv").write_text(text)


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "logs" / "metrics.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def names(out: Path) -> list[str]:
    return sorted(file.name for file in (out / "logs").iterdir())


def test_a_first_attempt_has_nothing_to_set_aside(tmp_path: Path) -> None:
    assert set_metrics_aside(tmp_path) == []


def test_of_an_attempt_only_the_steps_before_the_next_one_are_kept(out: Path) -> None:
    log(out, "step,loss\n0,9\n1,8\n2,7\n")
    earlier = set_metrics_aside(out)
    assert names(out) == ["metrics.attempt-0.csv"]
    log(out, "step,loss\n1,8.5\n2,7.5\n3,6\n")
    join_metrics(out, earlier)
    assert [(row["step"], row["loss"]) for row in rows(out)] == [("0", "9"), ("1", "8.5"), ("2", "7.5"), ("3", "6")]
    assert names(out) == ["metrics.csv"]


def test_columns_of_all_attempts_are_kept_and_a_value_not_logged_is_empty(out: Path) -> None:
    log(out, "step,loss\n0,9\n")
    earlier = set_metrics_aside(out)
    log(out, "val,step\n5,1\n")
    join_metrics(out, earlier)
    assert rows(out) == [{"loss": "9", "step": "0", "val": ""}, {"loss": "", "step": "1", "val": "5"}]


def test_an_attempt_that_logged_nothing_takes_nothing_away(out: Path) -> None:
    log(out, "step,loss\n0,9\n1,8\n")
    set_metrics_aside(out)
    log(out, "step,loss\n")
    earlier = set_metrics_aside(out)
    log(out, "step,loss\n2,7\n")
    join_metrics(out, earlier)
    assert [row["step"] for row in rows(out)] == ["0", "1", "2"]


def test_a_row_cut_off_while_it_was_written_is_left_out(out: Path) -> None:
    log(out, "loss,step\n9,0\n8")
    earlier = set_metrics_aside(out)
    log(out, "loss,step\n7,1\n")
    join_metrics(out, earlier)
    assert [(row["step"], row["loss"]) for row in rows(out)] == [("0", "9"), ("1", "7")]


def test_more_than_ten_attempts_stay_in_their_order(out: Path) -> None:
    for step in range(12):
        log(out, f"step,loss\n{step},{step}\n")
        earlier = set_metrics_aside(out)
    assert [file.name for file in earlier] == [f"metrics.attempt-{number}.csv" for number in range(12)]
    log(out, "step,loss\n12,12\n")
    join_metrics(out, earlier)
    assert [row["step"] for row in rows(out)] == [str(step) for step in range(13)]
