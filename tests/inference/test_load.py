"""What `--model` may name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bcaudio.inference.load import system_of
from bcaudio.inference.remote import RemoteSystem
from bcaudio.inference.system import System
from tests.evaluation.openai_server import OpenAIServer
from tests.pretrained.conftest import full_size, released_config, released_state, write_released  # noqa: F401 (fixtures)


def test_a_run_is_loaded_with_options(run_dir: Path) -> None:
    system = system_of(str(run_dir), max_text_tokens=7)
    assert isinstance(system, System)
    assert (system.max_text_tokens, system.max_frames) == (7, 100)


def test_an_endpoint_takes_its_model_from_the_url_or_an_option(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        system = system_of(f"openai:{server.url}#small", cache=tmp_path)
        assert isinstance(system, RemoteSystem)
        assert (system.client.url, system.client.model) == (server.url, "small")
        assert system.client.cache == tmp_path / "answers"
        assert system_of(f"openai:{server.url}", model="large", cache=tmp_path).client.model == "large"
        with pytest.raises(ValueError, match=r"names no model; write openai:http.*#MODEL"):
            system_of(f"openai:{server.url}")


def test_published_weights_are_imported_once_and_anew_when_they_change(
    tmp_path: Path,
    write_released: Callable[..., Path],  # noqa: F811
) -> None:
    source = write_released()
    first = system_of(source, cache=tmp_path / "cache")
    assert (first.max_text_tokens, first.max_frames) == (512, 1500)
    (folder,) = (tmp_path / "cache").iterdir()
    made = (folder / "audio_llm" / "model.safetensors").stat().st_mtime_ns
    again = system_of(source, cache=tmp_path / "cache", max_frames=3)
    assert again.max_frames == 3
    assert (folder / "audio_llm" / "model.safetensors").stat().st_mtime_ns == made
    assert str(source) not in json.dumps(first.description)
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    system_of(source, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_models_without_an_audio_head_are_refused_before_they_are_loaded(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="is of kind llm, without audio head; give a Baichuan-Audio folder"):
        system_of(tmp_path / "llm")
    shutil.copytree(run_dir, tmp_path / "run")
    recipe = yaml.safe_load((run_dir / "sft" / "recipe.yaml").read_text())
    del recipe["model"]["head"]
    (tmp_path / "run" / "sft" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "run" / "sft" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"run/pipeline\.yaml: system\.audio_llm is sft, which has no audio head; name a stage"):
        system_of(tmp_path / "run")


def test_what_is_no_model_is_told_with_the_remedy(tmp_path: Path, run_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder; give a run, a folder of published weights, or openai:URL#MODEL"):
        system_of(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds neither pipeline\.yaml .* nor config\.json"):
        system_of(run_dir / "sft")
