"""The system of a run: how it is loaded, and that it hears, answers and speaks."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcaudio.checkpoint import load_state
from bcaudio.data.schema import Sample, Span
from bcaudio.data.tasks import segments_of
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.inference.prompt import Prompt
from bcaudio.inference.system import System

CODES = np.random.default_rng(1).integers(0, 4, (20, 2))


@pytest.fixture(scope="module")
def system(run_dir: Path) -> System:
    made = System.of_run(run_dir)
    made.max_frames = 6
    return made


def noise(duration_s: float) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.1, round(16000 * duration_s)).astype(np.float32)


def item(*texts: str, sound: np.ndarray | None = None, **fields: Any) -> Item:
    """An item of `sample`; with a sound it has no codes."""
    made = sample(*texts, **fields)
    if sound is None:
        return Item(made)
    return Item(replace(made, codes=None, span_num_codes=()), lambda sample_rate: sound)


def sample(*texts: str, roles: tuple[str, ...] = (), first: int = 0, **fields: str) -> Sample:
    """A clip whose spans have two frames each, taken from CODES at `first`."""
    roles = roles or ("narrator",) * len(texts)
    spans = tuple(Span(text, float(i), i + 1.0, role) for i, (text, role) in enumerate(zip(texts, roles, strict=True)))
    codes = CODES[first : first + 2 * len(texts)].astype(np.int16)
    return Sample("s-0", "numbers", "test", "en", "m1", " ".join(texts), spans, **fields, duration_s=float(len(texts)),
                  span_num_codes=(2,) * len(texts), codes=codes)  # fmt: skip


def test_of_run_loads_the_weights_of_every_part_that_the_pipeline_names(system: System, run_dir: Path) -> None:
    parts = {"tokenizer": "tokenizer", "audio_llm": "sft", "flow_decoder": "flow", "vocoder": "vocoder", "auditor": "auditor"}
    for part, stage in parts.items():
        model = getattr(system, part)
        state = load_state(run_dir / stage)
        assert not model.training
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert system.text_tokenizer.file == run_dir / "text_tokenizer" / "tokenizer.json"


def test_a_folder_that_is_no_run_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no pipeline\.yaml, so this is not the folder of a run; make one with `bcaudio"):
        System.of_run(tmp_path)


@pytest.mark.parametrize("record", [None, {"status": "running"}])
def test_an_unfinished_stage_is_named(run_dir: Path, tmp_path: Path, record: dict[str, str] | None) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    (run / "flow" / "stage.json").unlink()
    if record is not None:
        (run / "flow" / "stage.json").write_text(json.dumps(record))
    with pytest.raises(FileNotFoundError, match=r"run/flow: this stage is not finished; go on with `bcaudio run`"):
        System.of_run(run)


def test_an_audio_llm_of_another_codebook_layout_is_refused_with_both(
    run_dir: Path, tmp_path: Path, finish_stage: Callable, audio_llm_node: Callable
) -> None:
    finish_stage(tmp_path / "other", audio_llm_node([8, 8]), {"codebook_sizes": [8, 8]})
    with pytest.raises(ValueError, match=r"audio LLM .*other: .*codebook_sizes: expected \[8, 8\], found \[8, 4\]"):
        System.of_run(run_dir).use_audio_llm(tmp_path / "other")


def test_reply_to_noise_is_text_and_finite_sound_of_the_length_of_its_codes(system: System) -> None:
    answer = system.reply(noise(0.7))
    assert isinstance(answer.text, str)
    assert answer.codes.shape == (6, 2)
    assert (answer.codes >= 0).all()
    assert (answer.codes < [8, 4]).all()
    # 6 codes: 4 * 6 - 1 states at 50 Hz, 480 samples each
    assert answer.waveform.shape == (23 * 480,)
    assert answer.waveform.dtype == np.float32
    assert np.isfinite(answer.waveform).all()
    assert np.abs(answer.waveform).max() > 0
    again = system.reply(noise(0.7))
    np.testing.assert_array_equal(again.waveform, answer.waveform)


def test_reply_without_any_frame_has_an_empty_waveform(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "max_frames", 0)
    answer = system.reply(noise(0.5))
    assert answer.codes.shape == (0, 2)
    assert answer.waveform.shape == (0,)


def test_reply_hears_the_question_before_it_answers(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Prompt] = []
    spoken: list[Prompt] = []

    def write(prompts: Sequence[Prompt], **_: object) -> list[list[int]]:
        asked.extend(prompts)
        return [[1]]

    def speak(prompts: Sequence[Prompt], **_: object) -> list[np.ndarray]:
        spoken.extend(prompts)
        return [CODES[:1]]

    monkeypatch.setattr(system.generator, "generate_text_batch", write)
    monkeypatch.setattr(system.generator, "generate_speech_batch", speak)
    system.reply(noise(0.5))
    special, codes = system.text_tokenizer.special, system.tokenizer.encode_long(torch.from_numpy(noise(0.5))).numpy()
    heard = [special.question, special.audio_start, *[special.audio_pad] * len(codes), special.audio_end]
    assert asked[0].input_ids == [*heard, special.audiotext_start, special.answer]
    assert spoken[0].input_ids == [*asked[0].input_ids, 1, special.audiogen_start]
    np.testing.assert_array_equal(asked[0].codes, codes)


def test_tts_says_the_given_text_and_dialogue_what_it_wrote(system: System) -> None:
    read, talk = item("one two"), item("one", "two", roles=("user", "assistant"))
    (said,) = system.speak([read], "tts")
    assert said.text == "one two"
    assert len(said.waveform) == (4 * len(said.codes) - 1) * 480
    (answered,) = system.speak([talk], "dialogue")
    prompt = Prompt(*system.builder.prompt(segments_of("dialogue", talk.sample)))
    stops = {system.text_tokenizer.special.audiogen_start, system.text_tokenizer.special.eos}
    (written,) = system.generator.generate_text_batch([prompt], max_new_tokens=48, stop_ids=stops)
    assert answered.text == system.text_tokenizer.decode(written)
    assert answered.text not in ("", "one", "two")


def test_the_sound_of_a_clip_does_not_depend_on_the_clips_beside_it(system: System) -> None:
    clips = [CODES[:5], CODES[5:14], CODES[:0], CODES[14:17]]
    together = system.synthesize(clips)
    assert [len(waveform) for waveform in together] == [19 * 480, 35 * 480, 0, 11 * 480]
    for clip, waveform in zip(clips, together, strict=True):
        torch.rand(3)  # nor on what was drawn before
        np.testing.assert_array_equal(system.synthesize([clip])[0], waveform)


def test_reconstruct_gives_mels_of_matching_length_and_the_sound_when_asked(system: System) -> None:
    clips = [item("one", sound=noise(duration_s)) for duration_s in (0.5, 0.83)]
    made = system.reconstruct(clips)
    # 8000 samples: 51 frames, 26 states, 6 tokens, 23 states, 46 at 100 Hz, 28 at 62.5 Hz; 13280: 84, 42, 10, 39, 78, 48
    for one, num_frames in zip(made, (28, 48), strict=True):
        assert one.target_mel.shape == one.coarse_mel.shape == one.refined_mel.shape == (num_frames, 80)
        assert one.flow_mel is None
        assert one.waveform is None
    (sounding,) = system.reconstruct(clips[:1], with_waveform=True)
    assert sounding.flow_mel.shape == (23, 80)
    assert sounding.waveform.shape == (23 * 480,)
    np.testing.assert_array_equal(sounding.refined_mel, made[0].refined_mel)


def test_reconstruct_from_fewer_levels_is_something_else(system: System) -> None:
    clips = [item("one", sound=noise(0.5))]
    (whole,), (first,) = system.reconstruct(clips), system.reconstruct(clips, num_levels=1)
    np.testing.assert_array_equal(whole.target_mel, first.target_mel)
    assert np.abs(whole.refined_mel - first.refined_mel).max() > 1e-3


def test_answers_to_speech_and_to_writing_come_in_the_order_of_the_samples(system: System) -> None:
    samples = [item("one", answer="two"), item("three", first=10, answer="one")]
    heard, read = system.answer_text(samples, "aqa"), system.answer_text_from_text(samples, "aqa")
    assert len({*heard, *read}) == 4, "four questions with four answers"
    assert heard == [system.answer_text([one], "aqa")[0] for one in samples]
    assert read == [system.answer_text_from_text([one], "aqa")[0] for one in samples]


@pytest.mark.parametrize("mode", ["text", "speech", "speech_to_speech"])
def test_choice_scores_are_those_of_the_endings_in_their_order(system: System, mode: str) -> None:
    roles = ("narrator", "narrator", "right", "wrong", "wrong")
    ends = ("one", "two one", "three")
    asked = item("one two", "three", *ends, roles=roles)
    encode, special = system.text_tokenizer.encode, system.text_tokenizer.special
    heard = [special.audio_start, special.audio_pad, special.audio_pad, special.audio_end]
    story = Prompt([*encode("one two"), *encode("three")]) if mode == "text" else Prompt([*heard, *heard], CODES[:4])
    endings = [Prompt(encode(end)) for end in ends]
    if mode == "speech_to_speech":
        story = Prompt([*heard, *heard, special.audiogen_start], CODES[:4])
        spoken = [special.audio_pad, special.audio_pad, special.audiogen_end]
        endings = [Prompt(spoken, CODES[first : first + 2]) for first in (4, 6, 8)]
    expected = system.generator.score([story] * 3, endings)
    assert len({round(score, 3) for score in expected}) == 3
    other = item("one two", "three", "two", "one", roles=roles[:4], first=10)
    (scores, two) = system.choice_scores([asked, other], mode)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert len(two) == 2


def test_a_choice_without_two_endings_or_with_an_empty_one_is_told_by_item(system: System) -> None:
    for bad in (item("one", "two", roles=("narrator", "right")), item("one", "two", " ", roles=("narrator", "right", "wrong"))):
        with pytest.raises(ItemError, match=r"s-0: .*a choice needs two or more, none of them empty"):
            system.choice_scores([bad], "text")
    with pytest.raises(ValueError, match="mode is 'heard'; use one of text, speech, speech_to_speech"):
        system.choice_scores([], "heard") or system.choice_scores([item("one", "two", roles=("right", "wrong"))], "heard")


def test_an_item_without_codes_is_encoded_span_by_span_and_a_long_one_piece_by_piece(system: System) -> None:
    sound = noise(3.0)
    told = item("one", "two", "three", sound=sound)
    times = ((0.2, 0.9), (1.1, 1.9), (1.94, 2.8))  # 60 ms around each, but not into its neighbour
    spans = tuple(Span("one", start_s, end_s, "user") for start_s, end_s in times)
    (encoded,) = system._encoded([replace(told, sample=replace(told.sample, spans=spans))])
    spans = [sound[2240:15360], sound[16640:31040], sound[30400:45760]]
    rows = [system.tokenizer.encode_long(torch.from_numpy(span)).numpy() for span in spans]
    assert encoded.span_num_codes == tuple(map(len, rows))
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(encoded.span_codes(i), row)
    short, long = (item("one", sound=clip) for clip in (sound[:9000], sound))  # the window is 2 s
    alone, cut = system._encoded([short, long])
    np.testing.assert_array_equal(cut.codes, system.tokenizer.encode_long(torch.from_numpy(sound)).numpy())
    np.testing.assert_array_equal(alone.codes, system._encoded([short])[0].codes)


def test_codes_of_another_tokenizer_are_made_anew(system: System) -> None:
    own = {"weights_sha256": system.codes_fingerprint["weights_sha256"]}
    for fingerprint, kept in ((own, True), ({"weights_sha256": "another"}, False)):
        one = Item(sample("one"), lambda sample_rate: noise(0.8), {"codes_fingerprint": fingerprint})
        assert (len(system._encoded([one])[0].codes) == 2) is kept


def test_what_cannot_be_encoded_is_told_by_item_and_a_missing_tokenizer_once(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    untimed = Item(
        Sample("u-1", "x", "test", "en", "", "a b", (Span("a", 0, 0, "user"), Span("b", 0, 0, "user"))), lambda _: noise(1)
    )
    silent = replace(item("one", sound=noise(1.0)), audio=None)
    for bad, reason in ((untimed, "u-1: its 2 spans have no times"), (silent, "s-0: has no audio"),
                        (item("one", sound=noise(0.02)), "s-0: its sound is too short for a single code")):  # fmt: skip
        with pytest.raises(ItemError, match=reason):
            system.answer_text([bad], "asr")
    with pytest.raises(ItemError, match=r"s-0: is 3\.00 s long; the tokenizer takes 0\.06 to 2 s"):
        system.reconstruct([item("one", sound=noise(3.0))])
    monkeypatch.setattr(system, "tokenizer", None)
    with pytest.raises(NotRunError, match="no audio tokenizer"):
        system.answer_text([item("one", sound=noise(1.0))], "asr")
    with pytest.raises(NotRunError, match="the system has no tokenizer, so it cannot speak"):
        system.speak([item("one")], "tts")


def test_the_prompt_of_a_question_needs_no_answer_and_no_assistant(system: System) -> None:
    with_answer, without = item("one", answer="two"), item("one")
    assert system.answer_text([with_answer], "aqa") == system.answer_text([without], "aqa")
    assert system.answer_text_from_text([with_answer], "aqa") == system.answer_text_from_text([without], "aqa")
    pair, alone = item("one", "two", roles=("user", "assistant")), item("one")
    assert system.speak([pair], "dialogue")[0].text == system.speak([alone], "dialogue")[0].text
    with pytest.raises(NotRunError, match="the task s2tt has no prompt for the language sw"):
        system.answer_text([item("one", target_language="sw")], "s2tt")


def test_plain_text_is_continued_scored_and_measured(system: System) -> None:
    encode, special = system.text_tokenizer.encode, system.text_tokenizer.special
    score = system.generator.score
    prompt = Prompt(encode("one two"))
    expected = score([prompt] * 3, [Prompt(encode(end)) for end in ("one", "three", "one one")], reduction="sum")
    got = system.continuation_scores(["one two", "one two"], [["one", "three"], ["one one"]])
    np.testing.assert_allclose([*got[0], *got[1]], expected, atol=1e-5)
    ids = encode("one two three")
    (nats, tokens, num_bytes), empty, cut = system.log_likelihoods(["one two three", "", "three two one"], max_tokens=3)
    assert (tokens, num_bytes, empty) == (3, len("two three"), (0.0, 0, 0))
    assert nats == pytest.approx(score([Prompt(ids[:1])], [Prompt([*ids[1:], special.eos])], reduction="sum")[0], abs=1e-4)
    assert cut[1] == 3
    (text,) = system.generate_from_text(["one two"], max_new_tokens=3)
    (written,) = system.generator.generate_text_batch([prompt], max_new_tokens=3)
    assert text == system.text_tokenizer.decode(written)
    with pytest.raises(ValueError, match="text '' has no token"):
        system.continuation_scores([""], [["one"]])


def test_the_description_names_weights_and_options_and_no_place(system: System, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "moved")
    moved = System.of_run(tmp_path / "moved", max_frames=6)
    assert moved.description == system.description
    assert str(run_dir) not in json.dumps(moved.description)
    digest = json.loads((run_dir / "sft" / "fingerprint.json").read_text())["weights_sha256"]
    assert moved.description["parts"]["audio_llm"] | {"model_sha256": ""} == {
        "stage": "sft", "weights_sha256": digest, "model_sha256": ""
    }  # fmt: skip
    moved.max_text_tokens = 3
    assert moved.description != system.description


def test_a_system_without_a_vocoder_says_so_when_it_is_to_speak(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "vocoder", None)
    with pytest.raises(ValueError, match="no vocoder, so it cannot speak"):
        system.synthesize([np.zeros((3, len(system.audio_llm.codebook_sizes)), dtype=np.int64)])
