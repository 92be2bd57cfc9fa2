import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from bcaudio.evaluation.hearing import NUMBER_WORDS
from bcaudio.evaluation.recognizers import (
    Auditor,
    NotHeardError,
    PocketSphinx,
    Remote,
    TheModelItself,
    Whisper,
    hear_items,
)
from bcaudio.inference.item import ItemError, NotRunError
from tests.evaluation.openai_server import OpenAIServer

SPECIAL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>",
]  # fmt: skip


def tone(seconds: float, hertz: float = 300.0, sample_rate: int = 16000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of one layer with random weights, saved as published ones are."""
    folder = tmp_path_factory.mktemp("whisper")
    letters = [*map(chr, range(ord("a"), ord("z") + 1)), "Ġ"]
    vocabulary = {token: i for i, token in enumerate([*letters, *SPECIAL, *(f"<|{n * 0.02:.2f}|>" for n in range(101))])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    ids = {token: vocabulary[token] for token in SPECIAL}
    end = ids["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=len(vocabulary), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=100, max_target_positions=24,
        init_std=0.5, pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    settings = {
        "lang_to_id": {token: ids[token] for token in ("<|en|>", "<|zh|>")},
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": True,
        "max_length": 16,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        "max_initial_timestamp_index": 50,
    }
    tokens = {"pad_token_id": end, "eos_token_id": end, "decoder_start_token_id": ids["<|startoftranscript|>"]}
    model.generation_config = GenerationConfig(**settings, **tokens)
    model.save_pretrained(folder)
    return folder


def test_whisper_writes_what_transformers_own_generate_gives_in_any_batch_and_order(whisper_folder: Path) -> None:
    clips = [tone(0.9), tone(0.05), tone(1.7, 900.0), tone(0.4, 2000.0)]
    model = WhisperForConditionalGeneration.from_pretrained(whisper_folder).eval()
    processor = WhisperProcessor.from_pretrained(whisper_folder)
    expected = []
    for clip in clips:
        features = processor(clip, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
        tokens = model.generate(**features, language="zh", task="transcribe", do_sample=False, num_beams=1)
        expected.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    expected[1] = ""  # half a tenth of a second is nothing to be heard
    assert len(set(expected)) > 2
    for batch_size in (1, 2, 16):
        assert Whisper(str(whisper_folder), batch_size).of(None).hear(clips, 16000, "zh") == expected


def test_whisper_is_told_the_language_and_hears_clips_beyond_its_window(whisper_folder: Path) -> None:
    ear, asked = Whisper(str(whisper_folder)).of(None), []
    model = ear._parts[1]
    generate = model.generate
    model.generate = lambda *args, **options: asked.append(options) or generate(*args, **options)
    texts = ear.hear([tone(0.5), tone(5.0)], 16000, "en")
    assert [(options["language"], options.get("return_timestamps", False)) for options in asked] == [("en", False), ("en", True)]
    assert all(isinstance(text, str) for text in texts)
    ear.hear([tone(0.5)], 16000, "mixed")
    assert asked[-1]["language"] is None
    model.generation_config.is_multilingual = False
    model.generate = lambda *args, **options: asked.append(options) or torch.zeros(1, 1, dtype=torch.long)
    ear.hear([tone(0.5)], 16000, "en")
    assert "language" not in asked[-1]


def test_whispers_stamp_tells_its_weights_and_a_folder_without_safetensors_is_not_run(
    whisper_folder: Path, tmp_path: Path
) -> None:
    stamp = Whisper(str(whisper_folder)).stamp
    assert (stamp["name"], stamp["folder"], len(stamp["weights_sha256"])) == ("whisper", whisper_folder.name, 64)
    json.dumps(stamp)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(NotRunError, match=r"not a Hugging Face folder with config.json and \*.safetensors"):
        Whisper(str(tmp_path)).of(None)


def test_the_auditor_is_the_systems_own(fake_system: Any) -> None:
    system = fake_system(heard={3: "one two", 5: "three"})
    ear = Auditor().of(system)
    assert ear.hear([np.full(12000, 0.3, np.float32), np.full(9000, 0.5, np.float32), tone(0.01)], 24000, "en") == [
        "one two", "three", "",
    ]  # fmt: skip
    first = ear.stamp
    other = fake_system(heard={1: "one"})
    other.auditor.anchor.data += 1
    assert Auditor().of(other).stamp["weights_sha256"] != first["weights_sha256"]
    assert ear.of(other).stamp["weights_sha256"] != first["weights_sha256"]  # another system, another stamp
    with pytest.raises(NotRunError, match="no auditor"):
        Auditor().of(fake_system())


def test_the_model_itself_is_asked_for_what_it_hears_in_the_sound_alone() -> None:
    class Listener:
        def __init__(self) -> None:
            self.description = {"name": "x"}

        def answer_text(self, items: Any, task: str) -> list[str]:
            assert task == "asr"
            assert all(item.sample.codes is None and item.sample.text == "" for item in items)
            return [f"{len(item.waveform(16000)) / 16000:.2f} s of {item.sample.language}" for item in items]

    ear = TheModelItself().of(Listener())
    assert ear.hear([tone(1.0, sample_rate=24000), tone(0.01), tone(0.5, sample_rate=24000)], 24000, "en") == [
        "1.00 s of en", "", "0.50 s of en",
    ]  # fmt: skip
    assert ear.hear([], 24000, "en") == []
    assert ear.stamp == {"name": "itself", "system": {"name": "x"}}


def test_an_endpoint_hears_each_clip_and_is_told_the_language() -> None:
    with OpenAIServer(lambda asked: f" {asked.body.get('language')} {len(asked.audio[0][0])} ") as server:
        ear = Remote(server.url, "whisper-1").of(None)
        assert ear.hear([tone(1.0, sample_rate=24000), tone(0.01), tone(0.5, sample_rate=24000)], 24000, "zh") == [
            "zh 16000", "", "zh 8000",
        ]  # fmt: skip
        assert ear.hear([tone(0.5)], 16000, "mixed") == ["None 8000"]
        assert [asked.path for asked in server.asked] == ["/audio/transcriptions"] * 3
        assert ear.stamp == {"name": "remote", "url": server.url, "model": "whisper-1"}


def test_a_sound_that_an_endpoint_refuses_is_that_items_failure() -> None:
    with OpenAIServer(failures=[(400, {}, "unsupported sound")]) as server:
        ear = Remote(server.url, "whisper-1", max_parallel=1)
        with pytest.raises(ItemError, match=r"b: remote cannot hear it: .*unsupported sound"):
            hear_items(ear, ["a", "b"], [tone(1.0), tone(0.5)], 16000, "en")  # the shortest is asked first
    with pytest.raises(NotHeardError) as found, OpenAIServer(failures=[(400, {}, "no")]) as server:
        Remote(server.url, "m", max_parallel=1).hear([tone(0.5)], 16000, "en")
    assert found.value.index == 0


def test_pocketsphinx_stays_within_its_grammar_and_hears_nothing_in_silence() -> None:
    pytest.importorskip("pocketsphinx")
    noise = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    ear = PocketSphinx().of(None)
    silent, heard = ear.hear([np.zeros(24000, dtype=np.float32), noise], 24000, "en")
    assert silent == ""
    assert set(heard.split()) <= set(NUMBER_WORDS)
    assert set(PocketSphinx(["seven"]).of(None).hear([noise], 24000, "en")[0].split()) <= {"seven"}
    assert ear.stamp["name"] == "pocketsphinx"
    with pytest.raises(NotRunError, match="hears English alone, not zh"):
        ear.hear([noise], 24000, "zh")
