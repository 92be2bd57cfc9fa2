import pytest
import sacrebleu

from bcaudio.metrics.bleu import BLEU

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
