import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bcaudio import cli
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.evaluate import evaluate
from bcaudio.evaluation import inferring
from bcaudio.evaluation.benchmark import Item, ItemError, NotRunError
from bcaudio.evaluation.stored import OutputFiles
from tests.evaluation.openai_server import Asked, OpenAIServer

FORK = multiprocessing.get_context("fork")
NUM_ITEMS, BATCH = 24, 3


class Slow:
    """Repeats what every item says, drops the first word of every third, and writes down what it was asked.

    `bad` are ids it cannot hear; `breaks` one at which it breaks; `ends` a rank that ends at once.
    """

    def __init__(self, log: Path, pause_s: float = 0.0) -> None:
        self.description, self.log, self.pause_s = {"kind": "slow"}, log, pause_s
        self.bad: set[str] = set()
        self.breaks, self.ends, self.lacks = "", -1, False

    def answer_text(self, items: Sequence[Item], task: str) -> list[str]:
        ids = [item.id for item in items]
        if self.lacks:
            raise NotRunError("no ears")
        if int(os.environ.get("RANK", "0")) == self.ends:
            os._exit(3)
        if self.breaks in ids:
            raise KeyError("a tensor of another size")
        for id in ids:
            if id in self.bad:
                raise ItemError(id, "has no audio")
        time.sleep(self.pause_s)
        with self.log.open("a") as log:
            log.write(" ".join(ids) + "\n")
        words = [item.sample.text.split() for item in items]
        return [" ".join(said[int(id[-1]) % 3 == 0 :]) for id, said in zip(ids, words, strict=True)]

    def asked(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow(tmp_path / "asked.txt")
    monkeypatch.setattr(inferring, "build", lambda node, where="": slow)
    return slow


def write_items(folder: Path, keys: Sequence[str], prefix: str = "numbers-test") -> str:
    """Samples of 0.4 s, 0.6 s, 0.8 s, 0.4 s, ... and one to four words."""
    pairs = []
    for i, key in enumerate(keys):
        text, seconds = " ".join(["one", "two", "three", "four"][: 1 + i % 4]), 0.4 + 0.2 * (i % 3)
        sample = Sample(key, "numbers", "test", "en", "v", text, (Span(text, 0.0, seconds, "user"),), duration_s=seconds)
        pairs.append((sample, np.zeros(round(24000 * seconds), np.float32)))
    write_shards(pairs, folder, prefix, 100, {})
    return f"{folder}/*.tar"


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    tars = write_items(tmp_path / "shards", [f"item-{i:02d}" for i in range(NUM_ITEMS)])

    def write(out: str, **changes: Any) -> str:
        node = {"_target_": "bcaudio.evaluation.asr.SpeechRecognition", "shards": tars, "language": "en", "batch_size": BATCH}
        content = {"name": "suite", "seed": 0, "threads": 1, "out": str(tmp_path / out), "system": {"_target_": "bcaudio.x"}}
        content |= {
            "benchmarks": {"asr": node},
            "system": {"_target_": "bcaudio.inference.load.system_of", "spec": "x"},
            **changes,
        }
        path = tmp_path / f"{out}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return write


def outputs(folder: Path) -> bytes:
    return (folder / "outputs" / "asr.jsonl").read_bytes()


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())["results"]


