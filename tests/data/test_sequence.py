"""A sequence worked out by hand."""

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span
from bcaudio.data.sequence import IGNORE, SequenceBuilder
from bcaudio.data.tasks import TASKS, Segment, segments_of
from bcaudio.text.tokenizer import TextTokenizer

CODES = np.array([[1, 2], [3, 0]], dtype=np.int16)


def test_heard_audio_pays_nothing_and_the_text_after_it_does(text_tokenizer: TextTokenizer) -> None:
    special, (one,) = text_tokenizer.special, text_tokenizer.encode("one")
    builder = SequenceBuilder(text_tokenizer, codebook_sizes=[4, 4])
    made = builder.sequence([Segment("audio", "x", codes=CODES), Segment("text", "one", train=True)])
    assert made.input_ids.tolist() == [
        special.audio_start,
        special.audio_pad,
        special.audio_pad,
        special.audio_end,
        one,
        special.eos,
    ]
    assert made.labels.tolist() == [IGNORE, IGNORE, IGNORE, one, special.eos, IGNORE]
    assert (made.audio_labels == IGNORE).all()
    np.testing.assert_array_equal(made.codes, CODES)


def test_spoken_audio_is_predicted_from_the_position_before_and_ends_with_the_end_frame(text_tokenizer: TextTokenizer) -> None:
    special, (one,) = text_tokenizer.special, text_tokenizer.encode("one")
    builder = SequenceBuilder(text_tokenizer, codebook_sizes=[4, 4])
    made = builder.sequence([Segment("text", "one"), Segment("audio", "one", train=True, direction="speak", codes=CODES)])
    assert made.input_ids.tolist() == [
        one,
        special.audiogen_start,
        special.audio_pad,
        special.audio_pad,
        special.audiogen_end,
        special.eos,
    ]
    # audiogen_start is predicted by the text head, audiogen_end is forced, <|endoftext|> closes what was spoken
    assert made.labels.tolist() == [special.audiogen_start, IGNORE, IGNORE, IGNORE, special.eos, IGNORE]
    assert made.audio_labels.tolist() == [[IGNORE] * 2, [1, 2], [3, 0], [4, 4], [IGNORE] * 2, [IGNORE] * 2]


def test_prompt_stops_before_the_first_paid_segment(text_tokenizer: TextTokenizer) -> None:
    special, (one,) = text_tokenizer.special, text_tokenizer.encode("one")
    builder = SequenceBuilder(text_tokenizer, codebook_sizes=[4, 4])
    spoken = Segment("audio", "one", train=True, direction="speak", codes=CODES)
    ids, codes = builder.prompt([Segment("text", "one"), spoken])
    assert ids == [one, special.audiogen_start]
    assert codes.shape == (0, 2)
    ids, codes = builder.prompt([Segment("audio", "x", codes=CODES), Segment("text", "one", train=True), spoken])
    assert ids == [special.audio_start, special.audio_pad, special.audio_pad, special.audio_end]
    assert codes.shape == (2, 2)


def test_audio_as_text_holds_every_token(text_tokenizer: TextTokenizer) -> None:
    special = text_tokenizer.special
    one, two = text_tokenizer.encode("one two")
    blank = text_tokenizer.encode("-")[-1]
    builder = SequenceBuilder(text_tokenizer, audio_as="text")
    ids = builder.sequence([Segment("audio", "one two")], np.random.default_rng(0)).input_ids.tolist()
    assert ids[0] == special.audio_start
    assert ids[-2:] == [special.audio_end, special.eos]
    inside = ids[1:-2]
    assert set(inside) <= {one, two, blank}
    assert inside[0] == one
    held = [token for i, token in enumerate(inside) if token != blank and (i == 0 or inside[i - 1] != token)]
    assert held == [one, two]


def test_codes_of_another_layout_are_refused_with_both_numbers(text_tokenizer: TextTokenizer) -> None:
    builder = SequenceBuilder(text_tokenizer, codebook_sizes=[4, 4, 4])
    with pytest.raises(ValueError, match="has 2 codebooks, the recipe 3"):
        builder.sequence([Segment("audio", "x", codes=CODES)])


def test_audio_without_codes_names_the_remedy(text_tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="encode the shards"):
        SequenceBuilder(text_tokenizer, codebook_sizes=[4]).sequence([Segment("audio", "x")])


@pytest.mark.parametrize("task", TASKS)
def test_measure_counts_what_sequence_makes(text_tokenizer: TextTokenizer, task: str) -> None:
    spans = tuple(Span(text, i, i + 1, role) for i, (text, role) in enumerate((("one two", "user"), ("three", "assistant"))))
    codes = np.ones((5, 2), np.int16)
    sample = Sample(
        "a-0",
        "a",
        "train",
        "en",
        "m1",
        "one two three",
        spans,
        "三",
        "zh",
        "four",
        duration_s=2.0,
        span_num_codes=(2, 3),
        codes=codes,
    )
    builder = SequenceBuilder(text_tokenizer, codebook_sizes=[4, 4])
    made = builder.sequence(segments_of(task, sample))
    counts = len(made), int((made.labels != IGNORE).sum()), int((made.audio_labels[:, 0] != IGNORE).sum())
    assert builder.measure(segments_of(task, sample)) == counts
    assert counts[0] >= 4


def test_measure_refuses_audio_whose_length_is_random(text_tokenizer: TextTokenizer) -> None:
    builder = SequenceBuilder(text_tokenizer, audio_as="text")
    assert builder.measure([Segment("text", "one", train=True)]) == (2, 1, 0)
    with pytest.raises(ValueError, match="no fixed length"):
        builder.measure([Segment("audio", "one")])
