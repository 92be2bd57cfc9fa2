from collections.abc import Callable
from typing import Any

import pytest

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Examples
from bcaudio.evaluation.human import HumanDigits, HumanReconstruction


def test_human_prompts_of_number_words_alone(
    sample: Callable[..., Sample], shards: Callable[[list[Sample]], str], fake_system: Any, examples: Examples,
    ask_and_score: Callable[..., dict[str, dict[str, Any]]],
) -> None:  # fmt: skip
    path = shards(
        [
            sample("a", "Twenty one", corpus="prompts"),
            sample("b", "dial one", corpus="prompts"),
            sample("c", "six", split="train"),
        ]
    )
    results = ask_and_score(HumanDigits(path), fake_system(texts={"a": "twenty", "c": "six"}), examples)
    assert set(results) == {"human.digits.wer"}
    assert results["human.digits.wer"]["value"] == 1 / 3
    assert [item.id for item in HumanDigits(path, limit=1).items()] == ["a"]
    with pytest.raises(ValueError, match=r"human\.digits: no prompt"):
        HumanDigits(path, words=["seven"]).items()
    results = ask_and_score(HumanReconstruction(path, levels=[8]), fake_system(), examples)
    assert results["human.reconstruction.mel_mae"]["value"] == pytest.approx(1 / 8)
    assert results["human.reconstruction.mel_mae"] == results["human.reconstruction.mel_mae.levels_8"]
    assert results["human.reconstruction.mel_mae"]["frames"] == 150
