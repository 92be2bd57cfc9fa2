"""Stories with a right and a wrong ending: Story Cloze as text, as TWIST speaks it, and as lists of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile

from bcaudio.audio.io import read_audio
from bcaudio.data.schema import Sample, Span
from bcaudio.evaluation.corpora.files import Listing, PublishedCorpus, Row, json_lines
from bcaudio.evaluation.corpora.multiple_choice_csv import csv_entries
from bcaudio.inference.item import Item

SENTENCES = [f"InputSentence{n}" for n in range(1, 5)]
QUIZZES = ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"]
WRONG_WORDS = re.compile("incorrect|wrong|neg|fake|false", re.IGNORECASE)


@dataclass(frozen=True)
class Joined:
    """Recordings one after the other: `paths` in the order of the sample's spans."""

    paths: tuple[Path, ...]

    def __call__(self, sample_rate: int) -> np.ndarray:
        """float32 [N] at `sample_rate` Hz; errors as `read_audio`."""
        return np.concatenate([read_audio(path, sample_rate) for path in self.paths])


class ChoiceCorpus(PublishedCorpus):
    """Items whose sample is a story (one span, or none) and its endings (one span each, of role `right` or `wrong`).

    A row has the fields `story`, `choices`, `right` (the right one's index) and `sounds` (a recording of the story, where there
    is one, and of each ending; empty for texts alone). The spans' times follow from the recordings' lengths, so the recordings'
    headers are read; their sound is read when it is asked for. Fields of an item: `choices`, `category` where there is one.
    """

    def _item(self, key: str, row: Row, there: Listing) -> Item:
        story, choices, right = row.fields["story"], row.fields["choices"], row.fields["right"]
        sounds = tuple(Path(sound) for sound in row.fields.get("sounds", ()))
        texts = [*([story] if story is not None else []), *choices]
        if sounds and len(sounds) != len(texts):
            raise ValueError(f"{row.where}: has {len(sounds)} recordings for {len(texts)} parts; give one each, or none")
        problem, lengths = row.problem, [0.0] * len(texts)
        missing = [sound for sound in sounds if not there.has(sound)]
        if missing:
            problem, sounds = problem or f"missing audio: {missing[0]}", ()
        try:
            lengths = [soundfile.info(sound).duration for sound in sounds] or lengths
        except (soundfile.SoundFileError, TypeError) as error:
            problem, sounds = problem or f"its audio cannot be read: {error}", ()
        ends = np.cumsum(lengths).tolist()
        roles = ["right" if i == right else "wrong" for i in range(len(choices))]
        roles = ["narrator"] * (len(texts) - len(choices)) + roles
        spans = tuple(
            Span(text, end - length, end, role) for text, length, end, role in zip(texts, lengths, ends, roles, strict=True)
        )
        sample = Sample(
            key=key,
            corpus=type(self).__name__,
            split=self.split,
            language=row.language,
            speaker="",
            text=" ".join(filter(None, texts)),
            spans=spans,
            source=self.title,
            duration_s=ends[-1],
        )
        kept = {name: row.fields[name] for name in ("choices", "category") if row.fields.get(name)}
        return Item(sample, Joined(sounds) if sounds else None, {"source_id": row.source_id, **kept}, problem)


