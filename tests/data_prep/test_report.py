"""The report over data folders made here: its numbers against the done-records, its sounds, its safety, its size."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bcaudio.audio.io import write_audio
from bcaudio.data.schema import Sample, Span
from data_prep import report as report_module
from data_prep import report_kept, report_sounds
from data_prep.__main__ import main
from data_prep.pipeline import Pipeline
from data_prep.report import report
from data_prep.report_flow import Ticker, read_flow
from data_prep.report_kept import tasks_for
from data_prep.utterance import Clip, Drops, Listing, Part, Utterance, Word

EVIL = '<script>alert("&")</script><img src=x onerror=alert(1)>'
RATE = 24_000


class Tones:
    """Ten tones of 1.0 to 1.9 s with markup in every text, one missing file and two texts without sound."""

    corpus, samples_per_shard, for_tokenizer = "tones", 4, False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        utterances = []
        for i in range(10):
            path = self.folder / f"{i}.wav"
            write_audio(path, 0.3 * np.sin(np.arange(RATE + 2400 * i) * 0.05).astype(np.float32), RATE)
            utterances.append(self._one(i, str(path), f"tone {i} {EVIL}", f"speaker{i % 3}{EVIL}"))
        utterances.append(self._one(10, str(self.folder / "nowhere.wav"), "gone", ""))
        utterances += [self._one(i, None, "only text", "") for i in (11, 12)]
        return Listing(utterances, {EVIL: 2})

    def _one(self, i: int, audio: str | None, text: str, speaker: str) -> Utterance:
        parts = (Part(text, "narrator"),)
        return Utterance(
            f"tones-train-en-{i:06d}", "tones", "train", "en", parts, text, speaker, source=EVIL, licence="CC0", audio=audio
        )


class Aligned:
    """Words of equal length and a measure for every clip with sound."""

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            step_s = clip.duration_s / 4
            words = tuple(Word(f"w{i}{EVIL}", i * step_s, (i + 1) * step_s) for i in range(4) if len(clip.waveform))
            yield dataclasses.replace(clip, words=words, measures={"snr_db": 10 * clip.duration_s, "remark": EVIL, EVIL: 1.0})


class FirstSecond:
    """Keeps the first second; the rest is dropped as `tail`. Loses `lose_s` more without a word."""

    def __init__(self, lose_s: float = 0.0) -> None:
        self.lose_s = lose_s

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if clip.duration_s > 1.0:
                drops.add(clip, self, "tail", None, clip.duration_s - 1.0)
            waveform = clip.waveform[: round((1.0 - self.lose_s) * RATE)]
            yield dataclasses.replace(clip, waveform=waveform, words=(), spans=())


class NoOdd:
    """A survey that calls clips with an odd number duplicates of the one before."""

    def look(self, clip: Clip) -> str:
        return clip.utterance.key

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        return {key: {"of": f"{key[:-1]}{int(key[-1]) - 1}"} for key, _ in seen if int(key[-1]) % 2 and key[-2] == "0"}

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        drops.add(clip, self, "duplicate audio", verdict)
        return None


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str, name: str = "") -> int:
        return sum(t == tag and name in (a.get("class") or "").split() if name else t == tag for t, a in self.tags)

    def cells(self, first: str) -> list[str]:
        """Cells of the table row that starts with this text; times are told in seconds."""
        rows = [
            re.findall(r'<td[^>]*?(?: title="([^"]*)")?>(.*?)</td>', row) for row in re.findall(r"<tr.*?>(.*?)</tr>", self.source)
        ]
        told = [[title or re.sub("<[^>]*>", "", text).strip() for title, text in row] for row in rows]
        return next(row for row in told if row and row[0].startswith(first))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    Pipeline([Tones(tmp_path)], [Aligned(), NoOdd(), FirstSecond()]).run(tmp_path / "out", 0)
    return tmp_path / "out"


def test_numbers_of_the_flow_are_those_of_the_records(out: Path) -> None:
    page = Page(report(out))
    # 10 tones of 1.0 .. 1.9 s are 14.5 s; 1.1 + 1.3 + 1.5 + 1.7 + 1.9 = 7.5 s are odd; of the other 7.0 s, 2.0 s are tails
    assert page.cells("open the recordings")[1:4] == ["13", "14.500 s", "0.000 s"]
    assert page.cells("not found")[1:4] == ["1", "", "0.000 s"]
    assert page.cells("Aligned")[1:4] == ["12", "14.500 s", "0.000 s"]
    assert page.cells("NoOdd")[1:4] == ["12", "14.500 s", "7.500 s"]
    assert page.cells("duplicate audio")[1:4] == ["5", "", "7.500 s"]
    assert page.cells("FirstSecond")[1:4] == ["7", "7.000 s", "2.000 s"]
    assert page.cells("shards")[1:3] == ["7", "5.000 s"]
    assert '<div class="card good"><b>0.000 s</b><span>unaccounted</span>' in page.source
    drops = [json.loads(line) for line in (out / "drops.jsonl").read_text().splitlines()]
    assert f"dropped, {len(drops)} notes" in page.text
    names = re.findall(r'<tr class="step"><td>([\w ]+?) <small', page.source)
    assert names == ["open the recordings and texts", "Aligned", "read back", "NoOdd", "FirstSecond"]


def test_tables_histograms_and_lists_tell_what_is_there(out: Path) -> None:
    page = Page(report(out))
    assert page.cells("en")[1:] == ["7", "5.000 s"]
    assert page.cells("CC0")[1:] == ["7", "5.000 s"]
    assert page.cells("none")[1:] == ["2", "0.000 s"]  # the speaker of the texts
    for name in ("duration, s", "speaking rate, units per s", "snr_db"):
        assert f'aria-label="histogram of {name}"' in page.source
    assert "remark" not in re.findall(r"histogram of (\w+)", page.source)
    assert page.cells("tones-train-en-000003")[1:3] == ["duplicate audio", "of tones-train-en-000002"]
    assert "5 duplicates" in page.text


def test_lost_seconds_are_told_in_red(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Pipeline([Tones(tmp_path)], [FirstSecond(lose_s=0.25), Aligned()]).run(out, 0)
    page = Page(report(out))
    assert '<div class="card bad"><b>2.500 s</b><span>unaccounted</span>' in page.source
    assert page.cells("FirstSecond")[-1] == "2.500 s"
    assert page.cells("Aligned")[-1] == "0.000 s"
    record = json.loads((out / "done" / "tones-train-000000.json").read_text())
    (out / "done" / "tones-train-000000.json").write_text(json.dumps({**record, "drops": record["drops"][1:]}))
    assert read_flow(out, 0, 5, Ticker()).lost_s == pytest.approx(2.5 + record["drops"][0]["duration_s"], abs=0.01)


def test_a_planned_clip_that_never_appears_is_told(out: Path) -> None:
    with open(out / "plan" / "tones-train-000001.jsonl", "a") as plan:
        plan.write("{}\n")
    assert "neither opened nor dropped" in Page(report(out)).text


def test_sound_made_by_a_step_is_no_loss(tmp_path: Path) -> None:
    class Twice:
        def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
            for clip in clips:
                yield dataclasses.replace(clip, waveform=np.tile(clip.waveform, 2), spans=())

    Pipeline([Tones(tmp_path)], [Twice(), Aligned()]).run(tmp_path / "out", 0)
    flow = read_flow(tmp_path / "out", 0, 5, Ticker())
    assert (flow.lost_s, flow.made_s) == (0.0, pytest.approx(14.5))


def test_two_steps_of_one_class_are_counted_apart(tmp_path: Path) -> None:
    Pipeline([Tones(tmp_path)], [Aligned(), FirstSecond(lose_s=0.25), FirstSecond(lose_s=0.25)]).run(tmp_path / "out", 0)
    flow = read_flow(tmp_path / "out", 0, 5, Ticker())
    assert [row.name for row in flow.rows] == ["open", "Aligned", "FirstSecond", "FirstSecond-2", "write"]
    lost = {row.name: row.lost_s for row in flow.rows if row.lost_s}
    assert lost == {"FirstSecond": pytest.approx(2.5)}  # what the first lost the second cannot lose again


def test_dropped_samples_play_and_show_their_words(out: Path) -> None:
    page = Page(report(out))
    dropped = page.source.split('<section id="dropped">')[1].split("</section>")[0]
    assert dropped.count("<audio") == 9  # five duplicates, four tails
    assert dropped.count("it cannot be opened: not found") == 1  # the missing file
    uri = re.search(r'src="data:audio/(\w+);base64,([^"]+)"', dropped)
    assert uri is not None
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(uri[2])))
    assert rate == RATE
    assert 1.0 <= len(sound) / RATE <= 1.9
    # a duplicate was aligned in the phase before: four words, each a quarter of the drawing
    card = dropped.split('<h3 class="mono">tones-train-en-000003</h3>')[1].split("</article>")[0]
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", card) == [(f"{25 * i:.2f}", "25.00") for i in range(4)]
    assert Page(report(out)).source == page.source  # the random samples are the same every time


def test_of_a_clip_that_was_too_long_its_seconds_are_told_and_its_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pipeline([Tones(tmp_path)], max_duration_s=1.75).run(tmp_path / "out", 0)
    monkeypatch.setattr(report_sounds, "MAX_CLIP_S", 0.5)
    page = Page(report(tmp_path / "out"))
    assert page.cells("too long")[1:4] == ["2", "", "3.700 s"]  # 1.8 + 1.9
    dropped = page.source.split('<section id="dropped">')[1].split("</section>")[0]
    assert sorted(re.findall(r"([\d.]+) s · the beginning of ([\d.]+) s", dropped)) == [("0.50", "1.80"), ("0.50", "1.90")]


def test_a_recording_of_the_scratch_folder_has_no_player_but_a_reason(tmp_path: Path) -> None:
    class Unpacked(Tones):
        def list_utterances(self, seed: int, scratch: Path) -> Listing:
            write_audio(scratch / "a.wav", np.full(RATE, 1e-6, np.float32), RATE)
            return Listing([self._one(0, "a.wav", "hardly a sound", ""), self._one(1, None, "a text", "")])

    Pipeline([Unpacked(tmp_path)]).run(tmp_path / "out", 0)
    page = Page(report(tmp_path / "out"))
    assert "its recording lay in the scratch folder of the run" in page.text
    assert page.count("audio") == 0


def test_a_child_of_a_clip_is_represented_by_its_parent(tmp_path: Path) -> None:
    class Child:
        def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
            for clip in clips:
                utterance = dataclasses.replace(clip.utterance, key=clip.utterance.key + "-001")
                drops.add(dataclasses.replace(clip, utterance=utterance), self, "too dull")
            yield from ()

    Pipeline([Tones(tmp_path)], [Child()]).run(tmp_path / "out", 0)
    page = Page(report(tmp_path / "out"))
    assert "the whole of tones-train-en-0000" in page.text
    assert page.count("audio") >= 3
    assert "the shards hold no sample" in page.text


def test_text_of_a_corpus_cannot_become_markup(out: Path) -> None:
    page = Page(report(out))
    assert page.count("script") == 0
    assert page.count("img") == 0
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "alert(1)" in page.text  # it is there, as text
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_inspector_shows_which_segments_pay(out: Path) -> None:
    inspector = Page(report(out)).source.split('<section id="inspector">')[1]
    assert re.findall(r"<h3>(\w+)</h3>", inspector) == ["asr", "text_repeat", "tts"]
    asr = inspector.split("<h3>asr</h3>")[1].split("</article>")[0]
    chips = re.findall(r'<span class="chip (k-\w+ \w+)"[^>]*>(.*?)</span>', asr)
    assert [kind for kind, _ in chips] == ["k-text unpaid", "k-audio unpaid", "k-text paid"]
    assert chips[0][1] == "transcribe:"
    assert chips[1][1].startswith("♪ 1 hear 0.00–1.00 s")
    tts = inspector.split("<h3>tts</h3>")[1].split("</article>")[0]
    assert re.findall(r'class="chip (k-\w+ \w+)"', tts) == ["k-text unpaid", "k-audio paid"]
    assert inspector.count("<audio") == 6


def test_samples_are_shown_under_the_tasks_they_are_shaped_for() -> None:
    def tasks(*roles: str, duration_s: float = 3.0, **fields: Any) -> tuple[str, ...]:
        spans = tuple(Span("a", i * duration_s / 9, (i + 1) * duration_s / 9, role) for i, role in enumerate(roles))
        return tasks_for(Sample("k", "c", "train", "en", "s", "a", spans, duration_s=duration_s, **fields))

    assert tasks("narrator") == ("asr", "tts")
    assert tasks("user", answer="four") == ("asr", "tts", "aqa")
    assert tasks("user", translation="a", target_language="zh") == ("asr", "tts", "s2tt")
    assert tasks("user", translation="a", target_language="fr") == ("asr", "tts")  # no prompt asks for French
    assert tasks("narrator", "narrator") == ("itts", "intlv")
    assert tasks("narrator", "narrator", measures={"interleave": "intlv_text_first"}) == ("intlv_text_first",)
    assert tasks("user", "assistant") == ("dialogue",)
    assert tasks("narrator", "right", "wrong") == ()
    assert tasks("narrator", "narrator", duration_s=0.0) == ("text_story",)
    assert tasks("narrator", duration_s=0.0, answer="four") == ("text_repeat", "text_answer")


def test_a_page_of_many_long_noisy_clips_stays_below_eight_megabytes(tmp_path: Path) -> None:
    class Noise(Tones):
        samples_per_shard = 500

        def list_utterances(self, seed: int, scratch: Path) -> Listing:
            path = tmp_path / "noise.wav"
            write_audio(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16 * RATE).astype(np.float32), RATE)
            return Listing([self._one(i, str(path), "word " * 90, "") for i in range(230)])

    class ManyReasons:
        def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
            for clip in clips:
                words = tuple(Word("word" * 3, 0.2 * i, 0.2 * i + 0.2) for i in range(99))
                number = int(clip.utterance.key[-6:])
                if number < 220:
                    drops.add(clip, self, f"reason {number % 44}", "x" * 5000)
                else:
                    yield dataclasses.replace(clip, words=words)

    Pipeline([Noise(tmp_path)], [ManyReasons()]).run(tmp_path / "out", 0)
    path = report(tmp_path / "out")
    assert path.stat().st_size < 8_000_000
    text = Page(path).text
    assert "4 rarer reasons are left out here" in text
    assert "14 more reasons" in text
    assert text.count("sound left out, the page has reached its size") > 100


def test_page_stays_small_and_says_what_is_left_out(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(out).stat().st_size < 1_000_000
    monkeypatch.setattr(report_module, "DROPPED_BYTES", 20_000)
    monkeypatch.setattr(report_sounds, "MAX_CLIP_S", 1.2)
    page = Page(report(out))
    dropped = page.source.split('<section id="dropped">')[1].split("</section>")[0]
    assert "sound left out, the page has reached its size" in dropped
    encoded = sum(len(base64.b64decode(uri)) for uri in re.findall(r'base64,([^"]+)"', dropped))
    assert 0 < encoded <= 20_000
    assert re.search(r"first 1\.2 s of 1\.[3-9]0 s", page.text)


def test_many_samples_are_read_by_every_nth_shard_and_that_is_said(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_kept, "MAX_SAMPLES", 3)
    assert "Read were 3 samples of 2 of the 4 shards" in Page(report(out)).text


def test_a_broken_shard_and_a_broken_record_are_told_and_the_page_is_made(out: Path) -> None:
    tar = out / "shards" / "tones-train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    (out / "done" / "tones-train-000001.json").write_text("{")
    text = Page(report(out)).text
    assert "tones-train-000000.tar: 1000 bytes on disk" in text
    assert "tones-train-000001.json: no readable done-record" in text


def test_command_writes_a_page_for_texts_without_a_drop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, recipe = tmp_path / "out", tmp_path / "tiny.yaml"
    assert main(["report", str(out)]) == 2
    assert "no data recipe has run here" in capsys.readouterr().err
    recipe.write_text(
        f"name: tiny\nseed: 0\nout: {out}\njob:\n  _target_: data_prep.pipeline.Pipeline\n  corpora:\n"
        "    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: text_numbers, train: 3, test: 1}\n"
    )
    assert main(["run", str(recipe)]) == 0
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report" / "index.html")
    page = Page(out / "report" / "index.html")
    assert page.cells("open the recordings")[1:3] == ["8", "0.000 s"]
    assert page.count("audio") == 0
    assert "nothing was dropped" in page.text
    assert "done · " in page.text


def test_long_work_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ticker = Ticker(every_s=0.0)
    ticker.tell("shard", 3, 4000)
    Ticker(every_s=60.0).tell("shard", 4, 4000)
    assert capsys.readouterr().err == "report: shard 3 of 4,000\n"
