"""The logic of the benchmarks, and every entry of the suite at tiny sizes: what is compared must agree, how fast is not asked."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import run, suite_model
from benchmarks.measure import (
    Disturbance,
    Row,
    WrongResultError,
    alternate,
    alternate_calmly,
    check_close,
    peak_growth,
    speedup,
    table,
)

GOOD = Row("a.fast", 1.0, 3.0, "s", 3.0, ">=", 2.0, "small")
BAD = Row("b.lean", 8.0, 10.0, "MiB", 0.8, "<=", 0.15, "smaller")


def allocate(mib: int) -> object:
    """For `peak_growth`: a step that holds `mib` MiB."""
    return lambda: torch.ones(mib, 2**18)


def test_a_bar_is_met_in_its_own_direction() -> None:
    assert (GOOD.holds, BAD.holds) == (True, False)
    assert not Row("c", 1, 1, "s", float("nan"), "<=", 1.0, "").holds
    assert speedup("d", ours_s=2.0, peer_s=5.0, bar=2.5, conditions="").ratio == 2.5


def test_the_table_names_every_row_with_bar_and_conditions() -> None:
    lines = table([GOOD, BAD]).splitlines()
    assert lines[2].split() == ["a.fast", "1", "3", "s", "3", ">=", "2", "yes"]
    assert lines[3].split() == ["b.lean", "8", "10", "MiB", "0.8", "<=", "0.15", "NO"]
    assert lines[-1] == "b.lean: smaller"


def test_ways_are_measured_in_turn() -> None:
    order: list[str] = []
    seconds = alternate(lambda: order.append("ours"), lambda: order.append("peer"), repeats=2, warm_up=False)
    assert order == ["ours", "peer", "ours", "peer"]
    assert len(seconds) == 2


@pytest.mark.parametrize(
    ("usage", "num_rounds", "note"),
    [
        ([0.0, 0.1, 0.0], 3, ""),
        # the second is repeated
        ([0.0, 0.9, 0.0, 0.0], 4, ""),
        ([0.9, 0.0, 0.8, 0.5, 0.9, 0.4], 6, "; DISTURBED: other processes used up to 0.50 cores"),
    ],
    ids=["calm", "once", "always"],
)
def test_disturbed_runs_are_repeated_and_the_calmest_count(
    usage: list[float], num_rounds: int, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, runs = iter([reading for cores in usage for reading in (cores, 0.0)]), []
    monkeypatch.setattr(Disturbance, "cores", lambda self: next(readings))
    ways = (lambda: runs.append(1), lambda: runs.append(2))
    assert alternate_calmly(*ways, repeats=3, warm_up=False)[1] == note
    assert runs == [1, 2] * num_rounds


def test_disturbance_is_the_work_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10.0, 100.0, 50.0), (20.0, 118.0, 60.0)])
    monkeypatch.setattr(Disturbance, "_now", lambda self: next(readings))
    # in 10 s the processors worked for 18 s, 10 of them for us
    assert Disturbance().cores() == pytest.approx(0.8)


def test_own_work_is_no_disturbance() -> None:
    _, busy, own = Disturbance._now()
    sum(range(20_000_000))
    _, later, own_later = Disturbance._now()
    assert own_later - own > 0.1
    assert later - busy > 0.8 * (own_later - own)


def test_results_that_differ_are_no_comparison() -> None:
    assert check_close("x", torch.tensor([1.0]), torch.tensor([1.25]), 0.25) == 0.25
    with pytest.raises(WrongResultError, match=r"codes: ours and the peer differ by 1, but at most 0"):
        check_close("codes", torch.tensor([3]), torch.tensor([4]), 0)
    with pytest.raises(WrongResultError, match="differ by nan"):
        check_close("x", torch.tensor([float("nan")]), torch.tensor([1.0]), 1.0)
    with pytest.raises(WrongResultError, match=r"shape \(1,\), the peer \(2,\)"):
        check_close("x", torch.zeros(1), torch.zeros(2), 0)


def failing() -> list[Row]:
    raise WrongResultError("codes: ours and the peer differ by 1")


@pytest.mark.parametrize(
    ("only", "code"), [(["good"], 0), (["bad"], 1), (["wrong"], 1), ([], 1), (["good", "better"], 2)], ids=str
)
def test_exit_code_and_json(
    only: list[str], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = {"good": lambda: [GOOD], "bad": lambda: [BAD], "wrong": failing}
    monkeypatch.setattr(run, "load_suite", lambda name: suite)
    file = tmp_path / "rows.json"
    threads = str(torch.get_num_threads())
    arguments = ["--suite", "x", "--json", str(file), "--threads", threads, *(["--only", *only] if only else [])]
    assert run.main(arguments) == code
    printed = capsys.readouterr()
    if code == 2:
        assert "--only better: not in this suite; entries: good, bad, wrong" in printed.err
        assert not file.exists()
        return
    names = [row["name"] for row in json.loads(file.read_text())]
    expected = {"good": "a.fast", "bad": "b.lean"}
    assert names == [expected[name] for name in only or suite if name in expected]
    assert ("wrong: WRONG RESULT: codes" in printed.out) == ("wrong" in (only or suite))


def test_json_rows_have_the_agreed_keys() -> None:
    assert list(BAD.as_dict()) == ["name", "ours", "peer", "unit", "ratio", "op", "bar", "holds", "conditions"]
    assert BAD.as_dict()["holds"] is False


def test_unknown_suites_and_folders_are_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    threads = ["--threads", str(torch.get_num_threads())]
    assert run.main(["--suite", "nothing", *threads]) == 2
    assert "there is no benchmarks/suite_nothing.py; suites: " in capsys.readouterr().err
    assert run.main(["--suite", "model", "--json", "/nowhere/rows.json", *threads]) == 2
    assert "--json /nowhere/rows.json: the folder does not exist" in capsys.readouterr().err


def test_peak_growth_sees_what_a_step_allocates() -> None:
    assert 95 < peak_growth("tests.test_benchmarks:allocate", mib=100) < 130
    with pytest.raises(RuntimeError, match="no_such_function"):
        peak_growth("tests.test_benchmarks:no_such_function")


def names(rows: list[Row]) -> list[str]:
    return [row.name.split(".")[0] + "." + row.unit for row in rows]


def test_encode_at_tiny_size() -> None:
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, "num_mels": 8, "codebook_sizes": (16, 8)}
    rows = suite_model.encode(clips_s=(1.0, 0.37), max_audio_s=2.0, repeats=1, **sizes)
    assert names(rows) == ["encode.clips/s", "encode.s", "encode.s"]
    assert rows[0].ratio == pytest.approx(rows[0].ours / rows[0].peer)
    assert rows[2].ratio < 1


def test_rvq_at_tiny_size() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    assert names(suite_model.rvq(64, 32, (16, 8, 8), repeats=1)) == ["rvq.s"]


def test_audio_head_at_tiny_size() -> None:
    assert names(suite_model.audio_head(64, 2, (16, 8, 8), head_dim=32, repeats=1)) == ["audio_head.s"]


def test_text_loss_at_tiny_size() -> None:
    rows = suite_model.text_loss(5000, 64, num_tokens=2048, timed_tokens=300, trained_tokens=16, repeats=1)
    assert names(rows) == ["text_loss.s", "text_loss.MiB"]
    # 2,048 x 5,000 logits are 39 MiB, kept at least twice by the plain loss
    assert rows[1].peer > 70


def test_packed_attention_at_tiny_size() -> None:
    rows = suite_model.packed_attention(128, 4, 4, 2, 16, repeats=1)
    assert names(rows) == ["packed_attention.s", "packed_attention.max diff"]
    assert rows[1].holds
    assert rows[1].peer > 0.1


def test_the_clips_are_those_of_the_bar() -> None:
    clips = suite_model.CLIPS_S
    assert (min(clips), max(clips)) == (1.0, 14.99)
    assert sum(clips) / len(clips) == pytest.approx(6.0)
