import importlib.util
import random

import numpy as np
import pytest
import sacrebleu

from bcaudio.metrics.bleu import BLEU, ChrF

ENGLISH = (
    ["the cat sat on a mat", "three hundred and five is the answer", "no"],
    ["the cat sat on the mat", "three hundred and six is the answer", "yes it is so"],
)
CHINESE = (["三百零五加七等于三百一十二", "我不知道"], ["三百零五加七等于三百一十三", "我知道"])


@pytest.mark.parametrize(("language", "tokenize", "corpus"), [("en", "13a", ENGLISH), ("zh", "zh", CHINESE)])
def test_value_from_summed_counts_equals_sacrebleu_on_the_corpus(
    language: str, tokenize: str, corpus: tuple[list[str], list[str]]
) -> None:
    hypotheses, references = corpus
    metric = BLEU(language)
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        metric.update([hypothesis], [reference], ["x"])
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenize)
    report = metric.report()
    assert report["bleu"] == pytest.approx(expected.score, abs=1e-9)
    assert report["bleu"] > 20
    assert (report["correct"], report["total"]) == (expected.counts, expected.totals)
    assert (report["hypothesis_length"], report["reference_length"], report["sentences"]) == (
        expected.sys_len,
        expected.ref_len,
        len(references),
    )
    assert f"tok:{tokenize}" in report["signature"]


def test_counts_by_hand() -> None:
    metric = BLEU("en")
    metric.update(["a b c"], ["a b d"], ["x"])
    assert metric.report()["correct"] == [2, 1, 0, 0]
    assert metric.report()["total"] == [3, 2, 1, 0]


def test_two_halves_give_the_joint_result() -> None:
    hypotheses, references = ENGLISH
    first, second, joint = BLEU("en"), BLEU("en"), BLEU("en")
    first.update(hypotheses[:1], references[:1], ["a"])
    second.update(hypotheses[1:], references[1:], ["b", "c"])
    joint.update(hypotheses, references, ["a", "b", "c"])
    mean = (first.compute() + second.compute()) / 2
    first.merge_state(second)
    assert first.report() == joint.report()
    assert abs(mean.item() - joint.compute().item()) > 1


def test_an_empty_reference_is_refused_by_its_id_and_an_empty_corpus_has_no_value() -> None:
    with pytest.raises(ValueError, match="item-3"):
        BLEU("en").update(["x"], [" "], ["item-3"])
    with pytest.raises(ValueError, match="no sentence"):
        BLEU("en").report()


def sentences(seed: int, number: int) -> list[str]:
    rng = random.Random(seed)
    words = ["the", "cat", "(sat)", "on", "a", "mat,", "and", "no:", "dog", "ran!"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(number)]


def test_values_of_many_sums_at_once_equal_sacrebleu() -> None:
    hypotheses, references = sentences(1, 60), sentences(2, 60)
    metric = BLEU("en")
    metric.update(hypotheses, references, [str(n) for n in range(60)])
    # corpora of one sentence, where some order never matches or cannot occur, and of sixty
    found = metric.value_of(metric.rows)
    expected = [sacrebleu.corpus_bleu([h], [[r]]).score for h, r in zip(hypotheses, references, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert min(expected) == 0.0
    assert len(set(expected)) > 20
    assert metric.compute().item() == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score, abs=1e-9)
    assert np.isnan(metric.value_of(np.zeros(10)))


@pytest.mark.parametrize(("word_order", "name"), [(0, "chrf"), (2, "chrf++")])
def test_chrf_from_summed_counts_equals_sacrebleu(word_order: int, name: str) -> None:
    hypotheses, references = [*sentences(3, 40), "x", ""], [*sentences(4, 40), "yz", "a"]
    metric = ChrF("en", word_order)
    for n, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        metric.update([hypothesis], [reference], [str(n)])
    report = metric.report()
    oracle = sacrebleu.CHRF(word_order=word_order)
    assert report[name] == pytest.approx(oracle.corpus_score(hypotheses, [references]).score, abs=1e-9)
    assert report["signature"] == str(oracle.get_signature())
    expected = [oracle.corpus_score([h], [[r]]).score for h, r in zip(hypotheses, references, strict=True)]
    np.testing.assert_allclose(metric.value_of(metric.rows), expected, rtol=0, atol=1e-9)
    assert expected[-2:] == [0.0, 0.0]
    assert report["sentences"] == 42


def test_chrf_by_hand() -> None:
    metric = ChrF("en")
    metric.update(["ab c"], ["abd"], ["x"])
    # characters without spaces: a, b of a, b, c and a, b, d; ab of ab, bc and ab, bd; nothing of abc and abd
    assert metric.rows.tolist() == [[3, 3, 2, 2, 2, 1, 1, 1, 0, *[0] * 9]]
    # precision and recall are both (2/3 + 1/2 + 0) / 3
    assert metric.report()["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 3)


def test_the_signature_is_there_before_anything_was_scored() -> None:
    assert BLEU("zh-CN").signature == f"nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:{sacrebleu.__version__}"
    assert ChrF("en").signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"


def test_a_language_whose_tokeniser_is_not_installed_is_refused() -> None:
    if importlib.util.find_spec("MeCab"):
        assert "ja-mecab" in BLEU("ja").signature
    else:
        with pytest.raises(ValueError, match=r"pip install sacrebleu\[ja\]"):
            BLEU("ja")
    with pytest.raises(ValueError, match="'no language'"):
        BLEU("no language")
