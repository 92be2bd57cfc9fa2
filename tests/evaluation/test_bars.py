import pytest

from bcaudio.evaluation.bars import parse_bar

RESULTS = {"llm.accuracy": {"value": 0.9}, "absent": {"value": None}}


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("<= 0.05", 0.05, True),
        ("<=0.05", 0.0501, False),
        ("< 5e-2", 0.05, False),
        (">= -1", -1.0, True),
        (">= llm.accuracy - 0.02", 0.88, True),
        (">= llm.accuracy - 0.02", 0.879, False),
        ("> llm.accuracy", 0.9, False),
        ("<= llm.accuracy + .1", 1.0, True),
        (">= 0.9 * llm.accuracy", 0.81, True),
        (">= 0.9 * llm.accuracy", 0.809, False),
        (">= absent", 1.0, False),
        (">= unheard.of", 1.0, False),
        (">= 0", None, False),
    ],
)
def test_a_bar_compares_with_a_number_or_another_result(text: str, value: float | None, holds: bool) -> None:
    assert parse_bar(text, "bars.x").holds(value, RESULTS) is holds


@pytest.mark.parametrize("text", ["0.05", "=> 0.05", "<= ", "<= 0.05 0.06", 0.05, None, ">= llm.accuracy * 2"])
def test_another_form_is_refused_with_its_place(text: object) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml: bars\.x"):
        parse_bar(text, "recipe.yaml: bars.x")
