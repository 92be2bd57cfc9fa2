from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from bcaudio.text.normalize import normalize
from data_prep.sources.micro_world import (
    MicroWorld,
    Story,
    draw_numbers,
    draw_story,
    is_test_string,
    number_string,
    number_words,
    sum_question,
)
from data_prep.sources.timbres import NARRATORS, TEST_TIMBRES, TRAIN_TIMBRES
from data_prep.utterance import Utterance

EN = {number_words(n, "en"): n for n in range(100)}
ZH = {number_words(n, "zh"): n for n in range(100)} | {"两": 2}


def utterances(corpus: str, train: int, test: int) -> list[Utterance]:
    return MicroWorld(corpus, train, test).list_utterances(0, Path()).utterances


@pytest.mark.parametrize(
    ("number", "en", "zh"),
    [
        (0, "zero", "零"),
        (7, "seven", "七"),
        (10, "ten", "十"),
        (12, "twelve", "十二"),
        (19, "nineteen", "十九"),
        (20, "twenty", "二十"),
        (23, "twenty three", "二十三"),
        (40, "forty", "四十"),
        (58, "fifty eight", "五十八"),
        (99, "ninety nine", "九十九"),
    ],
)
def test_numbers_are_spelled_right(number: int, en: str, zh: str) -> None:
    assert (number_words(number, "en"), number_words(number, "zh")) == (en, zh)


def test_all_hundred_spellings_differ() -> None:
    assert len(EN) == 100
    assert len({number_words(n, "zh") for n in range(100)}) == 100
    assert number_string((23, 4), "en") == "twenty three, four"
    assert number_string((23, 4), "zh") == "二十三，四"
    assert (sum_question(3, 4, "en"), sum_question(3, 4, "zh")) == ("what is three plus four", "三加四等于几")


def test_story_by_hand() -> None:
    story = Story(0, ((0, 3), (1, 4)), (("gives", 0, 2, 1), ("loses", 1, 1, -1)), -1)
    assert [*story.sentences("en"), story.ending(story.result(), "en")] == [
        "tom has three apples.",
        "anna has four apples.",
        "tom gives two apples to anna.",
        "anna eats one apple.",
        "together they have six apples.",
    ]
    assert "".join([*story.sentences("zh"), story.ending(story.result(), "zh")]) == (
        "汤姆有三个苹果。安娜有四个苹果。汤姆给安娜两个苹果。安娜吃了一个苹果。他们一共有六个苹果。"
    )


def solve(sentences: list[str]) -> None:
    """Recompute the last sentence from the words of the others: an implementation of its own, on English text."""
    owned: dict[str, int] = {}
    number = r"(\w+(?: \w+)?)"
    for sentence in sentences[:-1]:
        if match := re.fullmatch(r"(\w+) has (\w+) \w+\.", sentence):
            owned[match[1]] = EN[match[2]]
        elif match := re.fullmatch(r"(\w+) gives (\w+) \w+ to (\w+)\.", sentence):
            owned[match[1]] -= EN[match[2]]
            owned[match[3]] += EN[match[2]]
        elif match := re.fullmatch(r"(\w+) buys (\w+) more \w+\.", sentence):
            owned[match[1]] += EN[match[2]]
        else:
            match = re.fullmatch(r"(\w+) (?:eats|loses) (\w+) \w+\.", sentence)
            assert match, sentence
            owned[match[1]] -= EN[match[2]]
        assert min(owned.values()) >= 1
    match = re.fullmatch(rf"(?:now (\w+) has|together they have) {number} \w+\.", sentences[-1])
    assert match, sentences[-1]
    assert EN[match[2]] == (owned[match[1]] if match[1] else sum(owned.values())), sentences


def test_the_last_sentence_of_every_story_is_true() -> None:
    stories = [u for u in utterances("stories", 300, 50) if u.language == "en"]
    assert len(stories) == 350
    for story in stories:
        assert 3 <= len(story.parts) <= 5
        assert max(len(part.text.split()) for part in story.parts) <= 8
        solve([part.text for part in story.parts])


def test_translations_name_the_same_numbers() -> None:
    pairs = [u for u in utterances("stories", 100, 20) if u.language == "en"]
    for story in pairs:
        english = [EN[word] for word in story.text.replace(".", "").split() if word in EN]
        chinese = [ZH[n] for n in re.findall("[零一二三四五六七八九十两]+(?=[个本])", story.translation or "")]
        assert english == chinese
        assert story.target_language == "zh"


