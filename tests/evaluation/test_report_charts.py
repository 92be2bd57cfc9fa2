"""Charts as inline SVG."""

import re

import pytest

from bcaudio.evaluation.report_charts import Bar, bar_chart, line_chart, linear_ticks, log_ticks, thin


def test_ticks_are_round_and_cover_the_range() -> None:
    assert linear_ticks(0.0, 1196.0, about=5) == [0.0, 500.0, 1000.0, 1500.0]
    assert linear_ticks(-0.1, 0.3) == [-0.1, 0.0, 0.1, 0.2, 0.3]
    assert log_ticks(0.02, 30.0) == pytest.approx([0.01, 0.1, 1.0, 10.0, 100.0])


def test_thinning_keeps_the_mean_and_the_last_point() -> None:
    points = [(float(i), float(i % 2)) for i in range(1001)]
    few = thin(points, 101)
    assert len(few) == 101
    assert few[0] == (4.5, 0.5)  # the mean of the steps 0..9
    assert few[-1] == (1000.0, 0.0)


def test_chart_uses_a_log_axis_for_a_wide_positive_range_only() -> None:
    assert "log scale" in line_chart("loss", {"train": [(0, 100.0), (1, 1.0)]})
    assert "log scale" not in line_chart("loss", {"train": [(0, 100.0), (1, 50.0)]})
    assert "log scale" not in line_chart("loss", {"train": [(0, 100.0), (1, 0.0)]})


def test_chart_places_points_where_the_axes_say() -> None:
    svg = line_chart("x", {"a": [(0, 0.0), (1, 1.0)]})
    assert 'points="50.0,186.0 370.0,10.0"' in svg  # 380 x 210 less margins 50, 10, 10, 24


@pytest.mark.parametrize("values", [[(0, 1.0)], [(0, 0.0), (1, 0.0)], [(3, 1e-30), (4, 1e30)], [(0, -5.0), (1, -5.0)]])
def test_charts_of_one_point_or_no_spread_have_finite_places(values: list[tuple[float, float]]) -> None:
    numbers = [float(n) for n in re.search(r'points="([^"]+)"', line_chart("x", {"a": values}))[1].replace(",", " ").split()]
    assert len(numbers) == 2 * len(values)
    assert all(-1 <= n <= 381 for n in numbers)


def test_bars_begin_at_zero_and_whiskers_and_marks_stand_where_the_axis_says() -> None:
    svg = bar_chart("wer", [Bar("a", 0.5, (0.25, 0.75), [1.0]), Bar("b", 0.0)])
    # 0 .. 1 on 260 .. 700; rows are 24 high
    assert '<rect class="bar" x="260.0" y="6.0" width="220.0" height="12" rx="2"/>' in svg
    assert 'd="M370.0 8.0v8m0 -4H590.0m0 -4v8"' in svg
    assert 'd="M700.0 6.0l5 6l-5 6l-5 -6z"' in svg
    assert '<rect class="bar" x="260.0" y="30.0" width="0.0"' in svg


def test_a_negative_bar_ends_at_zero() -> None:
    svg = bar_chart("gain", [Bar("a", -1.0), Bar("b", 1.0)])
    assert '<rect class="bar" x="260.0" y="6.0" width="220.0"' in svg
    assert '<rect class="bar" x="480.0" y="30.0" width="220.0"' in svg


def test_a_bar_that_is_named_by_markup_is_harmless() -> None:
    assert "<script" not in bar_chart("<script>", [Bar("<script>", 1.0)])
