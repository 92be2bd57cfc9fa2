"""Comparisons of evaluations that were scored for real from outputs made up by hand."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.audio.io import write_audio
from bcaudio.data.schema import Sample
from bcaudio.evaluation.compare import Evaluation, compare, find_evaluation, label_of
from bcaudio.evaluation.compare_page import ITEMS_SHOWN, marked, said
from bcaudio.evaluation.scoring import score

ASR = {"_target_": "bcaudio.evaluation.asr.SpeechRecognition", "language": "en", "shards": "nowhere/*.tar"}
AQA = {
    "_target_": "bcaudio.evaluation.question_answering.QuestionAnswering",
    "modes": ["text", "speech_to_speech"],
    "shards": "nowhere/*.tar",
}
REFERENCES = {"u1": "One two, three four.", "u2": "five six", "u3": "seven eight", "u4": "nine ten"}  # 10 words


def write_evaluation(folder: Path, outputs: Mapping[str, Sequence[Mapping[str, Any]]], **recipe: Any) -> Path:
    """An evaluation's folder with these outputs by benchmark, scored."""
    nodes = {"asr": ASR, "aqa": AQA}
    given = {"name": "x", "seed": 0, "benchmarks": {name: nodes[name] for name in outputs}}
    (folder / "outputs").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(json.dumps(given | recipe), encoding="utf-8")
    for name, lines in outputs.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "outputs" / f"{name}.jsonl").write_text(text, encoding="utf-8")
        mark = {"key": "k", "num_items": len({line["id"] for line in lines})}
        (folder / "outputs" / f"{name}.done.json").write_text(json.dumps(mark), encoding="utf-8")
    score(folder)
    return folder


def heard(**hypotheses: str | None) -> list[dict[str, Any]]:
    """Outputs of the recogniser; None is an item that failed."""
    return [
        {"id": id, "error": "gone"}
        if text is None
        else {"id": id, "language": "en", "reference": REFERENCES[id], "hypothesis": text}
        for id, text in hypotheses.items()
    ]


FIRST = heard(u1="one two three four", u2="five sex", u3="seven eight", u4="nine")  # 0 + 1 + 0 + 1 errors
SECOND = heard(u1="one two", u2="five six", u3="seven eight", u4="nine")  # 2 + 0 + 0 + 1


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_evaluation(tmp_path / "a", {"asr": FIRST}), write_evaluation(tmp_path / "b", {"asr": SECOND})


def compared(tmp_path: Path, *folders: Path) -> tuple[dict[str, Any], str, str]:
    """compare.json, compare.md and compare.html."""
    assert compare(folders, tmp_path / "to") == 0
    files = [(tmp_path / "to" / f"compare.{kind}").read_text(encoding="utf-8") for kind in ("json", "md", "html")]
    return json.loads(files[0]), files[1], files[2]


def test_values_difference_and_items_by_what_they_change(pair: tuple[Path, Path], tmp_path: Path) -> None:
    content, _, _ = compared(tmp_path, *pair)
    (found,) = content["results"]
    assert found["key"] == "asr.en.wer"
    assert found["values"] == pytest.approx([0.2, 0.3])
    assert found["difference"] == pytest.approx(0.1)
    assert found["low"] <= 0 <= found["high"]
    assert found["verdict"] == "no difference shown"
    assert (found["num_items"], found["left_out"], found["warnings"]) == (4, [0, 0], [])
    # u1 alone would make it 4/10, u2 1/10; u4 is wrong in the same way on both sides
    assert [item["id"] for item in found["items"]] == ["u1", "u2"]
    assert [item["influence"] for item in found["items"]] == pytest.approx([0.2, -0.1])
    assert [item["values"] for item in found["items"]] == [[0.0, 0.5], [0.5, 0.0]]


def test_only_common_items_are_compared_and_that_is_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_evaluation(tmp_path / "a", {"asr": FIRST})
    b = write_evaluation(tmp_path / "b", {"asr": heard(u1="one two", u2=None, u3="seven eight", u4="nine")})
    content, text, page = compared(tmp_path, a, b)
    (found,) = content["results"]
    assert (found["num_items"], found["left_out"]) == (3, [1, 0])
    assert found["values"] == pytest.approx([1 / 8, 3 / 8])
    warning = "other items: left out are 1 that only A has scored, 0 only B (asr.en.wer)"
    assert f"WARNING: {warning}" in capsys.readouterr().out
    assert f"⚠ {warning}" in page
    assert "other items: left out are 1" in text


