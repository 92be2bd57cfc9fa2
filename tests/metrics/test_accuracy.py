import pytest

from bcaudio.metrics.accuracy import Accuracy, ChoiceAccuracy


def test_accuracy_reports_right_answers_of_all_answers() -> None:
    metric = Accuracy()
    metric.update([True, False, True])
    metric.update([True])
    assert metric.report() == {"accuracy": 0.75, "correct": 3, "total": 4}


def test_a_choice_is_right_where_the_right_ending_has_the_lower_perplexity_and_a_tie_is_wrong() -> None:
    metric = ChoiceAccuracy()
    metric.update(right=[1.0, 3.0, 2.0, float("nan")], wrong=[2.0, 2.0, 2.0, 5.0])
    assert metric.report() == {"accuracy": 0.25, "correct": 1, "total": 4}


def test_two_halves_give_the_joint_result() -> None:
    first, second = ChoiceAccuracy(), ChoiceAccuracy()
    first.update([1.0], [2.0])
    second.update([3.0, 3.0], [2.0, 2.0])
    first.merge_state(second)
    assert first.report() == {"accuracy": 1 / 3, "correct": 1, "total": 3}


def test_no_answer_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no answer"):
        Accuracy().report()
    with pytest.raises(ValueError, match="equally long"):
        ChoiceAccuracy().update([1.0], [])