@dataclass(frozen=True)
class StoryCloze(ChoiceCorpus):
    """The Story Cloze Test's own table (also of XStoryCloze, such as Chinese), with recordings where there are some.

    Columns: InputStoryid, InputSentence1 to 4, RandomFifthSentenceQuiz1 and 2, AnswerRightEnding (1 or 2). A tStoryCloze is the
    same table with other endings. Nobody publishes recordings that part the story from its endings, which S->T needs; such
    recordings lie as `AUDIO/ID-story.wav`, `AUDIO/ID-1.wav`, `AUDIO/ID-2.wav`, ID being the story's id.

    Args:
        path: a .csv, or a .tsv (XStoryCloze).
        language: of the stories.
        audio: folder of the recordings; None reads texts alone.
        suffix: of the recordings.
    """

    path: str | Path
    language: str = "en"
    audio: str | Path | None = None
    suffix: str = ".wav"

    title: ClassVar[str] = "Story Cloze Test"
    site: ClassVar[str] = (
        "https://cs.rochester.edu/nlp/rocstories (en) and https://huggingface.co/datasets/juletxara/xstory_cloze"
    )
    layout: ClassVar[str] = (
        "a table with the columns InputStoryid, InputSentence1, ..., RandomFifthSentenceQuiz1, ..., AnswerRightEnding"
    )

    def rows(self) -> Iterator[Row]:
        """In the order of the table."""
        path = self.require(self.path)
        folder = None if self.audio is None else self.require(self.audio)
        for where, entry in csv_entries(path, "\t" if path.suffix == ".tsv" else ","):
            if missing := [name for name in ("InputStoryid", *SENTENCES, *QUIZZES, "AnswerRightEnding") if name not in entry]:
                raise ValueError(f"{where}: has no column {missing[0]!r}; it must be {self.layout}")
            name, answer = entry["InputStoryid"], entry["AnswerRightEnding"].strip()
            if answer not in ("1", "2"):
                raise ValueError(f"{where}: AnswerRightEnding is {answer!r}, not 1 or 2; restore the file")
            fields: dict[str, Any] = {"story": _joined(self.language, [entry[column] for column in SENTENCES])}
            fields |= {"choices": [entry[column].strip() for column in QUIZZES], "right": int(answer) - 1}
            if folder is not None:
                fields["sounds"] = [folder / f"{name}-{part}{self.suffix}" for part in ("story", "1", "2")]
            yield Row(name, fields["story"], where, self.language, fields=fields)


@dataclass(frozen=True)
class SpokenStoryCloze(ChoiceCorpus):
    """sStoryCloze or tStoryCloze as TWIST publishes them: whole stories, spoken, a right and a wrong one each; no texts.

    The stories' context is in both recordings, so nothing is heard before them: only S->S can be asked. Files are numbered in
    front (`12_....wav`). Two files of one number are a pair, and the wrong one says so in its name (incorrect, wrong, neg, fake,
    false). Where every number comes once, an even number is a right story and the next odd one its wrong twin.

    Args:
        root: folder of the .wav files, in one or more folders.
        language: of the stories.
    """

    root: str | Path
    language: str = "en"

    title: ClassVar[str] = "Spoken Story Cloze (TWIST)"
    site: ClassVar[str] = "https://github.com/slp-rl/SpokenStoryCloze"
    layout: ClassVar[str] = "ROOT/0_....wav, ROOT/1_....wav, ... in pairs of a right and a wrong story"

    def rows(self) -> Iterator[Row]:
        """By number."""
        paths = sorted(self.require(self.root).rglob("*.wav"))
        numbers = [self._number(path) for path in paths]
        twins = len(set(numbers)) == len(numbers)
        groups: dict[int, list[Path]] = {}
        for number, path in sorted(zip(numbers, paths, strict=True)):
            groups.setdefault(number - number % 2 if twins else number, []).append(path)
        for number, group in groups.items():
            wrong = [path for path in group if WRONG_WORDS.search(path.stem)] or group[1:] * twins
            if len(group) != 2 or len(wrong) != 1:
                names = ", ".join(path.name for path in group)
                raise ValueError(f"{self.root}: {names}: not a right and a wrong story; they must lie as {self.layout}")
            sounds = [*(path for path in group if path not in wrong), *wrong]
            fields = {"story": None, "choices": ["", ""], "right": 0, "sounds": sounds}
            yield Row(str(number), "", str(group[0]), self.language, fields=fields)

    def _number(self, path: Path) -> int:
        found = re.match(r"\d+", path.name)
        if not found:
            raise ValueError(f"{path}: its name does not begin with a number; it must lie as {self.layout}")
        return int(found[0])


