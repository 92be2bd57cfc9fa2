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


def test_scores_between_wrong_and_right_are_summed() -> None:
    metric = Accuracy()
    metric.update([0.75, 1, 0], ["a", "b", "c"])
    assert metric.report() == {"accuracy": 1.75 / 3, "correct": 1.75, "total": 3}
    assert (metric.ids, metric.rows.tolist()) == (["a", "b", "c"], [[0.75, 1], [1, 1], [0, 1]])
    for score in (1.01, -0.5, float("nan")):
        with pytest.raises(ValueError, match=f"score of e is {score}; it must lie"):
            metric.update([1, score], ["d", "e"])
    assert metric.count() == 3


def test_items_without_ids_are_numbered_on() -> None:
    metric = Accuracy()
    metric.update([True, False])
    metric.update([True])
    assert metric.ids == ["0", "1", "2"]
    assert metric.rows.dtype == "int64"


def test_of_several_choices_the_right_one_must_be_strictly_the_best() -> None:
    nan = float("nan")
    metric = ChoiceAccuracy()
    metric.update([1.0, 1.0, 1.0, 1.0], [[2.0, 3.0, 4.0], [2.0, 1.0], [2.0, 0.5], [2.0, nan]], ["a", "b", "c", "d"])
    assert metric.rows[:, 0].tolist() == [1, 0, 0, 0]
    likelihoods = ChoiceAccuracy()
    likelihoods.update_scores([[-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-1.0, -1.0]], ["a", "b", "c"])
    assert likelihoods.rows[:, 0].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="b has no wrong choice"):
        metric.update([1.0, 1.0], [[2.0], []], ["a", "b"])
