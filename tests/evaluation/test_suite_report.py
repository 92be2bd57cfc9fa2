"""The report of an evaluation over a made-up folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from bcaudio.evaluation.report_data import ResultRow
from bcaudio.evaluation.suite_report import write_suite_report
from bcaudio.evaluation.suite_report_tables import failed_table, kind_of, short_list

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    wer = {
        "value": 0.2,
        "ci": [0.1, 0.3],
        "num_items": 10,
        "num_scored": 8,
        "num_failed": 2,
        "errors": 4,
        "normalizer": "basic-1",
    }
    leaked = {"num": 1, "ids": ["u1"], "without": {"value": 0.25, "ci": [0.15, 0.35]}}
    content: dict[str, Any] = {
        "results": {
            "asr.en.wer": {**wer, "normalizers": {"basic-1": 0.2, "verbatim-1": 0.4}, "leaked": leaked, "bar": "<= 0.1"},
            "aqa.accuracy": {"value": 0.9, "num_items": 5, "num_scored": 5, "judge": {"name": "llm", "prompt": "sha256:ab"}},
            "not run: tts": {"value": None, "note": f"not run: {EVIL}"},
        },
        "not_run": {"tts": f"no data | {EVIL}"},
        "failed": {"asr": {"num": 2, "items": {"u3": f"bad {EVIL}", "u4": f"bad {EVIL}"}}},
        "published": {
            "asr.en.wer": [{"value": 0.05, "who": "Somebody", "where": "a paper", "conditions": "another normaliser"}],
            "asr.zh.cer": [{"value": 0.01, "who": EVIL}],
        },
        "conditions": {"model": "runs/x", "seed": 7},
    }
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def both(out: Path) -> tuple[str, str]:
    page = write_suite_report(out)
    assert page == out / "report" / "index.html"
    return page.read_text(encoding="utf-8"), (out / "results.md").read_text(encoding="utf-8")


def test_markup_from_data_is_text_in_both_files(out: Path) -> None:
    page, text = both(out)
    assert "<script" not in page
    assert "<script" not in text
    assert page.count("&lt;script&gt;") == 4  # two notes of what was not run, a reason, a name


def test_results_come_with_interval_and_items(out: Path) -> None:
    page, text = both(out)
    assert "| `asr.en.wer` | 0.2000 | 0.1000 – 0.3000 | 8 of 10 (2 failed) | 4 errors | &lt;= 0.1 | NO |" in text
    assert '8 of 10<br><span class="pill bad">✗ 2 failed</span>' in page
    assert "<b>2</b><span>items failed" in page


def test_published_figures_stand_beside_ours_as_theirs_even_where_we_have_none(out: Path) -> None:
    _, text = both(out)
    assert "| `asr.en.wer` | 0.2000 | 0.1000 – 0.3000 | 0.0500 | Somebody | a paper | another normaliser |" in text
    assert "| `asr.zh.cer` | – |  | 0.0100 | &lt;script&gt;alert(1)&lt;/script&gt; | not told | not told |" in text


def test_published_figures_are_read_from_the_recipe_where_results_have_none(out: Path) -> None:
    content = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (out / "results.json").write_text(json.dumps({**content, "published": {}}), encoding="utf-8")
    (out / "recipe.yaml").write_text("published: {aqa.accuracy: [{value: 0.5, who: Them}]}\n", encoding="utf-8")
    assert "| `aqa.accuracy` | 0.9000 |  | 0.5000 | Them | not told | not told |" in both(out)[1]


def test_normalisers_leaks_failures_stamps_and_what_was_not_run_are_told(out: Path) -> None:
    _, text = both(out)
    assert "| `asr.en.wer` | basic-1 | 0.2000 | 0.4000 |" in text
    assert "| `asr.en.wer` | 0.2000 | 1 | 0.2500 | 0.1500 – 0.3500 | u1 |" in text
    assert "| `asr` | 2 | bad &lt;script&gt;alert(1)&lt;/script&gt; | u3, u4 |" in text
    assert "| `judge` | name llm, prompt sha256:ab | aqa.accuracy |" in text
    assert r"| `tts` | no data \| &lt;script&gt;alert(1)&lt;/script&gt; |" in text


def test_a_diamond_marks_the_published_figure_in_the_chart(out: Path) -> None:
    page, _ = both(out)
    assert page.count('class="mark"') == 1
    assert page.count('class="whisker"') == 1


def test_empty_parts_say_so(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"results": {"x": {"value": 1.0}}}', encoding="utf-8")
    page, text = both(tmp_path)
    assert "no item failed." in page
    assert "No item failed." in text
    assert "The recipe names no published figures." in text


def test_without_results_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"results\.json is not in"):
        write_suite_report(tmp_path)


def test_many_reasons_and_ids_are_counted_not_dropped() -> None:
    table = failed_table({("asr", f"reason {n}"): ["a"] * (n + 1) for n in range(52)})
    assert table is not None
    assert len(table.rows) == 51
    assert table.rows[0][:3] == ["asr", "52", "reason 51"]
    assert table.rows[-1][1:3] == ["3", "2 more reasons; they are in outputs/*.jsonl"]  # those of 1 and 2 items
    assert short_list(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("tts.en.ground_truth_wer", "wer"),
        ("reconstruction.mel_mae.levels_8", "mae"),
        ("retention.text_accuracy.sft", "accuracy"),
        ("x.strange", "strange"),
    ],
)
def test_like_figures_share_a_chart(key: str, kind: str) -> None:
    assert kind_of(key) == kind


def test_a_row_without_counts_of_items_claims_none() -> None:
    assert ResultRow("x", 1.0, num_items=3).items_text == ""
