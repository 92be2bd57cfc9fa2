from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bcaudio.inference.generate import Generator
from bcaudio.inference.prompt import Prompt
from bcaudio.inference.sampling import SamplingOptions
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.depth_transformer import DepthTransformer

SIZES = [6, 5, 4]
IDS = SimpleNamespace(eos=20, audio_pad=21, audio_start=22, audio_end=23, audiogen_start=24, audiogen_end=25, audiotext_start=26)
GREEDY = SamplingOptions(greedy=True)
HEARD = Prompt([1, 22, 21, 21, 23, 2], np.array([[0, 1, 2], [3, 4, 3]]))
PROMPTS = [HEARD, Prompt([3]), Prompt([4, 5, 6, 7, 8, 9, 10, 11, 12])]


@pytest.fixture(scope="module")
def model() -> AudioLLM:
    torch.manual_seed(0)
    llm = causal_lm(
        {
            "model_type": "qwen2",
            "vocab_size": 27,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    )
    model = AudioLLM(llm, SIZES, IDS.audio_pad, DepthTransformer(32, SIZES, num_layers=2, head_dim=16))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval()


@pytest.fixture
def generator(model: AudioLLM) -> Generator:
    return Generator(model, IDS)


@torch.no_grad()
def text_without_cache(model: AudioLLM, prompt: Prompt, banned: list[int], length: int) -> list[int]:
    """Greedy text, the whole sequence again for every token."""
    ids = list(prompt.input_ids)
    codes = None if prompt.codes is None else torch.as_tensor(prompt.codes)
    for _ in range(length):
        scores = model.text_logits(model(torch.tensor([ids]), codes).hidden[0, -1])
        scores[banned] = -torch.inf
        ids.append(int(scores.argmax()))
    return ids[len(prompt.input_ids) :]


@torch.no_grad()
def speech_without_cache(model: AudioLLM, prompt: Prompt, length: int) -> list[list[int]]:
    """Greedy codes, the whole sequence again for every frame and level by teacher forcing."""
    ids, codes = list(prompt.input_ids), torch.as_tensor(prompt.codes if prompt.codes is not None else np.zeros((0, 3), int))
    frames: list[list[int]] = []
    for _ in range(length):
        hidden, frame = model(torch.tensor([ids]), codes).hidden[:, -1], torch.zeros(1, 3, dtype=torch.long)
        for level, size in enumerate(SIZES):
            frame[0, level] = model.audio_logits(hidden, frame)[level][0, : size + (level == 0)].argmax()
        if frame[0, 0] == SIZES[0]:
            break
        frames.append(frame[0].tolist())
        ids, codes = [*ids, IDS.audio_pad], torch.cat([codes, frame])
    return frames


def test_batched_cached_text_equals_one_prompt_at_a_time_without_cache(model: AudioLLM, generator: Generator) -> None:
    found = generator.generate_text(PROMPTS, 6, stop_ids=(), options=GREEDY)
    assert found == [text_without_cache(model, prompt, [21, 22, 23, 25], 6) for prompt in PROMPTS]


def test_batched_cached_speech_equals_one_prompt_at_a_time_without_cache(model: AudioLLM, generator: Generator) -> None:
    prompts = [Prompt([*prompt.input_ids, 24], prompt.codes) for prompt in PROMPTS]
    found = generator.generate_speech_batch(prompts, max_frames=7, options=GREEDY, batch_size=2)
    expected = [speech_without_cache(model, prompt, 7) for prompt in prompts]
    assert [codes.tolist() for codes in found] == expected
    assert max(map(len, expected)) > 2


def test_a_row_that_stood_still_goes_on_as_if_alone(model: AudioLLM, generator: Generator) -> None:
    state = generator.start(PROMPTS)
    generator.generate_text(state, 4, (), GREEDY, rows=[True, False, True])
    late = generator.generate_text(state, 3, (), GREEDY, rows=[False, True, False])
    assert late == [[], text_without_cache(model, PROMPTS[1], [21, 22, 23, 25], 3), []]
    again = generator.generate_text(state, 3, (), GREEDY)
    assert again[0] == text_without_cache(model, HEARD, [21, 22, 23, 25], 7)[4:]


def test_text_ends_with_its_stop_id_and_the_batch_form_drops_it(model: AudioLLM, generator: Generator) -> None:
    whole = text_without_cache(model, HEARD, [21, 22, 23, 25], 6)
    stop = whole[2]
    assert generator.generate_text([HEARD], 6, [stop], GREEDY) == [whole[: whole.index(stop) + 1]]
    assert generator.generate_text_batch([HEARD], 6, [stop], GREEDY) == [whole[: whole.index(stop)]]


def test_banned_ids_are_never_chosen(model: AudioLLM, generator: Generator) -> None:
    first = generator.generate_text([HEARD], 1, (), GREEDY)[0][0]
    assert generator.generate_text([HEARD], 1, (), GREEDY, banned_ids=[first])[0][0] != first


def test_features_stand_in_for_codes(model: AudioLLM, generator: Generator) -> None:
    features = model.audio_embedding(torch.as_tensor(HEARD.codes)).detach()
    found = generator.generate_text_batch([Prompt(HEARD.input_ids, features=features), PROMPTS[2]], 6, ())
    assert found == generator.generate_text_batch([HEARD, PROMPTS[2]], 6, ())
    with pytest.raises(ValueError, match="1 features for 2 audio pads"):
        generator.start([Prompt(HEARD.input_ids, features=features[:1])])


def scripted(model: AudioLLM, generator: Generator, monkeypatch: pytest.MonkeyPatch, texts: list[int], frames: list[int]) -> None:
    """Make both heads say given things: the n-th text id, and the n-th level-0 code."""
    text, codes = iter(texts), iter(frames)

    def choose(scores: torch.Tensor, *_: object) -> torch.Tensor:
        if scores.shape[-1] == 27:
            return torch.full((len(scores),), next(text))
        if scores.shape[-1] == SIZES[0] + 1:
            return torch.full((len(scores),), next(codes))
        return torch.zeros(len(scores), dtype=torch.long)

    monkeypatch.setattr("bcaudio.inference.generate.choose", choose)


def test_interleaving_loop_writes_the_published_row(
    model: AudioLLM, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "7 8 <audiogen_start>" two frames, "9 ," two frames up to the limit, "<eos>"
    scripted(model, generator, monkeypatch, [7, 8, 24, 9, 10, 20], [1, 2, 6, 3, 4, 5])
    heard: list[tuple[int, list[int], int]] = []
    (reply,) = generator.respond(
        [Prompt([1, 2])],
        later_stop_ids=[10],
        max_frames=3,
        on_segment=lambda row, text, codes: heard.append((row, text, len(codes))),
    )
    # the end frame has a pad that is overwritten; at the limit the last real frame's pad is
    assert reply.input_ids == [1, 2, 7, 8, 24, 21, 21, 25, 9, 24, 21, 21, 25, 20]
    assert reply.text_ids == [[7, 8], [9, 10]]
    assert [codes[:, 0].tolist() for codes in reply.codes] == [[1, 2], [3, 4, 5]]
    assert heard == [(0, [7, 8], 2), (0, [9, 10], 3)]


def test_words_before_the_end_of_text_are_still_spoken(
    model: AudioLLM, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(model, generator, monkeypatch, [7, 24, 8, 20], [1, 6, 2, 6])
    (reply,) = generator.respond([Prompt([1])])
    assert reply.text_ids == [[7], [8]]
    assert [codes[:, 0].tolist() for codes in reply.codes] == [[1], [2]]


def test_rounds_are_limited(model: AudioLLM, generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(model, generator, monkeypatch, [7, 24] * 9, [1, 6] * 9)
    assert len(generator.respond([Prompt([1])], max_rounds=3)[0].codes) == 3


def test_score_is_the_log_likelihood_of_the_continuation_alone(model: AudioLLM, generator: Generator) -> None:
    with torch.no_grad():
        hidden = model(torch.tensor([[*HEARD.input_ids, 7, 8]]), torch.as_tensor(HEARD.codes)).hidden[0]
        likelihood = model.text_logits(hidden).log_softmax(dim=-1)
    expected = likelihood[5, 7] + likelihood[6, 8]
    other = (Prompt([1, 2, 3]), Prompt([4] * 9))
    total = generator.score([other[0], HEARD], [other[1], Prompt([7, 8])], reduction="sum")
    mean = generator.score([other[0], HEARD], [other[1], Prompt([7, 8])])
    assert total[1] == pytest.approx(expected.item(), abs=1e-4)
    assert mean[1] == pytest.approx(expected.item() / 2, abs=1e-4)


@pytest.mark.parametrize(("num_levels", "count"), [(None, 8), (1, 4)])
def test_score_of_speech_counts_start_mark_codes_and_end(
    model: AudioLLM, generator: Generator, num_levels: int | None, count: int
) -> None:
    continuation = Prompt([24, 21, 21, 25], np.array([[5, 0, 1], [2, 2, 2]]))
    ids, codes = torch.tensor([[*HEARD.input_ids, *continuation.input_ids]]), np.concatenate([HEARD.codes, continuation.codes])
    with torch.no_grad():
        hidden = model(ids, torch.as_tensor(codes)).hidden[0]
        expected = model.text_logits(hidden[5]).log_softmax(dim=-1)[24].item()
        levels = model.audio_logits(hidden[[6, 7, 8]], torch.tensor([[5, 0, 1], [2, 2, 2], SIZES]))
    levels = [logits.log_softmax(dim=-1) for logits in levels]
    for level in range(num_levels or 3):
        expected += levels[level][0, [5, 0, 1][level]].item() + levels[level][1, 2].item()
    expected += levels[0][2, SIZES[0]].item()
    assert generator.score([HEARD], [continuation], "sum", num_levels)[0] == pytest.approx(expected, abs=1e-4)
    assert generator.score([HEARD], [continuation], "mean", num_levels)[0] == pytest.approx(expected / count, abs=1e-4)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt([1, 21], None), r"prompt 0: codes are \[0, 3\], but its audio pads need \[1, 3\]"),
        (Prompt([1], np.zeros((2, 3), int)), r"codes are \[2, 3\], but its audio pads need \[0, 3\]"),
        (Prompt([]), "prompt 0: it is empty"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(generator: Generator, prompt: Prompt, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator.start([prompt])


def test_audio_must_begin_after_its_start_mark(generator: Generator) -> None:
    with pytest.raises(ValueError, match="row 0 ends with id 2"):
        generator.generate_audio(generator.start([HEARD]))
