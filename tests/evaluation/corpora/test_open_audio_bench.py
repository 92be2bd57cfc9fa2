"""OpenAudioBench's five sets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.open_audio_bench import OpenAudioBench

WriteText = Callable[[str, str], Path]
Make = Callable[..., np.ndarray]


def place(write: WriteText, make_audio: Make, name: str, text: str, *audio: str) -> None:
    write(f"eval_datas/{name}/{name}.csv", text)
    for file in audio:
        make_audio(f"eval_datas/{name}/audios/{file}", 0.25)


def test_several_right_answers_as_each_set_writes_them(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    place(write, make_audio, "llama_questions", 'Questions,Answer,audio_filename\n"Who, me?","Yes, you",a.wav\n', "a.wav")
    place(write, make_audio, "web_questions", "question,answers,audio_filename\nwho?,Ann Lee; Bob,b.wav\n", "b.wav")
    trivia = (
        'question,answer_normalized_value,answer_normalized_aliases,audio_filename\nwhat?,jfk,"john kennedy, jfk,jack",c.wav\n'
    )
    place(write, make_audio, "trivia_qa", trivia, "c.wav")
    found = {name: OpenAudioBench(tmp_path, name).items("x")[0] for name in ("llama_questions", "web_questions", "trivia_qa")}
    assert {name: item.fields["references"] for name, item in found.items()} == {
        "llama_questions": ["Yes, you"], "web_questions": ["Ann Lee", "Bob"], "trivia_qa": ["jfk", "john kennedy", "jack"],
    }  # fmt: skip
    item = found["llama_questions"]
    assert (item.id, item.sample.text, item.sample.answer, item.problem) == ("llama_questions-00000", "Who, me?", "Yes, you", "")
    assert item.sample.spans[0].role == "user"
    assert len(item.waveform(16000)) == 4000


def test_open_ended_questions_have_no_reference_and_chinese_is_seen(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    place(write, make_audio, "alpaca_eval", "dataset,instruction,output,generator,audio_filename\nh,Sing!,la,x,0.mp3\n", "0.mp3")
    (item,) = OpenAudioBench(tmp_path, "alpaca_eval").items("x")
    assert (item.sample.text, item.sample.answer, item.problem, "references" in item.fields) == ("Sing!", None, "", False)
    assert len(item.waveform(16000)) > 3000
    place(write, make_audio, "reasoning_qa", "问题,参考答案,audio_filename\n一加一？,二,r.wav\nWhy?,so,r.wav\n", "r.wav")
    zh, en = OpenAudioBench(tmp_path, "reasoning_qa").items("x")
    assert (zh.sample.language, zh.fields["references"], en.sample.language) == ("zh", ["二"], "en")


def test_what_is_missing_is_said_per_item(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    text = "question,answers,audio_filename\nwho?,Ann,gone.wav\nwho?, ; ,b.wav\nwho?,Ann,\n"
    place(write, make_audio, "web_questions", text, "b.wav")
    problems = [item.problem for item in OpenAudioBench(tmp_path, "web_questions").items("x")]
    assert problems == [
        f"missing audio: {tmp_path}/eval_datas/web_questions/audios/gone.wav",
        "empty reference",
        "missing audio: its column is empty",
    ]


def test_other_columns_are_named_or_refused(write: WriteText, make_audio: Make, tmp_path: Path) -> None:
    place(write, make_audio, "reasoning_qa", "q,a,file\nWhy?,so,r.wav\n", "r.wav")
    with pytest.raises(ValueError, match=r"no column for the question .*, only q, a, file; name it under `columns`"):
        OpenAudioBench(tmp_path, "reasoning_qa").items("x")
    named = OpenAudioBench(tmp_path, "reasoning_qa", {"question": "q", "answer": "a", "audio": "file"}).items("x")
    assert (named[0].sample.text, named[0].sample.answer) == ("Why?", "so")
    with pytest.raises(ValueError, match="OpenAudioBench: name is 'squad'; known are llama_questions"):
        OpenAudioBench(tmp_path, "squad")
    with pytest.raises(ValueError, match="a key of columns is 'answers'"):
        OpenAudioBench(tmp_path, "trivia_qa", {"answers": "x"})
    with pytest.raises(FileNotFoundError, match=r"published at https://huggingface.co/datasets/baichuan-inc/OpenAudioBench"):
        OpenAudioBench(tmp_path, "trivia_qa").items("x")