@dataclass(frozen=True)
class StructuredStoryCloze(ChoiceCorpus):
    """zh-sStoryCloze as `zh_storyCloze_structured.json`: the story and its endings in recordings of their own.

    The Baichuan-Audio paper's zh-sStoryCloze is not published; this is the layout in which a Chinese spoken Story Cloze is read
    elsewhere (VoiceAgentGroup/AudioCompass). A list of `{idx, prefix, correct_suffix, sSC_suffix, tSC_suffix}`, where each part
    is the name of a recording in the folder `idx` beside the list, or `{wav: name, text: words}`. S->T needs the words.

    Args:
        path: the list.
        topic: the wrong ending is that of tStoryCloze.
        language: of the stories.
    """

    path: str | Path
    topic: bool = False
    language: str = "zh"

    title: ClassVar[str] = "zh-StoryCloze, structured"
    site: ClassVar[str] = "https://github.com/VoiceAgentGroup/AudioCompass (its data are not public)"
    layout: ClassVar[str] = "ROOT/zh_storyCloze_structured.json beside ROOT/IDX/PREFIX.wav and its endings"

    def rows(self) -> Iterator[Row]:
        """In the order of the list."""
        path = self.require(self.path)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: is not JSON ({error}); restore the file") from error
        for number, entry in enumerate(entries):
            where = f"{path}: entry {number}"
            try:
                name = str(entry["idx"])
                parts = [entry[part] for part in ("prefix", "correct_suffix", "tSC_suffix" if self.topic else "sSC_suffix")]
                parts = [part if isinstance(part, dict) else {"wav": part} for part in parts]
                sounds, words = [path.parent / name / part["wav"] for part in parts], [part.get("text", "") for part in parts]
            except (KeyError, TypeError) as error:
                raise ValueError(f"{where}: lacks {error}; it must be {self.layout}") from error
            fields = {"story": words[0], "choices": words[1:], "right": 0, "sounds": sounds}
            yield Row(name, words[0], where, self.language, fields=fields)


@dataclass(frozen=True)
class ChoiceList(ChoiceCorpus):
    """A list of one's own as JSON lines: any number of endings, read or spoken; statements without a story, as sCMMLU has them.

    A line has `id`, `endings` (texts), `right` (index from 0), and may have `story` (a text; a statement has none), `language`,
    `category` and `sounds`: recordings of the story (if there is one) and of each ending, relative to the list.

    Args:
        path: the .jsonl.
        language: of lines that do not say theirs.
    """

    path: str | Path
    language: str = "en"

    title: ClassVar[str] = "list of choices"
    site: ClassVar[str] = "nowhere: it is your own list"
    layout: ClassVar[str] = 'lines of {"id": "a", "story": "...", "endings": ["...", "..."], "right": 0, "sounds": ["a.wav"]}'

    def rows(self) -> Iterator[Row]:
        """In the order of the list."""
        path = self.require(self.path)
        for where, entry in json_lines(path):
            endings, right = entry.get("endings"), entry.get("right")
            if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(text, str) for text in endings):
                raise ValueError(f"{where}: endings is {endings!r}; give at least two texts: {self.layout}")
            if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(endings):
                raise ValueError(f"{where}: right is {right!r}; give the index of the right ending, 0 to {len(endings) - 1}")
            if not entry.get("id") or not isinstance(entry["id"], str):
                raise ValueError(f"{where}: id is {entry.get('id')!r}; give every item a string of its own")
            sounds = [path.parent / sound for sound in entry.get("sounds", ())]
            fields = {"story": entry.get("story"), "choices": endings, "right": right, "sounds": sounds}
            fields["category"] = entry.get("category", "")
            yield Row(entry["id"], entry.get("story") or "", where, entry.get("language", self.language), fields=fields)


def _joined(language: str, sentences: Sequence[str]) -> str:
    return ("" if language == "zh" else " ").join(sentence.strip() for sentence in sentences)
