"""MMLU's and CMMLU's files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bcaudio.evaluation.corpora.multiple_choice_csv import MultipleChoiceCSV, csv_lines

WriteText = Callable[[str, str], Path]


def test_mmlu_has_no_header_and_names_its_part_in_the_file(write: WriteText, tmp_path: Path) -> None:
    write("val/law_val.csv", '"Is ""it"",\n\nso?",a,b,c,d,D\nWhy?, e ,f,g,h,a\n')
    write("dev/law_dev.csv", "S?,1,2,3,4,B\nT?,1,2,3,4,C\n")
    first, second = MultipleChoiceCSV(tmp_path, part="val", shots=2).items("x")
    assert (first.id, first.sample.text, first.sample.answer) == ("law-00000", 'Is "it",\n\nso?', "D")
    assert first.fields["right"] == 3
    assert first.fields["shots"][1] == {"question": "T?", "choices": ["1", "2", "3", "4"], "right": 2}
    assert (second.fields["choices"], second.fields["right"]) == (["e", "f", "g", "h"], 0)
    assert second.fields["category"] == "law"


def test_cmmlu_has_a_header_and_a_column_of_numbers(write: WriteText, tmp_path: Path) -> None:
    write("test/arts.csv", "\ufeff,Question,A,B,C,D,Answer\n0,画,一,二,三,四,B\n1,,一,二,三,四,B\n")
    first, second = MultipleChoiceCSV(tmp_path, "zh").items("x")
    assert (first.sample.text, first.fields["choices"], first.fields["right"]) == ("画", ["一", "二", "三", "四"], 1)
    assert (first.problem, second.problem) == ("", "empty question or choice")


def test_bad_lines_and_missing_files_are_named(write: WriteText, tmp_path: Path) -> None:
    write("test/law.csv", 'Q?,a,b,c,d,A\n"two\nlines",a,b,c,d,E\n')
    with pytest.raises(ValueError, match=r"law\.csv:2: the answer is 'E', not a letter from A to D"):
        MultipleChoiceCSV(tmp_path).items("x")
    write("test/law.csv", "Q?,a,b,c,d,A\nQ?,a,b,c,A\n")
    with pytest.raises(ValueError, match=r"law\.csv:2: has 5 columns"):
        MultipleChoiceCSV(tmp_path).items("x")
    write("test/law.csv", 'Q?,a,b,c,d,A\n"Q?,a,b,c,d,A\n')
    with pytest.raises(ValueError, match=r"law\.csv:2: is not CSV"):
        MultipleChoiceCSV(tmp_path).items("x")
    write("test/law.csv", "Q?,a,b,c,d,A\n")
    write("dev/law.csv", "Q?,a,b,c,d,A\n")
    with pytest.raises(ValueError, match="has 1 worked examples, 5 are asked for"):
        MultipleChoiceCSV(tmp_path, shots=5).items("x")
    with pytest.raises(FileNotFoundError, match=r"art\.csv: not there; .* published at https://github.com/hendrycks/test"):
        MultipleChoiceCSV(tmp_path, subjects=["art"]).items("x")
    with pytest.raises(FileNotFoundError, match="must lie as ROOT"):
        MultipleChoiceCSV(tmp_path, part="val").items("x")


def test_a_cell_over_several_lines_is_named_by_its_first(write: WriteText) -> None:
    lines = list(csv_lines(write("a.csv", 'x,"1\n2"\n\ny,3\n')))
    assert [(where.rsplit(":", 1)[1], cells) for where, cells in lines] == [("1", ["x", "1\n2"]), ("4", ["y", "3"])]
