"""The system of a run: how it is loaded, and that it hears, answers and speaks."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from bcaudio.checkpoint import load_state
from bcaudio.data.schema import Sample, Span
from bcaudio.data.tasks import segments_of
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
    read, talk = sample("one two"), sample("one", "two", roles=("user", "assistant"))
    (said,) = system.speak([read], "tts")
    assert said.text == "one two"
    assert len(said.waveform) == (4 * len(said.codes) - 1) * 480
    (answered,) = system.speak([talk], "dialogue")
    prompt = Prompt(*system.builder.prompt(segments_of("dialogue", talk)))
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
    clips = [(sample("one"), noise(duration_s)) for duration_s in (0.5, 0.83)]
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
    clips = [(sample("one"), noise(0.5))]
    (whole,), (first,) = system.reconstruct(clips), system.reconstruct(clips, num_levels=1)
    np.testing.assert_array_equal(whole.target_mel, first.target_mel)
    assert np.abs(whole.refined_mel - first.refined_mel).max() > 1e-3


def test_answers_to_speech_and_to_writing_come_in_the_order_of_the_samples(system: System) -> None:
    samples = [sample("one", answer="two"), sample("three", first=10, answer="one")]
    heard, read = system.answer_text(samples, "aqa"), system.answer_text_from_text(samples, "aqa")
    assert len({*heard, *read}) == 4, "four questions with four answers"
    assert heard == [system.answer_text([one], "aqa")[0] for one in samples]
    assert read == [system.answer_text([one], "text_answer")[0] for one in samples]


@pytest.mark.parametrize("mode", ["text", "speech"])
def test_choice_scores_are_right_then_wrong(system: System, mode: str) -> None:
    roles = ("narrator", "narrator", "right", "wrong")
    one, two = (sample("one two", "three", *ends, roles=roles) for ends in (("one", "two one"), ("two one", "one")))
    encode, special = system.text_tokenizer.encode, system.text_tokenizer.special
    heard = [special.audio_start, special.audio_pad, special.audio_pad, special.audio_end]
    story = Prompt([*heard, *heard], CODES[:4]) if mode == "speech" else Prompt([*encode("one two"), *encode("three")])
    right, wrong = system.generator.score([story] * 2, [Prompt(encode("one")), Prompt(encode("two one"))])
    assert abs(right - wrong) > 1e-3
    scores = system.choice_scores([one, two], mode)
    np.testing.assert_allclose(scores, [(right, wrong), (wrong, right)], atol=1e-5)


def test_a_system_without_a_vocoder_says_so_when_it_is_to_speak(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "vocoder", None)
    with pytest.raises(ValueError, match="no vocoder, so it cannot speak"):
        system.synthesize([np.zeros((3, len(system.audio_llm.codebook_sizes)), dtype=np.int64)])
