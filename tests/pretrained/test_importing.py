"""`bcaudio import`: each kind of source, and each way in which a source can be broken."""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from bcaudio import cli
from bcaudio.checkpoint import init_from, load_model, load_state, read_fingerprint, tensor_sha256
from bcaudio.inference.system import System
from bcaudio.nn.whisper_encoder import WhisperEncoder
from bcaudio.pretrained.importing import import_pretrained
from bcaudio.recipe.load import load_recipe

Writer = Callable[..., Path]


def test_a_released_folder_becomes_a_run_that_system_takes(
    tmp_path: Path, write_released: Writer, released_state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    import_pretrained(write_released(), tmp_path / "run")
    out = capsys.readouterr().out
    assert "peak memory" in out
    assert out.count("\n") == 1
    system = System.of_run(tmp_path / "run")
    assert system.audio_llm.audio_pad_id == 82
    assert system.codes_fingerprint["codebook_sizes"] == [64, 32, 16, 16, 8, 8, 8, 8]
    assert system.codes_fingerprint["code_rate_hz"] == 12.5
    assert system.vocoder.mel_bins == 20

    name = "audio_tokenizer.audio_bridge_model.vq_list.3.codebook.embed"
    codebook = load_state(tmp_path / "run" / "tokenizer")["bridge.vq_list.3.codebook.embed"]
    assert codebook.dtype == torch.float32
    assert torch.equal(codebook, released_state[name])
    llm = load_state(tmp_path / "run" / "audio_llm")
    packed = released_state["model.layers.1.self_attn.W_pack.weight"]
    assert llm["llm.model.layers.1.self_attn.k_proj.weight"].dtype == torch.bfloat16
    # 4 query heads and 2 key-value heads of width 32
    assert torch.equal(llm["llm.model.layers.1.self_attn.k_proj.weight"], packed[128:192])
    assert torch.equal(system.audio_llm.llm.model.layers[1].self_attn.v_proj.weight.data, packed[192:].float())


def test_the_fingerprint_has_the_hash_that_checkpoint_computes(tmp_path: Path, write_released: Writer) -> None:
    import_pretrained(write_released(), tmp_path / "run")
    for name in ("tokenizer", "audio_llm", "flow", "vocoder"):
        folder = tmp_path / "run" / name
        assert read_fingerprint(folder)["weights_sha256"] == tensor_sha256(load_file(folder / "model.safetensors"))


def test_visual_tensors_are_left_out_with_one_warning(
    tmp_path: Path, write_released: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    def add(state: dict[str, Tensor], config: dict[str, Any]) -> None:
        state |= {f"model.visual_model.blocks.{i}.weight": torch.zeros(2) for i in range(3)}
        state["model.visual_bridge_model.proj.weight"] = torch.zeros(2)
        config["visual_config"] = {"enable": True, "depth": 3}

    import_pretrained(write_released(add), tmp_path / "run")
    assert capsys.readouterr().err.count("warning: ") == 1
    assert load_model(tmp_path / "run" / "audio_llm").num_codebooks == 8


def test_separate_query_key_value_projections_are_taken_as_they_are(
    tmp_path: Path, write_released: Writer, released_state: dict[str, Tensor]
) -> None:
    def unpack(state: dict[str, Tensor], config: dict[str, Any]) -> None:
        config["attention_qkv_pack"] = False
        for name in [name for name in state if ".W_pack." in name]:
            q, k, v = state.pop(name).split([128, 64, 64])
            for letter, part in zip("qkv", (q, k, v), strict=True):
                state[name.replace("W_pack", f"{letter}_proj")] = part

    import_pretrained(write_released(unpack), tmp_path / "run")
    key = load_state(tmp_path / "run" / "audio_llm")["llm.model.layers.0.self_attn.k_proj.bias"]
    assert torch.equal(key, released_state["model.layers.0.self_attn.W_pack.bias"][128:192])


def test_whisper_encoder_is_imported_for_init_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    config = WhisperConfig(
        **sizes, num_mel_bins=16, max_source_positions=50, decoder_layers=1, decoder_attention_heads=2, vocab_size=60000
    )
    theirs = WhisperForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path / "whisper")
    import_pretrained(tmp_path / "whisper", tmp_path / "run")
    assert "of the decoder are left out" in capsys.readouterr().err
    ours = WhisperEncoder(num_mels=16, dim=32, num_layers=2, num_heads=2, ffn_dim=48, max_positions=50).eval()
    report = init_from(ours, tmp_path / "run" / "encoder")
    assert (report.missing, report.unexpected) == ((), ())
    mel = torch.randn(1, 16, 100)
    with torch.no_grad():
        expected = theirs.model.encoder(mel).last_hidden_state
        hidden, _ = ours(mel, torch.tensor([100]))
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(("model_type", "tied"), [("qwen2", False), ("qwen2", True), ("qwen3", True), ("llama", False)])
def test_causal_lms_keep_their_logits_bit_for_bit(tmp_path: Path, model_type: str, tied: bool) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=40, head_dim=8, tie_word_embeddings=tied, **SIZES)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "lm", max_shard_size="20KB")
    assert (tmp_path / "lm" / "model.safetensors.index.json").exists()
    import_pretrained(tmp_path / "lm", tmp_path / "run")
    ours = load_model(tmp_path / "run" / "text_llm")
    input_ids = torch.randint(40, (2, 9))
    with torch.no_grad():
        assert torch.equal(ours(input_ids).logits, theirs(input_ids).logits)
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("vocab_size", [40, 6])
def test_a_text_tokenizer_gets_our_special_tokens_where_the_embedding_has_room(
    tmp_path: Path, vocab_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", vocab_size=vocab_size, **SIZES)).save_pretrained(
        tmp_path / "lm"
    )
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "lm" / "tokenizer.json"))
    import_pretrained(tmp_path / "lm", tmp_path / "run")
    made = Tokenizer.from_file(str(tmp_path / "run" / "text_tokenizer" / "tokenizer.json"))
    assert made.token_to_id("<|endoftext|>") == 3
    assert made.token_to_id("<B_SYS>") == (4 if vocab_size == 40 else None)
    assert ("has no room" in capsys.readouterr().err) == (vocab_size == 6)