def test_wrong_endings_name_another_number() -> None:
    items = [u for u in utterances("choice", 0, 60) if u.language == "en"]
    assert len(items) == 60
    for item in items:
        assert [part.role for part in item.parts][-2:] == ["right", "wrong"]
        solve([part.text for part in item.parts[:-1]])
        with pytest.raises(AssertionError):
            solve([part.text for part in (*item.parts[:-2], item.parts[-1])])


def test_answers_are_sums_and_training_covers_all_hundred_facts() -> None:
    for language, spelled in (("en", EN), ("zh", ZH)):
        facts = set()
        for u in utterances("sums", 100, 5):
            if u.language == language:
                pattern = r"what is (\w+) plus (\w+)" if language == "en" else "(.)加(.)等于几"
                left, right = (spelled[word] for word in re.fullmatch(pattern, u.text).groups())  # type: ignore[union-attr]
                assert spelled[u.answer or ""] == left + right
                facts.add((left, right)) if u.split == "train" else None
        assert len(facts) == 100


def leaks(listed: list[Utterance]) -> int:
    """Test strings of two or more numbers that also occur in training, however they are written."""

    def strings(split: str) -> set[str]:
        parts = [(part.text, u.language) for u in listed if u.split == split for part in u.parts]
        return {normalize(text, language) for text, language in parts if "," in text or "，" in text}

    return len(strings("test") & strings("train"))


def test_test_strings_and_stories_never_occur_in_training() -> None:
    corpora = [("numbers", 1500, 200), ("narration", 500, 40), ("text_numbers", 12000, 400), ("text_stories", 1000, 50)]
    listed = [u for corpus in corpora for u in utterances(*corpus)]
    assert leaks(listed) == 0
    leaked = Utterance(**{**vars(next(u for u in listed if u.split == "test" and "," in u.text)), "split": "train"})
    assert leaks([*listed, leaked]) == 1  # the count itself works
    train = {u.text for u in utterances("stories", 300, 0)} | {u.text for u in listed if u.split == "train"}
    test = {u.text for u in utterances("stories", 0, 100)}
    assert len(test) > 150
    assert not train & test


def test_number_strings_that_read_alike_share_a_split() -> None:
    assert is_test_string((20, 3, 5)) == is_test_string((23, 5)) == is_test_string((2, 10, 3, 5))
    like_one_number = [(20, 3), (2, 10), (2, 10, 3), (90, 9), (10, 1)]
    assert not any(is_test_string(numbers) for numbers in like_one_number)
    share = sum(is_test_string((a, b)) for a in range(100) for b in range(1, 10)) / 900
    assert 0.06 < share < 0.19  # about one in eight


def test_vocabulary_stays_small() -> None:
    texts = [u for corpus in ("numbers", "sums", "stories", "narration") for u in utterances(corpus, 400, 20)]
    words = {word for u in texts if u.language == "en" for word in re.findall("[a-z]+", u.text)}
    hanzi = {char for u in texts if u.language == "zh" for char in u.text if char > "\u3400" and char not in "，。？"}
    assert 28 < len(words) < 110
    assert 20 < len(hanzi) < 80
    assert all(u.text == u.text.lower() for u in texts)


def test_timbres_of_the_splits_are_disjoint_by_variant() -> None:
    assert (len({t.id for t in TRAIN_TIMBRES}), len({t.id for t in TEST_TIMBRES})) == (44, 12)
    assert not {t.variant for t in TRAIN_TIMBRES} & {t.variant for t in TEST_TIMBRES}
    for u in utterances("dialogue", 30, 30):
        question, answer = u.parts
        assert question.timbre in (TRAIN_TIMBRES if u.split == "train" else TEST_TIMBRES)
        assert answer.timbre == NARRATORS[u.language]
        assert answer.text == u.answer
    assert {part.timbre for u in utterances("narration", 5, 5) if u.language == "en" for part in u.parts} == {NARRATORS["en"]}


def test_generation_is_a_function_of_the_seed() -> None:
    world = MicroWorld("stories", 5, 1)
    assert world.list_utterances(0, Path()).utterances == world.list_utterances(0, Path()).utterances
    assert world.list_utterances(0, Path()).utterances != world.list_utterances(1, Path()).utterances
    assert draw_numbers(random.Random(3), "train") == draw_numbers(random.Random(3), "train")
    assert draw_story(random.Random(3), "test") == draw_story(random.Random(3), "test")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'numbres'"):
        MicroWorld("numbres", 1, 1)
    with pytest.raises(ValueError, match="train is 3"):
        MicroWorld("choice", 3, 1)
