"""Stories and endings in their published layouts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.choice import Choice
from bcaudio.evaluation.corpora.story_cloze import ChoiceList, SpokenStoryCloze, StoryCloze, StructuredStoryCloze
from bcaudio.inference.encoding import span_clips

Make = Callable[..., np.ndarray]
WriteText = Callable[[str, str], Path]
HEADER = "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
HEADER += "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
ROWS = 'a-1,Al ran.,"He fell, hard.",It hurt.,He sat.,He sang.,He cried.,2\nb-2,W.,X.,Y.,Z.,Right.,Wrong.,1\n'


def test_the_table_gives_story_and_endings_in_its_order(write: WriteText) -> None:
    items = StoryCloze(write("cloze.csv", HEADER + ROWS)).items("x")
    first = items[0].sample
    assert [item.id for item in items] == ["a-1", "b-2"]
    assert [(span.role, span.text) for span in first.spans] == [
        ("narrator", "Al ran. He fell, hard. It hurt. He sat."), ("wrong", "He sang."), ("right", "He cried."),
    ]  # fmt: skip
    assert (first.duration_s, items[0].audio, items[0].problem) == (0.0, None, "")
    assert items[0].fields["choices"] == ["He sang.", "He cried."]
    assert [span.role for span in items[1].sample.spans] == ["narrator", "right", "wrong"]


def test_a_chinese_table_is_tab_separated_and_joins_without_blanks(write: WriteText) -> None:
    text = (HEADER + "s,一。,二。,三。,四。,五。,六。,1\n").replace(",", "\t")
    (item,) = StoryCloze(write("cloze.tsv", text), language="zh").items("x")
    assert (item.sample.spans[0].text, item.sample.language) == ("一。二。三。四。", "zh")


def test_recordings_lie_one_after_the_other_at_the_times_of_the_spans(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    table = write("cloze.csv", HEADER + ROWS)
    story, wrong = make_audio("wav/a-1-story.wav", 0.5, 1), make_audio("wav/a-1-1.wav", 0.25, 2)
    right = make_audio("wav/a-1-2.wav", 0.75, 3, 8000)  # another sampling rate
    items = StoryCloze(table, audio=tmp_path / "wav").items("x")
    assert [(span.start_s, span.end_s) for span in items[0].sample.spans] == [(0.0, 0.5), (0.5, 0.75), (0.75, 1.5)]
    assert items[0].sample.duration_s == 1.5
    clips = span_clips(items[0])
    assert [len(clip) for clip in clips] == [8000, 4000, 12000]
    np.testing.assert_array_equal(clips[0], story)
    np.testing.assert_array_equal(clips[1], wrong)
    assert len(right) == 6000
    assert items[1].problem == f"missing audio: {tmp_path}/wav/b-2-story.wav"
    assert [item.problem[:7] for item in Choice(data=StoryCloze(table, audio=tmp_path / "wav"), modes=["speech"]).items()] == [
        "", "missing",
    ]  # fmt: skip


def test_a_broken_recording_is_one_bad_item(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    for part in ("story", "1", "2"):
        make_audio(f"wav/a-1-{part}.wav")
        make_audio(f"wav/b-2-{part}.wav")
    (tmp_path / "wav/a-1-1.wav").write_bytes(b"RIFF")
    items = StoryCloze(write("cloze.csv", HEADER + ROWS), audio=tmp_path / "wav").items("x")
    assert items[0].problem.startswith("its audio cannot be read")
    assert items[1].problem == ""


def test_bad_tables_are_refused_by_line(write: WriteText, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad\.csv:2: AnswerRightEnding is '3', not 1 or 2"):
        StoryCloze(write("bad.csv", HEADER + ROWS.replace(",2\n", ",3\n"))).items("x")
    with pytest.raises(ValueError, match="no column 'InputStoryid'"):
        StoryCloze(write("other.csv", "a,b\n1,2\n")).items("x")
    with pytest.raises(ValueError, match=r"short\.csv:3: has 7 columns, the header 8"):
        StoryCloze(write("short.csv", HEADER + ROWS.replace(",1\n", "\n"))).items("x")
    with pytest.raises(ValueError, match="ids come twice: 'a-1'"):
        StoryCloze(write("twice.csv", HEADER + ROWS.replace("b-2", "a-1"))).items("x")
    with pytest.raises(FileNotFoundError, match=r"published at https://cs.rochester.edu"):
        StoryCloze(tmp_path / "nowhere.csv").items("x")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["0_a.wav", "1_a.wav", "10_b.wav", "11_b.wav"], [("0_a.wav", "1_a.wav"), ("10_b.wav", "11_b.wav")]),
        (["2_correct.wav", "2_incorrect.wav"], [("2_correct.wav", "2_incorrect.wav")]),
        (["4_neg.wav", "4_pos.wav", "3_neg.wav", "3_pos.wav"], [("3_pos.wav", "3_neg.wav"), ("4_pos.wav", "4_neg.wav")]),
    ],
)
def test_whole_spoken_stories_come_in_pairs(
    names: list[str], pairs: list[tuple[str, str]], make_audio: Make, tmp_path: Path
) -> None:
    for name in names:
        make_audio(f"sSC/{name}", 0.25)
    items = Choice(data=SpokenStoryCloze(tmp_path / "sSC"), modes=["speech_to_speech"]).items()
    assert [tuple(path.name for path in item.audio.paths) for item in items] == pairs  # type: ignore[union-attr]
    assert all([span.role for span in item.sample.spans] == ["right", "wrong"] for item in items)
    assert not any(item.problem for item in items)
    with pytest.raises(ValueError, match="mode speech reads the endings, but their text is not given"):
        Choice(data=SpokenStoryCloze(tmp_path / "sSC"), modes=["speech"]).items()


@pytest.mark.parametrize("names", [["0_a.wav", "1_a.wav", "2_a.wav"], ["5_a.wav", "5_b.wav"], ["1_neg.wav", "1_wrong.wav"]])
def test_a_story_without_its_twin_is_refused(names: list[str], make_audio: Make, tmp_path: Path) -> None:
    for name in names:
        make_audio(f"sSC/{name}", 0.25)
    with pytest.raises(ValueError, match="not a right and a wrong story"):
        SpokenStoryCloze(tmp_path / "sSC").items("x")


def test_the_structured_list_takes_the_ending_of_its_kind(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    entry = {"idx": "7", "prefix": "p.wav", "correct_suffix": {"wav": "c.wav", "text": "对"}}
    entry |= {"sSC_suffix": {"wav": "s.wav", "text": "错"}, "tSC_suffix": "t.wav"}
    path = write("zh/zh_storyCloze_structured.json", json.dumps([entry]))
    for name in "pcst":
        make_audio(f"zh/7/{name}.wav", 0.25)
    (item,), (topic,) = StructuredStoryCloze(path).items("x"), StructuredStoryCloze(path, topic=True).items("x")
    assert [(span.role, span.text) for span in item.sample.spans] == [("narrator", ""), ("right", "对"), ("wrong", "错")]
    assert [sound.name for sound in topic.audio.paths] == ["p.wav", "c.wav", "t.wav"]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="entry 0: lacks 'prefix'"):
        StructuredStoryCloze(write("zh/bad.json", '[{"idx": "7"}]')).items("x")


def test_a_list_of_ones_own_has_any_number_of_endings(write: WriteText, make_audio: Make) -> None:
    make_audio("q.wav"), make_audio("r.wav"), make_audio("s.wav")
    lines = [
        {"id": "a", "story": "Q?", "endings": ["x", "y"], "right": 1, "sounds": ["q.wav", "r.wav", "s.wav"], "category": "law"},
        {"id": "b", "endings": ["x y", "x z", "x w"], "right": 2, "language": "zh"},
    ]
    path = write("own.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    first, second = ChoiceList(path).items("x")
    assert [span.end_s for span in first.sample.spans] == [0.5, 1.0, 1.5]
    assert first.fields["category"] == "law"
    assert [span.role for span in second.sample.spans] == ["wrong", "wrong", "right"]
    assert (second.sample.language, second.audio) == ("zh", None)
    for wrong, message in (
        ({"right": 2}, "right is 2; give the index of the right ending, 0 to 1"),
        ({"endings": ["x"]}, "give at least two texts"),
        ({"id": 5}, "id is 5"),
        ({"sounds": ["q.wav"]}, "has 1 recordings for 3 parts"),
    ):
        with pytest.raises(ValueError, match=message):
            ChoiceList(write("bad.jsonl", json.dumps({**lines[0], **wrong}) + "\n")).items("x")
