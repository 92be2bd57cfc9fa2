"""`bcaudio export`: back to the published layout byte for byte, and into what transformers loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, WhisperModel

from bcaudio import cli
from bcaudio.checkpoint import load_model, save_model
from bcaudio.inference.system import System
from bcaudio.pretrained.exporting import export_model
from bcaudio.pretrained.importing import import_pretrained
from bcaudio.pretrained.nodes import complete
from bcaudio.recipe.build import build
from bcaudio.recipe.load import dump_recipe, load_recipe
from bcaudio.recipe.record import stage_record

Writer = Callable[..., Path]
Tensors = Callable[[Path], dict[str, Tensor]]
Same = Callable[[dict[str, Tensor], dict[str, Tensor]], bool]


@pytest.fixture
def imported(tmp_path: Path, write_released: Writer) -> Path:
    """A run made from the small published folder `released` beside it."""
    import_pretrained(write_released(), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def trained(tmp_path: Path, imported: Path) -> Path:
    """A run as training leaves it: fp32, with parts the published schema has no words for, and an auditor."""
    run = tmp_path / "trained"
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "tokenizer": lambda node: node["bridge"]["quantizer"].update(restart_after=7, ema_decay=0.9),
        "audio_llm": lambda node: node["head"].update(head_dim=64),
        "flow": lambda node: node.update(mel_mean=-4.0, mel_std=2.0),
        "vocoder": lambda node: node.update(resblock_dilations=[[1, 2, 3]] * 3, audio_limit=0.9),
    }
    for name, change in changes.items():
        node = load_recipe(imported / name / "recipe.yaml")["model"]
        change(node)
        with stage_record(run / name, {"name": name, "model": node}):
            fingerprint = json.loads((imported / name / "fingerprint.json").read_text())
            save_model(run / name, build(node), fingerprint)
    shutil.copytree(imported / "text_tokenizer", run / "text_tokenizer")
    (run / "prepare").mkdir()
    (run / "prepare" / "units.json").write_text('["one", "two"]')
    auditor = {"_target_": "bcaudio.models.ctc_recognizer.CTCRecognizer", "dim": 8, "num_layers": 1}
    recipe = {"name": "auditor", "model": auditor | {"units_file": "runs/gone/prepare/units.json"}}
    with stage_record(run / "auditor", recipe):
        save_model(run / "auditor", build(auditor | {"units": ["one", "two"]}), {})
    names = ("text_tokenizer", "tokenizer", "audio_llm", "vocoder", "auditor")
    system = {name: name for name in names} | {"flow_decoder": "flow"}
    (run / "pipeline.yaml").write_text(dump_recipe({"name": "micro", "system": system}))
    return run


def weights(run: Path) -> dict[str, Tensor]:
    names = ("tokenizer", "audio_llm", "flow", "vocoder")
    return {f"{stage}/{name}": t for stage in names for name, t in load_file(run / stage / "model.safetensors").items()}


def test_what_was_imported_goes_back_byte_for_byte(
    tmp_path: Path,
    imported: Path,
    released_state: dict[str, Tensor],
    hift: dict[str, Tensor],
    tensors_of: Tensors,
    identical: Same,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export_model(imported, tmp_path / "out", "baichuan")
    out = tmp_path / "out"
    assert identical(tensors_of(out), released_state)
    assert identical(torch.load(out / "hift.pt", weights_only=True), hift)
    for file in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (out / file).read_bytes() == (tmp_path / "released" / file).read_bytes()
    assert not (out / "bcaudio.safetensors").exists()
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == released_state.keys()
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in released_state.values())
    assert "peak memory" in capsys.readouterr().out


def test_shards_are_small_enough_and_in_the_published_order(tmp_path: Path, imported: Path, tensors_of: Tensors) -> None:
    export_model(imported, tmp_path / "out", "baichuan", shard_bytes=1_000_000)
    files = sorted(tmp_path.glob("out/model-*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        state = load_file(file)
        assert len(state) == 1 or sum(t.numel() * t.element_size() for t in state.values()) <= 1_000_000
    assert "model.embed_tokens.weight" in load_file(files[0])
    assert "lm_head.weight" in load_file(files[-1])
    import_pretrained(tmp_path / "out", tmp_path / "again")
    assert weights(tmp_path / "again").keys() == weights(imported).keys()


def test_a_trained_run_comes_back_identical(
    tmp_path: Path, trained: Path, identical: Same, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(trained, tmp_path / "out", "baichuan")
    assert "auditor has no place in the released layout" in capsys.readouterr().err
    import_pretrained(tmp_path / "out", tmp_path / "again")
    assert identical(weights(tmp_path / "again"), weights(trained))
    assert "tokenizer/bridge.vq_list.0.codebook.idle_steps" in weights(tmp_path / "again")
    for stage in ("tokenizer", "flow", "vocoder"):
        before, after = (complete(load_recipe(run / stage / "recipe.yaml")["model"]) for run in (trained, tmp_path / "again"))
        assert after == before
    head = load_model(tmp_path / "again" / "audio_llm").audio_head
    assert head.transformer_layers[0].self_attention.num_heads == 2
    assert System.of_run(tmp_path / "again").auditor is None


def test_a_changed_model_is_not_exported_under_the_old_configuration(
    tmp_path: Path, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(imported / "flow" / "recipe.yaml")
    recipe["model"]["mel_mean"] = -5.0
    (imported / "flow" / "recipe.yaml").write_text(dump_recipe(recipe))
    export_model(imported, tmp_path / "out", "baichuan")
    assert "flow differ from released_config.json; a new config.json is made" in capsys.readouterr().err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["bcaudio"] == {"flow": {"mel_mean": -5.0}}
    assert config["torch_dtype"] == "bfloat16"
    assert config["audio_config"]["audiogen_start_token_id"] == 87


def test_the_language_model_of_a_run_loads_in_transformers_with_the_same_logits(tmp_path: Path, trained: Path) -> None:
    export_model(trained, tmp_path / "out", "huggingface")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "text_llm").eval()
    ours = load_model(trained / "audio_llm")
    input_ids = torch.randint(80, (2, 11))
    with torch.no_grad():
        assert torch.equal(theirs(input_ids).logits, ours.text_logits(ours(input_ids).hidden))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "text_llm")
    assert tokenizer.convert_tokens_to_ids("<audio_pad_baichuan>") == 82
    assert tokenizer.eos_token_id == 89


def test_the_encoder_loads_as_whisper_with_the_same_output(tmp_path: Path, trained: Path) -> None:
    export_model(trained / "tokenizer", tmp_path / "out", "huggingface")
    theirs = WhisperModel.from_pretrained(tmp_path / "out").encoder.eval()
    ours = load_model(trained / "tokenizer").encoder
    mel = torch.randn(1, 16, 400)
    with torch.no_grad():
        expected = theirs(mel).last_hidden_state
        hidden, _ = ours(mel, torch.tensor([400]))
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)
    import_pretrained(tmp_path / "out", tmp_path / "back")
    encoder = {
        n.removeprefix("encoder."): t for n, t in load_model(trained / "tokenizer").state_dict().items() if "encoder." in n
    }
    back = load_model(tmp_path / "back" / "encoder").state_dict()
    assert back.keys() == encoder.keys()
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in back.items())


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_imported_causal_lms_go_back_to_transformers(tmp_path: Path, model_type: str, tied: bool) -> None:
    config = AutoConfig.for_model(
        model_type,
        **{"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied},
    )
    first = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    first.save_pretrained(tmp_path / "lm")
    import_pretrained(tmp_path / "lm", tmp_path / "run")
    export_model(tmp_path / "run" / "text_llm", tmp_path / "out", "huggingface")
    second = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert second.dtype == torch.bfloat16
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) != tied
    input_ids = torch.randint(40, (1, 7))
    with torch.no_grad():
        assert torch.equal(first(input_ids).logits, second(input_ids).logits)


def test_a_clean_copy_is_a_run_of_its_own(
    tmp_path: Path, trained: Path, identical: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained / "flow" / "logs").mkdir()
    export_model(trained, tmp_path / "out", "bcaudio")
    shutil.rmtree(trained)
    shutil.rmtree(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "out")
    system = System.of_run(tmp_path / "out")
    assert system.auditor.units == ["one", "two"]
    assert {path.name for path in (tmp_path / "out" / "flow").iterdir()} == {
        "model.safetensors",
        "recipe.yaml",
        "fingerprint.json",
        "stage.json",
    }


def test_a_single_stage_is_copied_and_checked(tmp_path: Path, trained: Path) -> None:
    export_model(trained / "flow", tmp_path / "flow", "bcaudio")
    assert (tmp_path / "flow" / "model.safetensors").read_bytes() == (trained / "flow" / "model.safetensors").read_bytes()
    weights_file = trained / "flow" / "model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(ValueError, match=r"SHA-256 .* but its fingerprint.json says"):
        export_model(trained / "flow", tmp_path / "second", "bcaudio")
    assert not list(tmp_path.glob("second*"))


@pytest.mark.parametrize(
    ("stage", "form", "message"),
    [
        ("nowhere", "bcaudio", r"nowhere: neither pipeline.yaml nor recipe.yaml here; give a run folder"),
        ("flow", "baichuan", r"flow: has no text_tokenizer, tokenizer, audio_llm, flow_decoder, which the released layout needs"),
        ("flow", "huggingface", r"flow: holds a bcaudio.models.flow_decoder.FlowDecoder, which transformers has no class for"),
        ("text_tokenizer", "huggingface", r"text_tokenizer: this stage has no weights"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    tmp_path: Path,
    imported: Path,
    stage: str,
    form: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BCAUDIO_TRACEBACK", raising=False)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_model(imported / stage, tmp_path / "out", form)
    assert cli.main(["export", str(imported / stage), "--to", str(tmp_path / "out"), "--format", form]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.glob("out*"))


def test_an_unfinished_or_misfit_stage_is_refused(tmp_path: Path, imported: Path) -> None:
    record = imported / "flow" / "stage.json"
    record.write_text(record.read_text().replace('"done"', '"running"'))
    with pytest.raises(FileNotFoundError, match=r"flow: this stage is not finished"):
        export_model(imported, tmp_path / "out", "baichuan")
    record.write_text(record.read_text().replace('"running"', '"done"'))
    recipe = load_recipe(imported / "flow" / "recipe.yaml")
    recipe["model"]["prenet"]["num_layers"] = 1
    (imported / "flow" / "recipe.yaml").write_text(dump_recipe(recipe))
    with pytest.raises(ValueError, match=r"flow/model.safetensors: \d+ unexpected, e.g. prenet.transformer_layers.1"):
        export_model(imported, tmp_path / "out", "baichuan")
    assert not list(tmp_path.glob("out*"))
