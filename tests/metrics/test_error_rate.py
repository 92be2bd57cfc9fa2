import multiprocessing
from pathlib import Path

import jiwer
import pytest
import torch.distributed as dist

from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.text.normalize import NORMALIZER

HYPOTHESES = ["one two free", "seven", "nine nine nine", ""]
REFERENCES = ["one two three four", "seven", "nine nine", "eight"]
IDS = ["a", "b", "c", "d"]


def test_report_counts_the_edits_worked_out_by_hand() -> None:
    metric = ErrorRate("en")
    metric.update(HYPOTHESES, REFERENCES, IDS)
    # free for three; four and eight missing; one nine too many: 4 errors in 8 words
    assert metric.report() == {
        "wer": 0.5,
        "errors": 4,
        "reference_words": 8,
        "substitutions": 1,
        "deletions": 2,
        "insertions": 1,
        "utterances": 4,
        "normalizer": NORMALIZER,
    }
    assert metric.compute().item() == jiwer.wer(REFERENCES, HYPOTHESES)


def test_two_halves_give_the_joint_result_and_not_the_mean_of_their_rates() -> None:
    first, second, joint = ErrorRate("en"), ErrorRate("en"), ErrorRate("en")
    first.update(HYPOTHESES[:1], REFERENCES[:1], IDS[:1])
    second.update(HYPOTHESES[1:], REFERENCES[1:], IDS[1:])
    joint.update(HYPOTHESES, REFERENCES, IDS)
    rates = [first.compute().item(), second.compute().item()]
    first.merge_state(second)
    assert first.report() == joint.report()
    assert rates == [0.5, 0.5]
    second.update(["x"], ["one"], ["e"])
    joint.update(["x"], ["one"], ["e"])
    assert joint.report()["wer"] == 5 / 9


def test_chinese_counts_characters_and_mixed_text_counts_hanzi_and_words() -> None:
    chinese = ErrorRate("zh")
    chinese.update(["二十 五。"], ["二十六"], ["z"])
    assert chinese.report() | {"normalizer": ""} == {
        "cer": 1 / 3, "errors": 1, "reference_characters": 3, "substitutions": 1, "deletions": 0, "insertions": 0,
        "utterances": 1,
        "normalizer": "",
    }  # fmt: skip
    mixed = ErrorRate("mixed")
    mixed.update(["打开 wife 网"], ["打开 WiFi 网"], ["m"])
    assert mixed.report()["mer"] == 1 / 4


def test_case_and_punctuation_are_no_errors() -> None:
    metric = ErrorRate("fr")
    metric.update(["L’eau est froide"], ["l'eau est froide."], ["f"])
    assert metric.report()["errors"] == 0
    assert metric.report()["reference_words"] == 3


def test_an_empty_reference_is_refused_by_its_id_and_counts_nothing() -> None:
    metric = ErrorRate("en")
    with pytest.raises(ValueError, match="item-7"):
        metric.update(["one", "one"], ["one", " ?! "], ["item-6", "item-7"])
    assert metric.count() == 0
    with pytest.raises(ValueError, match="no utterance"):
        metric.report()
    assert metric.report(allow_empty=True) == {}


def test_an_unknown_language_and_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="'de'"):
        ErrorRate("de")
    with pytest.raises(ValueError, match="equally long"):
        ErrorRate("en").update(["one"], ["one", "two"], ["a"])


def _half(rank: int, file: str, queue: "multiprocessing.Queue") -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    metric = ErrorRate("en")
    if rank == 0:  # rank 1 has seen nothing
        metric.update(HYPOTHESES, REFERENCES, IDS)
    queue.put((rank, metric.report(allow_empty=True), int(metric.utterances)))
    dist.destroy_process_group()


def test_ranks_are_summed_and_keep_their_own_counts(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_half, args=(rank, str(tmp_path / "store"), queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = {rank: (report, local) for rank, report, local in (queue.get(timeout=60) for _ in processes)}
    for process in processes:
        process.join()
    assert found[0][0] == found[1][0]
    assert found[0][0]["wer"] == 0.5
    assert (found[0][1], found[1][1]) == (4, 0)