def test_a_difference_that_every_item_shows_is_called_better_or_worse(tmp_path: Path) -> None:
    good = heard(**{id: text.lower() for id, text in REFERENCES.items()})
    bad = heard(u1="x x x x", u2="x x", u3="x x", u4="x x")
    a, b = write_evaluation(tmp_path / "a", {"asr": good}), write_evaluation(tmp_path / "b", {"asr": bad})
    content, _, _ = compared(tmp_path, a, b, a)
    first, same = content["results"]
    assert (first["pair"], first["difference"], first["verdict"]) == (["A", "B"], 1.0, "worse")
    assert first["p_value"] < 0.01
    assert (same["pair"], same["difference"], same["verdict"]) == (["A", "C"], 0.0, "no difference shown")
    assert same["items"] == []
    assert compared(tmp_path, b, a)[0]["results"][0]["verdict"] == "better"


def test_two_normalisers_are_compared_item_by_item_with_both_forms(tmp_path: Path) -> None:
    a = write_evaluation(tmp_path / "a", {"asr": FIRST})
    score(a, "verbatim-1", tmp_path / "verbatim")
    content, text, page = compared(tmp_path, a, tmp_path / "verbatim")
    (found,) = content["results"]
    assert found["values"] == pytest.approx([0.2, 0.5])  # "One", "two," and "four." differ as written
    assert [item["id"] for item in found["items"]] == ["u1"]
    assert found["warnings"] == ["another normalizer: basic-1 in A, verbatim-1 in B"]
    assert "  - A: one two three four → one two three four\n" in text
    assert "  - B: ~~One two,~~ **one two** three ~~four.~~ **four**" in text
    assert "<del>One two,</del> <ins>one two</ins> three <del>four.</del> <ins>four</ins>" in page


def test_a_normalised_form_stands_below_what_was_written(tmp_path: Path) -> None:
    a = write_evaluation(tmp_path / "a", {"asr": heard(u2="FIVE, seven", u3="seven eight")})
    b = write_evaluation(tmp_path / "b", {"asr": heard(u2="five six", u3="seven eight")})
    _, text, page = compared(tmp_path, a, b)
    assert "  - A: FIVE, seven → five ~~six~~ **seven**" in text
    assert '<div class="scored">five <del>six</del> <ins>seven</ins></div>' in page


def test_hypotheses_with_markup_are_harmless(tmp_path: Path) -> None:
    a = write_evaluation(tmp_path / "a", {"asr": heard(u2='<script>alert("x")</script> six', u3="seven eight")})
    b = write_evaluation(tmp_path / "b", {"asr": heard(u2="five six", u3="<b> `code` | eight")})
    _, text, page = compared(tmp_path, a, b)
    assert "<script" not in page + text
    assert "<b> `" not in page
    assert "&lt;script&gt;" in page
    assert "\\`code\\`" in text
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []


def test_sounds_of_input_and_answers_are_played_where_they_are(
    tmp_path: Path, shards: Callable[[list[Sample]], str], sample: Callable[..., Sample]
) -> None:
    tars = shards([sample("u2", "five six"), sample("u3", "seven eight")])
    outputs = heard(u2="five sex", u3="seven eight")
    recipe = {"benchmarks": {"asr": {**ASR, "shards": tars}}}
    a = write_evaluation(
        tmp_path / "a", {"asr": [{**out, "audio": f"outputs/asr.files/{out['id']}.flac"} for out in outputs]}, **recipe
    )
    b = write_evaluation(
        tmp_path / "b", {"asr": [{**out, "audio": "../secret.flac"} for out in heard(u2="five six", u3="ate")]}, **recipe
    )
    for path in (a / "outputs" / "asr.files" / "u2.flac", a / "outputs" / "asr.files" / "u3.flac", tmp_path / "secret.flac"):
        write_audio(path, np.full(2400, 0.25, np.float32), 24000)
    page = compared(tmp_path, a, b)[2]
    assert page.count('aria-label="input"') == 2
    assert page.count('aria-label="spoken by A"') == 2
    assert page.count('aria-label="spoken by B"') == 0
    assert page.count("../secret.flac lies outside b/") == 2


def test_the_same_outputs_scored_twice_play_their_answer_once(tmp_path: Path) -> None:
    out = {**heard(u1="one two three four")[0], "audio": "outputs/asr.files/u1.flac"}
    a = write_evaluation(tmp_path / "a", {"asr": [out]})
    write_audio(a / "outputs" / "asr.files" / "u1.flac", np.full(2400, 0.25, np.float32), 24000)
    score(a, "verbatim-1", tmp_path / "verbatim")
    page = compared(tmp_path, tmp_path / "verbatim", a)[2]
    assert page.count("<audio") == 1
    assert 'aria-label="spoken by A"' in page  # found behind the link that scoring anew leaves


