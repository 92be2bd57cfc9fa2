"""The micro world: numbers, sums and small stories in English and Chinese, with exact translations and answers.

Everything is generated from seeded rules: a vocabulary of some sixty English words and fifty hanzi, small enough that models
trained for minutes can be right about it. What is held out for test is decided by a hash of the meaning, so no number string (of
two or more numbers) and no story of the test split ever occurs in a training text, in either language or in any corpus.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources.timbres import NARRATORS, TEST_TIMBRES, TRAIN_TIMBRES
from data_prep.utterance import Listing, Part, Timbre, Utterance

LANGUAGES = ("en", "zh")
LICENCE = "generated, no rights reserved (CC0)"
_ONES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_HANZI = "零一二三四五六七八九"
_NAMES = {"en": ("tom", "anna", "mia", "leo"), "zh": ("汤姆", "安娜", "米娅", "里奥")}
_OBJECTS = {
    "en": (("apple", "apples"), ("ball", "balls"), ("book", "books"), ("cup", "cups")),
    "zh": (("个", "苹果"), ("个", "球"), ("本", "书"), ("个", "杯子")),
}
_HELD_OUT = 8  # one meaning in eight belongs to the test split


def number_words(number: int, language: str) -> str:
    """0..99 spelled out: 23 -> "twenty three" or "二十三"."""
    if not 0 <= number <= 99:
        raise ValueError(f"number_words: {number} is outside 0..99")
    tens, ones = divmod(number, 10)
    if language == "zh":
        if tens == 0:
            return _HANZI[ones]
        return ("" if tens == 1 else _HANZI[tens]) + "十" + ("" if ones == 0 else _HANZI[ones])
    if number < 20:
        return _ONES[number]
    return _TENS[tens - 2] + ("" if ones == 0 else " " + _ONES[ones])


_SINGLE_NUMBERS = frozenset(number_words(number, "zh") for number in range(100))


def number_string(numbers: tuple[int, ...], language: str) -> str:
    """(23, 4) -> "twenty three, four" or "二十三，四"."""
    return (", " if language == "en" else "，").join(number_words(number, language) for number in numbers)


def sum_question(a: int, b: int, language: str) -> str:
    """ "what is three plus four" or "三加四等于几"."""
    left, right = number_words(a, language), number_words(b, language)
    return f"what is {left} plus {right}" if language == "en" else f"{left}加{right}等于几"


def sum_statement(a: int, b: int, language: str) -> str:
    """ "three plus four is seven." or "三加四等于七。"."""
    left, right, total = (number_words(number, language) for number in (a, b, a + b))
    return f"{left} plus {right} is {total}." if language == "en" else f"{left}加{right}等于{total}。"


@dataclass(frozen=True)
class Story:
    """Facts about one kind of object; the ending is the result of the steps.

    Args:
        item: index of the object.
        start: (person, count) of everyone who owns some at the start.
        steps: (verb, person, count, receiver or -1), verb one of buys, loses, gives.
        asked: the person of the last sentence, or -1 for "together".
    """

    item: int
    start: tuple[tuple[int, int], ...]
    steps: tuple[tuple[str, int, int, int], ...]
    asked: int

    def result(self) -> int:
        """The number the last sentence must name."""
        owned = dict(self.start)
        for verb, person, count, receiver in self.steps:
            owned[person] += count if verb == "buys" else -count
            if verb == "gives":
                owned[receiver] += count
        return sum(owned.values()) if self.asked < 0 else owned[self.asked]

    def sentences(self, language: str) -> list[str]:
        """All sentences but the last."""
        owners = [self._has(person, count, language) for person, count in self.start]
        return owners + [self._step(step, language) for step in self.steps]

    def ending(self, number: int, language: str) -> str:
        """The last sentence, naming `number` (true for `result()`)."""
        things = self._things(number, language)
        if self.asked < 0:
            return f"together they have {things}." if language == "en" else f"他们一共有{things}。"
        name = _NAMES[language][self.asked]
        return f"now {name} has {things}." if language == "en" else f"现在{name}有{things}。"

    def _things(self, number: int, language: str, more: str = "") -> str:
        first, second = _OBJECTS[language][self.item]
        if language == "zh":
            return ("两" if number == 2 else number_words(number, "zh")) + first + second
        return f"{number_words(number, 'en')} {more}{first if number == 1 else second}"

    def _has(self, person: int, count: int, language: str) -> str:
        name, things = _NAMES[language][person], self._things(count, language)
        return f"{name} has {things}." if language == "en" else f"{name}有{things}。"

    def _step(self, step: tuple[str, int, int, int], language: str) -> str:
        verb, person, count, receiver = step
        name, things = _NAMES[language][person], self._things(count, language)
        eats = verb == "loses" and self.item == 0  # apples are eaten
        if language == "zh":
            if verb == "gives":
                return f"{name}给{_NAMES['zh'][receiver]}{things}。"
            return name + {"buys": "又买了", "loses": "吃了" if eats else "丢了"}[verb] + things + "。"
        if verb == "gives":
            return f"{name} gives {things} to {_NAMES['en'][receiver]}."
        if verb == "buys":
            return f"{name} buys {self._things(count, language, 'more ')}."
        return f"{name} {'eats' if eats else 'loses'} {things}."


def held_out(meaning: object) -> bool:
    """Whether a meaning (a string of numbers, a Story) falls to the test split."""
    return hashlib.sha256(repr(meaning).encode()).digest()[0] % _HELD_OUT == 0


def is_test_string(numbers: tuple[int, ...]) -> bool:
    """Whether a string of two or more numbers belongs to the test split.

    Decided by its hanzi without commas: scoring drops punctuation, and (20, 3, 5) then reads like (23, 5), in Chinese (2, 10)
    like 20. What reads like a single number stays in training, where all single numbers are.
    """
    spoken = "".join(number_words(number, "zh") for number in numbers)
    return held_out(spoken) and spoken not in _SINGLE_NUMBERS


def draw_numbers(rng: random.Random, split: str) -> tuple[int, ...]:
    """1 to 4 numbers 0..99. Strings of two or more belong to one split only."""
    while True:
        numbers = tuple(rng.randrange(100) for _ in range(rng.choices((1, 2, 3, 4), (3, 4, 3, 2))[0]))
        if len(numbers) == 1 or is_test_string(numbers) == (split == "test"):
            return numbers


def draw_story(rng: random.Random, split: str) -> Story:
    """A story of three to five sentences whose counts stay within 1..18; it belongs to one split only."""
    while True:
        story = _try_story(rng)
        if story is not None and held_out(story) == (split == "test"):
            return story


def _try_story(rng: random.Random) -> Story | None:
    people = rng.sample(range(4), rng.choice((1, 2, 2)))
    owned = {person: rng.randint(1, 9) for person in people}
    start = tuple(owned.items())
    steps = []
    for _ in range(rng.randint(2 - len(people), 4 - len(people))):
        verb = rng.choice(("buys", "loses", "gives") if len(people) == 2 else ("buys", "loses"))
        person = rng.choice(people)
        if verb != "buys" and owned[person] < 2:
            return None
        count = rng.randint(1, 9) if verb == "buys" else rng.randint(1, owned[person] - 1)
        receiver = next(p for p in people if p != person) if verb == "gives" else -1
        owned[person] += count if verb == "buys" else -count
        if receiver >= 0:
            owned[receiver] += count
        if max(owned.values()) > 18:
            return None
        steps.append((verb, person, count, receiver))
    touched = [p for p in people if any(p in (s[1], s[3]) for s in steps)]  # asking for an untouched count is no inference
    asked = rng.choice(touched + ([-1] if len(people) == 2 else []))
    story = Story(rng.randrange(4), start, tuple(steps), asked)
    return story if story.result() <= 18 else None


@dataclass(frozen=True)
class Draft:
    """Words without voices: spans as (text, role), and what belongs to them."""

    spans: tuple[tuple[str, str], ...]
    translation: str | None = None
    answer: str | None = None


def join(texts: list[str], language: str) -> str:
    """Sentences into one text: with spaces in English, without in Chinese."""
    return (" " if language == "en" else "").join(texts)


def _other(language: str) -> str:
    return "zh" if language == "en" else "en"


def numbers_draft(rng: random.Random, split: str, language: str, fact: int) -> Draft:
    """A string of numbers."""
    numbers = draw_numbers(rng, split)
    return Draft(((number_string(numbers, language), "user"),), number_string(numbers, _other(language)))


def sums_draft(rng: random.Random, split: str, language: str, fact: int) -> Draft:
    """A question; `fact` 0..99 names the operands, so that counting up covers all of them."""
    a, b = divmod(fact, 10)
    question = sum_question(a, b, language)
    return Draft(((question, "user"),), sum_question(a, b, _other(language)), number_words(a + b, language))


def dialogue_draft(rng: random.Random, split: str, language: str, fact: int) -> Draft:
    """A question and its spoken answer."""
    question = sums_draft(rng, split, language, fact)
    return Draft((*question.spans, (question.answer or "", "assistant")), None, question.answer)


def stories_draft(rng: random.Random, split: str, language: str, fact: int) -> Draft:
    """A story, one span per sentence."""
    story = draw_story(rng, split)
    told = {lang: [*story.sentences(lang), story.ending(story.result(), lang)] for lang in LANGUAGES}
    other = _other(language)
    return Draft(tuple((sentence, "narrator") for sentence in told[language]), join(told[other], other))


def choice_draft(rng: random.Random, split: str, language: str, fact: int) -> Draft:
    """A story with its right ending and a wrong one that names another number."""
    story = draw_story(rng, split)
    right = story.result()
    wrong = rng.choice([n for n in range(1, 19) if n != right and abs(n - right) <= 4])
    endings = ((story.ending(right, language), "right"), (story.ending(wrong, language), "wrong"))
    return Draft((*((sentence, "narrator") for sentence in story.sentences(language)), *endings))


def narration_draft(rng: random.Random, split: str, language: str, fact: int) -> Draft:
    """A text to be spoken by the narrator: numbers, a sum or a sentence of a story."""
    kind = rng.randrange(3)
    if kind == 0:
        numbers = draw_numbers(rng, split)
        texts = {lang: number_string(numbers, lang) for lang in LANGUAGES}
    elif kind == 1:
        texts = {lang: sum_statement(*divmod(fact, 10), lang) for lang in LANGUAGES}
    else:
        story = draw_story(rng, split)
        told = {lang: [*story.sentences(lang), story.ending(story.result(), lang)] for lang in LANGUAGES}
        chosen = rng.randrange(len(told["en"]))
        texts = {lang: told[lang][chosen] for lang in LANGUAGES}
    return Draft(((texts[language], "narrator"),), texts[_other(language)])


DRAFTS: dict[str, Callable[[random.Random, str, str, int], Draft]] = {
    "numbers": numbers_draft,
    "sums": sums_draft,
    "stories": stories_draft,
    "narration": narration_draft,
    "dialogue": dialogue_draft,
    "choice": choice_draft,
    "text_numbers": numbers_draft,
    "text_sums": sums_draft,
    "text_stories": stories_draft,
    "text_narration": narration_draft,
}


class MicroWorld:
    """One corpus of the micro world.

    Args:
        corpus: numbers, sums, stories, narration, dialogue, choice (test only), or text_numbers, text_sums, text_stories,
            text_narration: the same without audio.
        train, test: samples per language and split.
        samples_per_shard: at most so many per tar.

    Raises:
        ValueError: an unknown corpus, a negative count, or training items asked of `choice`.
    """

    for_tokenizer = True

    def __init__(self, corpus: str, train: int, test: int, samples_per_shard: int = 256) -> None:
        if corpus not in DRAFTS:
            raise ValueError(f"MicroWorld: corpus is {corpus!r}; known are {', '.join(DRAFTS)}")
        if train < 0 or test < 0:
            raise ValueError(f"MicroWorld {corpus}: counts are train {train}, test {test}; they must be >= 0")
        if corpus == "choice" and train:
            raise ValueError(f"MicroWorld choice: train is {train}; choice items are for evaluation only, set it to 0")
        self.corpus, self.train, self.test, self.samples_per_shard = corpus, train, test, samples_per_shard
        self.is_text = corpus.startswith("text_")

    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        """All utterances; `scratch` is not used."""
        counts = (("train", self.train), ("test", self.test))
        return Listing([u for split, count in counts for lang in LANGUAGES for u in self._draw(split, lang, count, seed)])

    def _draw(self, split: str, language: str, count: int, seed: int) -> Iterator[Utterance]:
        facts = list(range(100))
        for i in range(count):
            if i % 100 == 0:
                random.Random(f"{seed}/{self.corpus}/{split}/{language}/facts/{i}").shuffle(facts)
            key = f"{self.corpus}-{split}-{language}-{i:06d}"
            rng = random.Random(f"{seed}/{key}")
            draft = DRAFTS[self.corpus](rng, split, language, facts[i % 100])
            speaker = rng.choice(TRAIN_TIMBRES if split == "train" else TEST_TIMBRES)
            if self.corpus == "narration":
                speaker = NARRATORS[language]
            yield Utterance(
                key=key,
                corpus=self.corpus,
                split=split,
                language=language,
                parts=tuple(Part(text, role, self._timbre(role, speaker, language)) for text, role in draft.spans),
                text=join([text for text, _ in draft.spans], language),
                speaker="" if self.is_text else speaker.id,
                translation=draft.translation,
                target_language=_other(language) if draft.translation else None,
                answer=draft.answer,
                source="micro world, text only" if self.is_text else "micro world, espeak-ng",
                licence=LICENCE,
            )

    def _timbre(self, role: str, speaker: Timbre, language: str) -> Timbre | None:
        if self.is_text:
            return None
        return NARRATORS[language] if role == "assistant" else speaker