def test_outputs_stand_in_item_order_and_batches_hold_items_of_like_length(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    evaluate(recipe("out"))
    said = [json.loads(line) for line in outputs(tmp_path / "out").splitlines()]
    assert [output["id"] for output in said] == [f"item-{i:02d}" for i in range(NUM_ITEMS)]
    assert [output["hypothesis"] for output in said[:4]] == ["", "one two", "one two three", "two three four"]
    lengths = [[round(0.4 + 0.2 * (int(id[-2:]) % 3), 1) for id in batch] for batch in system.asked()]
    assert [length for batch in lengths for length in batch] == [0.8] * 8 + [0.6] * 8 + [0.4] * 8
    assert all(len(batch) == BATCH for batch in lengths)
    assert sorted(path.name for path in (tmp_path / "out" / "outputs").iterdir()) == ["asr.done.json", "asr.jsonl"]


def test_five_kills_change_nothing_and_cost_at_most_the_batches_in_work(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    evaluate(recipe("whole"))
    system.log.unlink()
    system.pause_s = 0.1
    for kill in range(1, 6):
        child = FORK.Process(target=evaluate, args=(recipe("killed"),))
        child.start()
        deadline = time.monotonic() + 30
        while len(system.asked()) < kill and time.monotonic() < deadline and child.is_alive():
            time.sleep(0.005)
        time.sleep(0.01 * kill)  # in the middle of the next batch
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results.json").exists()
    evaluate(recipe("killed"))
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert NUM_ITEMS <= sum(map(len, system.asked())) <= NUM_ITEMS + 5 * BATCH


def _as_rank(rank: int, world: int, port: int, recipe: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    raise SystemExit(evaluate(recipe))


def run_ranks(world: int, recipe: str) -> list[int | None]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ranks = [FORK.Process(target=_as_rank, args=(rank, world, port, recipe)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    hanging = [process for process in ranks if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, "ranks hang"
    return [process.exitcode for process in ranks]


def test_one_two_and_three_ranks_give_identical_files_and_share_the_work(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    system.bad = {"item-05"}
    for world in (1, 2, 3):
        assert run_ranks(world, recipe(f"ranks{world}")) == [0] * world
        assert len(system.asked()) == 8
        system.log.unlink()
    for world in (2, 3):
        assert outputs(tmp_path / f"ranks{world}") == outputs(tmp_path / "ranks1")
        assert results(tmp_path / f"ranks{world}") == results(tmp_path / "ranks1")
        items = [(tmp_path / f"ranks{n}" / "items.jsonl").read_bytes() for n in (1, world)]
        assert items[0] == items[1]
    assert json.loads(outputs(tmp_path / "ranks1").splitlines()[5]) == {"id": "item-05", "error": "has no audio"}


def test_a_rank_that_ends_ends_all_and_another_number_of_ranks_goes_on(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    system.ends = 1
    started = time.monotonic()
    codes = run_ranks(3, recipe("out"))
    assert codes[1] == 3
    assert all(code != 0 for code in codes)
    assert time.monotonic() - started < 30
    asked = {id for batch in system.asked() for id in batch}
    assert 0 < len(asked) < NUM_ITEMS
    system.ends = -1
    system.log.unlink()
    assert run_ranks(2, recipe("out")) == [0, 0]
    assert asked.isdisjoint(id for batch in system.asked() for id in batch)
    evaluate(recipe("alone"))
    assert outputs(tmp_path / "out") == outputs(tmp_path / "alone")


def test_a_torn_last_line_is_cut_and_a_broken_one_before_it_is_named(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    evaluate(recipe("whole"))
    system.breaks = "item-00"  # among the shortest, so some batches before it
    with pytest.raises(RuntimeError, match=r"benchmarks\.asr: items .*item-00.*KeyError: 'a tensor of another size'"):
        evaluate(recipe("torn"))
    (part,) = OutputFiles(tmp_path / "torn", "asr").parts()
    kept = part.read_bytes()
    part.write_bytes(kept + b'{"items": ["item-00"], "outp')
    system.breaks = ""
    system.log.unlink()
    evaluate(recipe("torn"))
    assert outputs(tmp_path / "torn") == outputs(tmp_path / "whole")
    assert len(system.asked()) == 8 - kept.count(b"\n")

    system.breaks = "item-00"
    with pytest.raises(RuntimeError):
        evaluate(recipe("broken"))
    (part,) = OutputFiles(tmp_path / "broken", "asr").parts()
    part.write_bytes(b"{]\n" + part.read_bytes())
    with pytest.raises(ValueError, match=r"asr\.part-\w+-0\.jsonl:1: cannot be read .*delete the file"):
        evaluate(recipe("broken"))


def test_items_that_cannot_be_asked_are_left_out_and_said(
    recipe: Callable[..., str], system: Slow, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    system.bad = {"item-01", "item-04"}
    assert evaluate(recipe("out")) == 0
    row = results(tmp_path / "out")["asr.en.wer"]
    assert (row["num_items"], row["num_scored"], row["num_failed"]) == (24, 22, 2)
    assert json.loads((tmp_path / "out/results.json").read_text())["failed"]["asr"]["items"] == {
        "item-01": "has no audio",
        "item-04": "has no audio",
    }
    told = capsys.readouterr().out
    assert "22 of 24 items (2 failed)" in told
    assert "failed  asr: item-01: has no audio; item-04: has no audio" in told
    system.bad = {f"item-{i:02d}" for i in range(NUM_ITEMS)}
    evaluate(recipe("none"))
    assert results(tmp_path / "none")["asr"]["note"] == "all 24 items failed: has no audio"


def test_duplicate_ids_are_refused_before_anything_is_asked(recipe: Callable[..., str], system: Slow, tmp_path: Path) -> None:
    tars = [write_items(tmp_path / name, ["twin-1", f"single-{name}"], f"numbers-test-{name}") for name in ("a", "b")]
    path = Path(recipe("out"))
    content = yaml.safe_load(path.read_text())
    content["benchmarks"]["twins"] = {**content["benchmarks"]["asr"], "name": "twins", "shards": tars}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="twin-1"):
        evaluate(str(path))
    assert system.asked() == []


def test_a_system_that_lacks_a_part_is_reported_on_every_rank_and_the_others_go_on(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    system.lacks = True
    assert run_ranks(2, recipe("out")) == [1, 0]  # nothing else was to be asked
    assert json.loads((tmp_path / "out/results.json").read_text())["not_run"] == {"asr": "no ears"}


def test_other_items_under_the_same_recipe_are_asked_anew(recipe: Callable[..., str], system: Slow, tmp_path: Path) -> None:
    evaluate(recipe("out"))
    evaluate(recipe("out"))
    assert len(system.asked()) == 8
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    write_items(tmp_path / "shards", [f"item-{i:02d}" for i in range(NUM_ITEMS - 3)])
    evaluate(recipe("out"))
    assert len(system.asked()) == 8 + 7
    assert results(tmp_path / "out")["asr.en.wer"]["num_items"] == 21


def test_what_was_begun_is_gone_on_with_after_a_change_elsewhere_in_the_recipe(
    recipe: Callable[..., str], system: Slow, tmp_path: Path
) -> None:
    system.breaks = "item-00"
    with pytest.raises(RuntimeError):
        evaluate(recipe("out"))
    before, system.breaks = len(system.asked()), ""
    assert before
    evaluate(recipe("out", bars={"asr.en.wer": "<= 1"}))
    assert (tmp_path / "out.stale-1").is_dir()
    assert len(system.asked()) == 8


def test_an_endpoint_serves_as_model_and_as_judge_through_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    samples = []
    for i in range(4):
        span = Span(f"what is {i} plus one", 0.0, 0.5, "user")
        sample = Sample(f"sum-{i}", "sums", "test", "en", "v", span.text, (span,), answer=str(i + 1), duration_s=0.5)
        samples.append((sample, np.full(12000, 0.1 * (i + 1), np.float32)))
    write_shards(samples, tmp_path / "shards", "sums-test", 9, {})

    def answer(asked: Asked) -> str:
        if asked.body["model"] == "judge":
            wrong = "\n3\n" in asked.text.partition("<given-answer")[2]
            return f"REASON: read\nVERDICT: {'no' if wrong else 'yes'}"
        return "ready" if not asked.audio else str(round(float(asked.audio[0][0].mean()) * 10))

    with OpenAIServer(answer) as server:
        judge = {"_target_": "bcaudio.evaluation.judge.OpenAIJudge", "url": server.url, "model": "judge", "cache": "judged"}
        node = {"_target_": "bcaudio.evaluation.question_answering.QuestionAnswering", "modes": ["speech_to_text"]}
        node |= {"shards": "shards/*.tar", "judge": judge, "name": "sums"}
        (tmp_path / "sums.yaml").write_text(
            yaml.safe_dump({"name": "sums", "seed": 0, "out": "out", "benchmarks": {"sums": node}})
        )
        assert cli.main(["evaluate", "sums.yaml", "--model", f"openai:{server.url}#ears"]) == 0
        row = results(tmp_path / "out")["sums.speech_to_text.accuracy"]
        assert (row["value"], row["num_items"], row["num_failed"]) == (0.75, 4, 0)
        assert row["judge"]["model"] == "judge"
        said = [json.loads(line)["hypothesis"] for line in (tmp_path / "out/outputs/sums.jsonl").read_text().splitlines()]
        assert said == ["1", "2", "3", "4"]
        asked = len(server.asked)
        assert cli.main(["score", "out"]) == 0
        assert len(server.asked) == asked  # the judge's answers are kept
    assert results(tmp_path / "out")["sums.speech_to_text.accuracy"] == row