def test_what_is_not_shown_is_counted(tmp_path: Path) -> None:
    def outputs(text: str) -> list[dict[str, Any]]:
        return [{"id": f"u{n:02}", "language": "en", "reference": "one", "hypothesis": text} for n in range(ITEMS_SHOWN + 3)]

    a = write_evaluation(tmp_path / "a", {"asr": outputs("one")})
    b = write_evaluation(tmp_path / "b", {"asr": outputs("two")})
    content, text, page = compared(tmp_path, a, b)
    assert len(content["results"][0]["items"]) == ITEMS_SHOWN + 3
    assert "3 more items differ; all are in compare.json." in text
    assert "3 more items differ" in page
    assert page.count('<article class="clip">') == ITEMS_SHOWN


def test_an_item_is_shown_in_the_mode_and_field_that_its_key_names(tmp_path: Path) -> None:
    base = {"id": "q1", "language": "en", "question": "?", "reference": "four", "references": ["four"]}
    modes = [
        {**base, "mode": "text", "hypothesis": "four"},
        {**base, "mode": "speech_to_speech", "hypothesis": "for", "text": "Four."},
    ]
    side = Evaluation("A", write_evaluation(tmp_path / "a", {"aqa": modes}))
    shown = {key: said(side, key, "q1").hypothesis for key in side.figures}
    assert shown == {
        "aqa.text.accuracy": "four",
        "aqa.speech_to_speech.accuracy": "for",
        "aqa.speech_to_speech.text_accuracy": "Four.",
    }


def test_marks_say_what_is_missing_and_what_is_new() -> None:
    assert marked(["a", "b", "c"], ["a", "x", "c", "d"], "en") == "a <del>b</del> <ins>x</ins> c <ins>d</ins>"
    assert marked(["a", "b"], [], "en") == "<del>a b</del>"
    assert marked([], ["a", "b"], "en") == "a b"
    assert marked(["<b>"], ["<i>"], "en") == "<del>&lt;b&gt;</del> <ins>&lt;i&gt;</ins>"
    assert marked(list("零一二"), list("零二"), "zh", "markdown") == "零 ~~一~~ 二"


def test_another_seed_and_results_of_one_side_are_noted(tmp_path: Path) -> None:
    aqa = [{"id": "q", "language": "en", "reference": "a", "mode": "text", "hypothesis": "a"}]
    a = write_evaluation(tmp_path / "a", {"asr": FIRST})
    b = write_evaluation(
        tmp_path / "b", {"asr": SECOND, "aqa": [*aqa, {**aqa[0], "mode": "speech_to_speech", "text": "a"}]}, seed=1
    )
    notes = compared(tmp_path, a, b)[0]["notes"]
    assert notes[0] == "seed 0 in A, 1 in B"
    assert notes[1].startswith("only in B: aqa.text.accuracy, aqa.speech_to_speech.accuracy")


def test_a_run_stands_for_its_one_evaluation(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(pair[0], run / "evaluations" / "suite")
    assert find_evaluation(run) == run / "evaluations" / "suite"
    assert find_evaluation(pair[0]) == pair[0]
    shutil.copytree(pair[1], run / "evaluate")
    with pytest.raises(ValueError, match=r"run: holds several evaluations; name one of .*evaluate.*suite"):
        find_evaluation(run)


def test_what_cannot_be_compared_is_refused_with_a_remedy(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 folder given; name two or more"):
        compare([pair[0]])
    with pytest.raises(FileNotFoundError, match="nothing: no evaluation here"):
        compare([pair[0], tmp_path / "nothing"])
    aqa = [{"id": "q", "language": "en", "reference": "a", "mode": mode, "hypothesis": "a", "text": "a"} for mode in AQA["modes"]]
    with pytest.raises(ValueError, match="no result in common"):
        compare([pair[0], write_evaluation(tmp_path / "c", {"aqa": aqa})])
    (pair[1] / "items.jsonl").write_text('{"key": 1\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"items\.jsonl:1: cannot be read; `bcaudio score .*b` writes it anew"):
        compare(pair)
    (pair[1] / "items.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"items\.jsonl: no such file; `bcaudio score .*b` writes it"):
        compare(pair)


def test_by_default_the_files_lie_in_the_last_folder(pair: tuple[Path, Path]) -> None:
    compare(pair)
    assert {path.name for path in (pair[1] / "compare").iterdir()} == {"compare.json", "compare.md", "compare.html"}


def test_labels_go_on_after_z() -> None:
    assert [label_of(n) for n in (0, 25, 26)] == ["A", "Z", "S27"]
