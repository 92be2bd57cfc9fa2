"""The report over a made-up run folder."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bcaudio.evaluation.report import report, results_table, write_report
from bcaudio.evaluation.report_data import read_results, read_series, read_stages
from bcaudio.evaluation.report_examples import folded, same_words

EVIL = '<script src="https://example.org/x.js">alert("&")</script>'


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two stages, results, and examples of each kind; every text that comes from data carries markup."""
    run = tmp_path / "micro"
    write_json(
        run / "results.json",
        {
            "asr": {"en": {"wer": {"value": 0.0125, "counts": {"num_errors": 3, "num_words": 240}, "op": "<=", "bar": 0.05}}},
            "s2tt.en2zh.bleu": {"value": 61.5, "num_sentences": 120, "bar": ">= 70", "note": EVIL},
            "choice.text": {"value": 0.9, "counts": {"num_right": 9, "num_items": 10}},
        },
    )
    frozen = {"num_parameters": 3_000_000, "sha256_before": "ab" * 32, "sha256_after": "ab" * 32}
    write_json(
        run / "stage1" / "stage.json",
        {
            "status": "done",
            "wall_s": 125.4,
            "peak_memory_mb": 1234.5,
            "attempts": 2,
            "seed": 0,
            "git_commit": "0f3c2ab",
            "versions": {"torch": "2.13.0"},
            "trainable": {"num_parameters": 1_000_000, "patterns": ["audio_head\\..*"], "names_sample": [EVIL]},
            "frozen": frozen,
            "metrics": {"val/loss": 0.5},
            "gate": {"holds": True, "metric": "val/loss", "op": "<=", "value": 0.5, "bar": 1.0},
        },
    )
    write_json(run / "stage2" / "stage.json", {"status": "failed", "frozen": {**frozen, "sha256_after": "cd" * 32}})
    write_json(run / "stage2.stale-1" / "stage.json", {"status": "done"})
    logs = run / "stage1" / "logs" / "metrics.csv"
    logs.parent.mkdir()
    logs.write_text(
        "epoch,step,train/loss,val/loss,codebook/used_0,codebook/used_1\n"
        "0,0,4.0,,0.5,0.25\n0,10,2.0,,0.75,0.5\n0,10,,3.0,,\n0,10,1.0,,,\n0,20,nan,,,\n",
        encoding="utf-8",
    )
    examples = run / "evaluate" / "examples"
    examples.mkdir(parents=True)
    np.save(examples / "truth.npy", np.zeros((30, 8), dtype=np.float32))
    np.save(examples / "flow.npy", np.full((28, 8), 0.25, dtype=np.float32))
    soundfile.write(examples / "answer.wav", np.sin(np.arange(2400) / 10) * 0.5, 24000)
    (examples / "broken.wav").write_bytes(b"RIFF no sound")
    write_json(
        run / "evaluate" / "examples.json",
        {
            "mels": [
                {
                    "key": "numbers-test-en-000001",
                    "title": EVIL,
                    "panels": [
                        {"name": "ground truth", "file": "examples/truth.npy"},
                        {"name": "flow", "file": "examples/flow.npy"},
                        {"name": "refined", "file": "examples/gone.npy"},
                        {"name": "outside", "file": "../results.json"},
                    ],
                }
            ],
            "audio": [
                {
                    "key": "sums-test-en-000001",
                    "title": "a sum",
                    "text": EVIL,
                    "heard": "Seven.",
                    "expected": "seven",
                    "players": [
                        {"name": "spoken answer", "file": "examples/answer.wav"},
                        {"name": "question", "file": "examples/broken.wav"},
                    ],
                }
            ],
            "masks": [
                {
                    "task": "asr",
                    "key": "numbers-train-en-000017",
                    "tokens": [
                        {"text": "<audio_start>", "kind": "special", "paid": False, "num": 1},
                        {"text": "audio", "kind": "audio", "paid": False, "num": 37},
                        {"text": "one", "kind": "text", "paid": True, "num": 1},
                    ],
                }
            ],
        },
    )
    return run