@pytest.mark.parametrize("new_names", [False, True])
@pytest.mark.parametrize("as_folder", [False, True])
def test_hift_is_imported_under_old_and_new_names(
    tmp_path: Path, hift: dict[str, Tensor], new_names: bool, as_folder: bool
) -> None:
    state = dict(hift)
    if new_names:
        change = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
        for old, new in change.items():
            state = {"generator." * (old == ".weight_v") + name.replace(old, new): t for name, t in state.items()}
    (tmp_path / "source").mkdir()
    torch.save(state, tmp_path / "source" / "hift.pt")
    import_pretrained(tmp_path / "source" / ("" if as_folder else "hift.pt"), tmp_path / "run")
    vocoder = load_model(tmp_path / "run" / "vocoder")
    assert all(torch.equal(tensor, hift[name]) for name, tensor in vocoder.state_dict().items())
    assert len(vocoder.state_dict()) == 328
    assert vocoder.samples_per_frame == 480
    assert not list((tmp_path / "run").glob(".*"))


class Harmful:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm_was_done"),))


def truncate(folder: Path) -> None:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def remove_shard(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").unlink()


def change_json(file: str, **entries: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | entries))

    return change


def rewrite_shard(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        state = {
            **load_file(folder / "model-00001-of-00002.safetensors"),
            **load_file(folder / "model-00002-of-00002.safetensors"),
        }
        change(state)
        for file in folder.glob("model*"):
            file.unlink()
        save_file(state, folder / "model.safetensors")

    return rewrite


def forget_token(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<audiogen_start_baichuan>", "<audiogen_begin>"))


def move_token(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"]["audiogen_start_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))


def escape(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, r"model-00002-of-00002.safetensors: no complete safetensors file .* cut off or damaged"),
    "shard": (remove_shard, r"model-00001-of-00002.safetensors: missing, but .* names it for \d+ tensors; get this shard"),
    "shape": (
        rewrite_shard(lambda state: state.update({"model.norm.weight": torch.zeros(127)})),
        r"1 reshaped, e.g. model.norm.weight \(\[127\] in the file, \[128\] in the model\); .* take both from one place",
    ),
    "missing": (rewrite_shard(lambda state: state.pop("lm_head.weight")), r"1 missing, e.g. lm_head.weight"),
    "unexpected": (rewrite_shard(lambda state: state.update(foo=torch.zeros(1))), r"1 unexpected, e.g. foo"),
    "architecture": (
        change_json("config.json", architectures=["FooForX"], model_type="foo"),
        r"config.json: unknown architecture FooForX \(model_type 'foo'\); known are",
    ),
    "config": (lambda folder: (folder / "config.json").unlink(), r"config.json: no such file; give the whole published folder"),
    "json": (lambda folder: (folder / "config.json").write_text("{"), r"config.json: no valid JSON .*get it again"),
    "token": (forget_token, r"tokenizer.json: the tokenizer has no token <audiogen_start_baichuan>; add"),
    "token_id": (move_token, r"audiogen_start_token_id is 7, but .* the id 87; take both files from one place"),
    "vocabulary": (change_json("config.json", vocab_size=90), r"vocab_size is 90, but .* has a special token 92"),
    "pickle": (
        lambda folder: torch.save({"a": Harmful()}, folder / "hift.pt"),
        r"hift.pt: holds more than tensors \(code in the pickle\), so it is not opened; get the original",
    ),
    "raw pickle": (
        lambda folder: (folder / "hift.pt").write_bytes(pickle.dumps(Harmful())),
        r"hift.pt: (holds more than tensors|no complete PyTorch file)",
    ),
    "hift": (lambda folder: torch.save({"a": torch.zeros(1)}, folder / "hift.pt"), r"hift.pt: has no conv_pre.weight_v"),
    "escape": (escape, r"names '../secret.safetensors', but shards are \*.safetensors in the folder itself; refused"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_source_is_one_line_and_leaves_nothing(
    tmp_path: Path, write_released: Writer, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BCAUDIO_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    source = write_released(with_hift=False)
    change, message = BROKEN[fault]
    change(source)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        import_pretrained(source, tmp_path / "new" / "run")
    assert "\n" not in str(caught.value)
    assert cli.main(["import", str(source), "--to", str(tmp_path / "new" / "run")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def test_what_does_not_fit_is_listed_in_a_table(
    tmp_path: Path, write_released: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(state: dict[str, Tensor], _: dict[str, Any]) -> None:
        del state["model.norm.weight"]
        state["foo"] = torch.zeros(3)
        state["audio_head.headnorm.weight"] = torch.zeros(5)

    with pytest.raises(ValueError, match=r"1 missing, .*1 unexpected, .*1 reshaped"):
        import_pretrained(write_released(change), tmp_path / "run")
    table = capsys.readouterr().err
    for words in (("missing", "model.norm.weight", "[128]"), ("unexpected", "foo", "[3]"), ("reshaped", "[5]", "[128]")):
        assert any(all(word in line for word in words) for line in table.splitlines())


def test_a_full_target_and_a_wrong_kind_are_refused(tmp_path: Path, write_released: Writer) -> None:
    source = write_released(with_hift=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(ValueError, match="exists and is not empty; choose another --to"):
        import_pretrained(source, tmp_path / "run")
    with pytest.raises(ValueError, match="is of kind baichuan, not whisper; leave --kind out"):
        import_pretrained(source, tmp_path / "other", kind="whisper")
    with pytest.raises(FileNotFoundError, match=r"hift.pt: no such file"):
        import_pretrained(source, tmp_path / "other", kind="hift")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        import_pretrained(tmp_path / "nowhere", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["released", "run"]


def test_an_empty_target_is_filled_and_an_interrupt_leaves_nothing(
    tmp_path: Path, write_released: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_released(with_hift=False)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("bcaudio.pretrained.importing.write_stage", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_pretrained(source, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["released"]
    (tmp_path / "run").mkdir()
    import_pretrained(source, tmp_path / "run")
    assert load_recipe(tmp_path / "run" / "pipeline.yaml")["system"]["audio_llm"] == "audio_llm"


def test_the_full_size_script_writes_files_that_import_reads(tmp_path: Path, full_size: ModuleType) -> None:
    tensors = {"a": ("bfloat16", [3, 5]), "b": ("float32", [7]), "c": ("bfloat16", [2**23 + 11])}
    full_size.write_shard(tmp_path / "x.safetensors", tensors, torch.Generator().manual_seed(0))
    state = load_file(tmp_path / "x.safetensors")
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {name: shape for name, (_, shape) in tensors.items()}
    assert 0.019 < float(state["c"].float().std()) < 0.021
    assert [list(shard) for shard in full_size.shards_of(tensors, 60)] == [["a", "b"], ["c"]]


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path, full_size: ModuleType, repository: Path) -> None:
    def peak(name: str, vocab_size: int) -> float:
        folder = tmp_path / name
        folder.mkdir()
        config = AutoConfig.for_model("llama", vocab_size=vocab_size, **(SIZES | {"num_hidden_layers": 1}), pad_token_id=None)
        config.save_pretrained(folder)
        state = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=40, **SIZES | {"num_hidden_layers": 1}))
        shapes = {key: ("bfloat16", list(tensor.shape)) for key, tensor in state.state_dict().items()}
        shapes |= {key: ("bfloat16", [vocab_size, 32]) for key in ("model.embed_tokens.weight", "lm_head.weight")}
        full_size.write_shard(folder / "model.safetensors", shapes, torch.Generator().manual_seed(0))
        command = [sys.executable, "-m", "bcaudio", "import", str(folder), "--to", str(tmp_path / f"{name}-run")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
        return float(re.search(r"peak memory (\d+) MiB", done.stdout)[1])

    # two tensors of 128 MiB each
    assert peak("large", 2**21) < peak("small", 64) + 40
