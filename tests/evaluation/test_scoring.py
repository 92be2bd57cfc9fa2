import json
import subprocess
import sys
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
from bcaudio.evaluation.benchmark import Item
from bcaudio.evaluation.scoring import score

TEXTS = [f"one two {word}" for word in ("three", "four", "five", "six", "seven", "eight")]


class Shouts:
    """Says what it hears in capitals, but `fuor` for four."""

    def answer_text(self, items: Sequence[Item], task: str) -> list[str]:
        return [item.sample.text.replace("four", "fuor").upper() for item in items]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A finished evaluation of six utterances, one of the eighteen words wrong; gives its folder."""
    monkeypatch.setattr(inferring, "build", lambda node, where="": Shouts())

    def make(training: Sequence[str] = (), **changes: Any) -> Path:
        for name, texts in (("numbers-test", TEXTS), ("numbers-train", training)):
            samples = [
                Sample(f"{name}-{i}", "numbers", name[8:], "en", "v", text, (Span(text, 0.0, 0.5, "user"),), duration_s=0.5)
                for i, text in enumerate(texts)
            ]
            tone = np.sin(np.arange(12000, dtype=np.float32))
            write_shards([(sample, tone) for sample in samples], tmp_path / "shards", name, 9, {})
        tars = f"{tmp_path}/shards/numbers-test-*.tar"
        content = {
            "name": "suite", "seed": 0, "threads": 1, "out": str(tmp_path / "out"),
            "system": {"_target_": "bcaudio.inference.load.system_of", "spec": "x"},
            "benchmarks": {"asr": {"_target_": "bcaudio.evaluation.asr.SpeechRecognition", "shards": tars, "language": "en"}},
            **changes,
        }  # fmt: skip
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        assert evaluate(str(path)) == 0
        return tmp_path / "out"

    return make


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["results"]


def test_a_result_has_value_interval_items_and_what_other_normalizers_would_have_given(out: Callable[..., Path]) -> None:
    folder = out()
    row = results(folder)["asr.en.wer"]
    assert row["value"] == pytest.approx(1 / 18)
    # in none of the resamples, or in at most three of six utterances for 97.5 % of them: 3 / 18
    assert row["ci"] == [0.0, pytest.approx(3 / 18)]
    assert (row["num_items"], row["num_scored"], row["num_failed"], row["normalizer"]) == (6, 6, 0, "basic-1")
    assert row["normalizers"]["verbatim-1"] == 1.0  # every word is in capitals
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert [(item["key"], item["id"]) for item in rows] == [("asr.en.wer", f"numbers-test-{i}") for i in range(6)]
    assert sum(item["row"][0] for item in rows) == 1


def test_scoring_again_gives_the_same_bytes_and_another_normalizer_goes_beside_them(
    out: Callable[..., Path], tmp_path: Path
) -> None:
    folder = out()
    before, items = (folder / "results.json").read_bytes(), (folder / "items.jsonl").read_bytes()
    assert score(folder) == 0
    assert (folder / "items.jsonl").read_bytes() == items
    assert json.loads(before) == json.loads((folder / "results.json").read_bytes())
    assert score(folder, normalizer="verbatim-1") == 0
    assert (folder / "results.json").read_bytes() == before
    other = results(folder / "scores" / "verbatim-1")["asr.en.wer"]
    assert (other["value"], other["normalizer"]) == (1.0, "verbatim-1")
    assert other["normalizers"]["basic-1"] == pytest.approx(1 / 18)
    assert (folder / "scores/verbatim-1/outputs/asr.jsonl").is_file()
    assert score(folder, to=tmp_path / "elsewhere") == 0
    assert results(tmp_path / "elsewhere") == results(folder)


def test_scoring_builds_no_system_and_loads_no_weights(out: Callable[..., Path]) -> None:
    folder = out()
    program = (
        "import sys, torch, safetensors.torch\n"
        "def refuse(*_, **__): raise AssertionError('weights are read')\n"
        "torch.nn.Module.load_state_dict = safetensors.torch.load_file = torch.load = refuse\n"
        "from bcaudio import cli\n"
        f"code = cli.main(['score', {str(folder)!r}])\n"
        "assert 'bcaudio.inference.system' not in sys.modules, 'the system is imported'\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "asr.en.wer" in done.stdout


def test_outputs_that_are_missing_torn_short_or_changed_are_refused_with_file_line_and_remedy(
    out: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    folder = out()
    file = folder / "outputs" / "asr.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"asr\.jsonl:6: cannot be read .*bcaudio evaluate"):
        score(folder)
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    with pytest.raises(ValueError, match=r"asr\.jsonl:4: ends after 4 of 6 items; delete .*asr\.done\.json"):
        score(folder)
    file.write_bytes(whole.replace(b"FUOR", b"FOUR"))
    with pytest.raises(ValueError, match=r"asr\.jsonl: was changed after"):
        score(folder)
    file.write_bytes(whole.replace(b'"id"', b'"name"', 1))
    with pytest.raises(ValueError, match=r"asr\.jsonl:1: lacks id"):
        score(folder)
    file.unlink()
    capsys.readouterr()
    assert cli.main(["score", str(folder)]) == 2
    assert "asr.jsonl: the outputs of asr are not there" in capsys.readouterr().err
    (folder / "outputs" / "asr.done.json").unlink()
    (folder / "outputs" / "asr.part-0123456789ab-0.jsonl").write_text("{}\n")
    with pytest.raises(FileNotFoundError, match="half-written"):
        score(folder)
    assert cli.main(["score", str(folder / "outputs")]) == 2
    assert "no recipe.yaml" in capsys.readouterr().err


def test_an_unknown_normalizer_is_one_clear_line(out: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    folder = out()
    capsys.readouterr()
    assert cli.main(["score", str(folder), "--normalizer", "basic-9"]) == 2
    assert "basic-9" in capsys.readouterr().err


def test_leaked_items_are_listed_and_the_score_is_given_without_them(out: Callable[..., Path], tmp_path: Path) -> None:
    folder = out(
        training=[TEXTS[1], "nine ten"],
        contamination={"training": [f"{tmp_path}/shards/numbers-train-*.tar"], "text_units": 3, "audio": False},
    )
    leaked = results(folder)["asr.en.wer"]["leaked"]
    assert (leaked["num"], leaked["ids"], leaked["without"]) == (1, ["numbers-test-1"], {"value": 0.0, "ci": [0.0, 0.0]})
    leaks = json.loads((folder / "leaks.json").read_text())["leaks"]
    assert leaks["asr"]["numbers-test-1"]["training_key"] == "numbers-train-0"
    assert score(folder) == 0
    assert results(folder)["asr.en.wer"]["leaked"] == leaked


def test_a_wrong_model_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = str(Path(__file__).parents[2] / "recipes" / "eval" / "micro.yaml")
    assert cli.main(["evaluate", recipe, "--model", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "empty").mkdir()
    assert cli.main(["evaluate", recipe, "--model", str(tmp_path / "empty")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "neither pipeline.yaml" in error
