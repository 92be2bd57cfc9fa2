import math

import pytest

from bcaudio.metrics.perplexity import Perplexity


def test_nats_and_tokens_are_summed_before_the_exponent() -> None:
    metric = Perplexity()
    metric.update(-2.0, 1, 4, "a")
    metric.update(-1.0, 5, 2, "b")
    report = metric.report()
    assert report["perplexity"] == pytest.approx(math.exp(3 / 6))
    assert report["bits_per_byte"] == pytest.approx(3 / math.log(2) / 6)
    assert (report["nats"], report["tokens"], report["bytes"]) == (3.0, 6, 6)
    assert (metric.ids, metric.rows.tolist()) == (["a", "b"], [[2, 1, 4], [1, 5, 2]])


def test_no_token_has_no_perplexity_and_an_impossible_text_is_refused_by_its_id() -> None:
    with pytest.raises(ValueError, match="no token was scored"):
        Perplexity().report()
    with pytest.raises(ValueError, match="nats of line-3 is inf"):
        Perplexity().update(-math.inf, 4, 9, "line-3")
