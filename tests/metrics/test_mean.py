import math

import pytest

from bcaudio.metrics.mean import Mean


def test_mean_and_deviation_by_hand() -> None:
    metric = Mean("duration", "s", higher_is_better=False)
    metric.update([1.0, 2.0], ["a", "b"])
    metric.update([6.0], ["c"])
    # squares of -2, -1 and 3 over 2
    assert metric.report() == {"duration": 3.0, "standard_deviation": math.sqrt(7), "n": 3, "unit": "s"}
    assert metric.higher_is_better is False
    assert metric.rows.tolist() == [[1, 1, 1], [2, 4, 1], [6, 36, 1]]


def test_one_figure_has_no_deviation_and_none_has_no_mean() -> None:
    metric = Mean("mos")
    with pytest.raises(ValueError, match="no item was scored, so there is no mos"):
        metric.report()
    metric.update([3.25])
    assert metric.report() == {"mos": 3.25, "standard_deviation": None, "n": 1, "unit": ""}


def test_two_halves_give_the_joint_result_with_their_rows() -> None:
    first, second, joint = Mean("x"), Mean("x"), Mean("x")
    first.update([0.1, 0.2], ["a", "b"])
    second.update([0.3], ["c"])
    joint.update([0.1, 0.2, 0.3], ["a", "b", "c"])
    first.merge_state(second)
    assert first.report() == joint.report()
    assert (first.ids, first.rows.tolist()) == (joint.ids, joint.rows.tolist())


@pytest.mark.parametrize("figure", [math.nan, math.inf, 50_000.0])
def test_what_cannot_be_summed_is_refused_by_its_id(figure: float) -> None:
    with pytest.raises(ValueError, match=r"of b is .*below 2\^31"):
        Mean("x").update([1.0, figure], ["a", "b"])
