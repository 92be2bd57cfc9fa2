from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bcaudio.audio.io import read_audio
from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Examples
from bcaudio.evaluation.reconstruction import Reconstruction

Make = Callable[..., Sample]
Write = Callable[[list[Sample]], str]
Run = Callable[..., dict[str, dict[str, Any]]]


def test_mels_by_number_of_codebooks_and_words_in_the_rebuilt_sound(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path = shards([sample("a", "one"), sample("b", "二", "zh"), sample("c", "trois", "fr")])
    system = fake_system(heard={1: "one", 2: "三"}, flow_decoder=1, vocoder=1)
    results = ask_and_score(Reconstruction(path, levels=[4, 1]), system, examples)
    assert results["reconstruction.mel_mae.levels_4"]["value"] == pytest.approx(0.25)
    assert results["reconstruction.mel_mae.levels_1"]["value"] == pytest.approx(1.0)
    assert results["reconstruction.coarse_mel_mae.levels_4"]["value"] == pytest.approx(1.0)
    assert results["reconstruction.mel_mae.levels_4"]["frames"] == 150
    assert results["reconstruction.en.wer.levels_4"]["value"] == 0.0
    assert results["reconstruction.zh.cer.levels_4"]["value"] == 1.0
    assert not {key for key in results if ".wer.levels_1" in key or ".fr." in key}
    panels = examples.found["mels"][0]["panels"]
    assert [panel["name"] for panel in panels] == ["original", "4 codebooks", "1 codebooks"]
    assert np.load(examples.root / panels[1]["file"]).shape == (50, 4)


def test_every_rebuilt_sound_is_saved_and_an_item_without_text_is_not_listened_to(
    sample: Make, shards: Write, fake_system: Any, examples: Examples
) -> None:
    benchmark = Reconstruction(shards([sample("a", "one"), sample("b", "")]), levels=[4, 1])
    outputs = benchmark.ask(fake_system(heard={1: "one"}, flow_decoder=1, vocoder=1), benchmark.items(), examples)
    assert [(out["id"], out["mode"], "audio" in out, "hypothesis" in out) for out in outputs] == [
        ("a", "levels_4", True, True), ("b", "levels_4", True, False),
        ("a", "levels_1", False, False), ("b", "levels_1", False, False),
    ]  # fmt: skip
    assert float(read_audio(examples.root / outputs[1]["audio"], 24000).mean()) == pytest.approx(0.2, abs=0.01)


def test_a_system_without_vocoder_or_auditor_gives_the_mels_alone(
    sample: Make, shards: Write, fake_system: Any, examples: Examples, ask_and_score: Run
) -> None:
    path = shards([sample("a", "one")])
    for system in (fake_system(heard={1: "one"}), fake_system(flow_decoder=1, vocoder=1)):
        assert set(ask_and_score(Reconstruction(path, levels=[2]), system, examples)) == {
            "reconstruction.mel_mae.levels_2", "reconstruction.coarse_mel_mae.levels_2",
        }  # fmt: skip
    with pytest.raises(ValueError, match="levels"):
        Reconstruction(path, levels=[0])