class Page(HTMLParser):
    """Tags, addresses and open elements of a page."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)


def page_of(run: Path) -> str:
    return write_report(run, run / "evaluate", run / "report").read_text(encoding="utf-8")


def test_report_is_one_file_that_asks_no_server_for_anything(run_dir: Path) -> None:
    page = Page(page_of(run_dir))
    assert [path.name for path in (run_dir / "report").iterdir()] == ["index.html"]
    assert len(page.addresses) == 1 + 8 + 2 + 1  # icon, links to sections, spectrograms, sounds
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert page.tags.count("script") == 0
    assert page.open == []
    assert page.mismatched == []


def test_text_from_data_is_escaped_everywhere(run_dir: Path) -> None:
    text = page_of(run_dir)
    assert "<script" not in text
    assert text.count("&lt;script") == 4  # note, name of a tensor, title of a clip, what the model wrote


def test_results_show_counts_bars_and_whether_they_hold(run_dir: Path) -> None:
    rows = {row.key: row for row in read_results(run_dir)}
    assert rows["asr.en.wer"].holds is True  # 0.0125 <= 0.05, worked out since the file does not tell
    assert rows["asr.en.wer"].counts == "3 errors, 240 words"
    assert rows["s2tt.en2zh.bleu"].holds is False
    assert rows["s2tt.en2zh.bleu"].bar == ">= 70"
    assert rows["choice.text"].holds is None
    assert "<b>1 of 2</b><span>bars hold" in page_of(run_dir)


def test_results_show_intervals_and_how_many_items_failed(tmp_path: Path) -> None:
    entry = {"value": 0.5, "ci": [0.25, 0.75], "num_items": 8, "num_scored": 6, "num_failed": 2, "errors": 3}
    write_json(tmp_path / "results.json", {"results": {"asr.en.wer": entry, "x": {**entry, "num_scored": 8, "num_failed": 0}}})
    row, whole = read_results(tmp_path)
    assert (row.interval_text, row.items_text, row.counts) == ("0.2500 – 0.7500", "6 of 8 (2 failed)", "3 errors")
    assert whole.items_text == "8"
    text = page_of(tmp_path)
    assert text.count('6 of 8<br><span class="pill bad">✗ 2 failed</span>') == 1
    assert "<b>2</b><span>items failed, at most, in a result" in text
    assert "6 of 8" in results_table(tmp_path)


def test_a_measured_verdict_is_not_overruled(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"x": {"value": 1.0, "op": "<=", "bar": 2.0, "holds": False}})
    assert [row.holds for row in read_results(tmp_path)] == [False]


def test_results_table_is_aligned_plain_text(run_dir: Path) -> None:
    lines = results_table(str(run_dir)).splitlines()
    assert lines[0].split() == ["key", "value", "95", "%", "interval", "items", "counts", "bar", "holds"]
    assert lines[2].split() == ["asr.en.wer", "0.0125", "3", "errors,", "240", "words", "<=", "0.05", "yes"]
    assert lines[3].endswith("NO")
    assert lines[-1] == "1 of 2 bars hold"
    assert len({line.index(word) for line, word in zip(lines[2:4], ("3 errors", "120 sentences"), strict=True)}) == 1


def test_results_table_without_results_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json: no such file; the evaluate stage writes it"):
        results_table(tmp_path)


def test_frozen_bytes_that_changed_are_told(run_dir: Path) -> None:
    text = page_of(run_dir)
    assert re.search(r"✓ unchanged</span> <code class=\"muted\">abababab</code>", text)
    assert re.search(r"✗ CHANGED</span> <code class=\"muted\">abababab → cdcdcdcd</code>", text)
    assert "<b>1 of 2</b><span>stages kept their frozen bytes" in text
    assert "2 min 5 s" in text


def test_folders_set_aside_as_stale_are_no_stages(run_dir: Path) -> None:
    assert {stage.name for stage in read_stages(run_dir)} == {"stage1", "stage2"}


def test_series_skip_gaps_and_keep_the_last_value_of_a_step(run_dir: Path) -> None:
    series = read_series(run_dir / "stage1" / "logs" / "metrics.csv")
    assert series["train/loss"] == [(0.0, 4.0), (10.0, 1.0)]
    assert series["val/loss"] == [(10.0, 3.0)]


def test_missing_and_broken_examples_become_reasons(run_dir: Path) -> None:
    text = page_of(run_dir)
    assert "not available: examples/gone.npy is not in evaluate/" in text
    assert "not available: ../results.json lies outside evaluate/" in text
    assert "not available: broken.wav is no readable sound" in text
    assert "mean |difference| from ground truth 0.250" in text
    assert "✓ heard as expected" in text


def test_an_empty_run_gives_a_page_of_reasons(tmp_path: Path) -> None:
    (tmp_path / "micro").mkdir()
    text = page_of(tmp_path / "micro")
    assert text.count("not available: ") == 8  # one for every section
    assert "not available: results.json is not in micro/" in text


@pytest.mark.parametrize("name", ["results.json", "evaluate/examples.json", "stage1/stage.json", "stage1/logs/metrics.csv"])
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe\x00", b'"text"', b"null"])
def test_a_broken_file_never_stops_the_report(run_dir: Path, name: str, content: bytes) -> None:
    (run_dir / name).write_bytes(content)
    assert page_of(run_dir).rstrip().endswith("</html>")


def test_a_bar_named_by_another_result_tells_its_number(tmp_path: Path) -> None:
    entry = {"value": 0.94, "correct": 94, "total": 100, "bar": ">= aqa.text.accuracy - 0.02", "holds": True}
    content = {
        "results": {"retention.sft": entry, "aqa.text.accuracy": {"value": 0.95}},
        "bars": {"retention.sft": {"limit": 0.93}},
    }
    write_json(tmp_path / "results.json", {**content, "conditions": {"seed": 0}})
    row, other = read_results(tmp_path)
    assert (row.bar, row.counts, row.holds) == (">= aqa.text.accuracy - 0.02 = 0.93", "94 correct, 100 total", True)
    assert (other.bar, other.holds) == ("", None)


def test_report_command_names_what_is_wrong_in_its_recipe(run_dir: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "report.yaml"
    recipe.write_text("name: report\n", encoding="utf-8")
    with pytest.raises(ValueError, match="neither run_dir nor out is given"):
        report(str(recipe), [])
    recipe.write_text(f"name: report\nrun_dir: {tmp_path / 'none'}\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="none: no such folder; run the pipeline first"):
        report(str(recipe), [])
    recipe.write_text(f"name: report\nrundir: {run_dir}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rundir: unknown key.*run_dir"):
        report(str(recipe), [])


def test_report_command_reads_its_recipe(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "report.yaml"
    recipe.write_text(
        "name: report\nrun_dir: elsewhere\nout: ${run_dir}/report\ntakes: {evaluate: '${run_dir}/evaluate'}\n",
        encoding="utf-8",
    )
    assert report(str(recipe), [f"run_dir={run_dir}"]) == 0
    assert str(run_dir / "report" / "index.html") in capsys.readouterr().out
    assert json.loads((run_dir / "report" / "stage.json").read_text(encoding="utf-8"))["status"] == "done"


def test_neighbouring_audio_tokens_are_folded_only_where_pay_agrees() -> None:
    kinds = [("audio", False), ("audio", False), ("audio", True), ("text", True), ("text", True), ("audio", True)]
    tokens = [{"text": kind, "kind": kind, "paid": paid, "num": 2 if kind == "audio" else 1} for kind, paid in kinds]
    assert [(kind, paid, number) for _, kind, paid, number in folded(tokens)] == [
        ("audio", False, 4),
        ("audio", True, 2),
        ("text", True, 1),
        ("text", True, 1),
        ("audio", True, 2),
    ]


def test_heard_and_expected_agree_up_to_case_and_punctuation() -> None:
    assert same_words("Three plus four, seven.", "three plus four seven")
    assert same_words("三加四等于七。", "三加四等于七")
    assert not same_words("seven", "eleven")
