"""Corpus BLEU and chrF from summed n-gram counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU as SacreBLEU
from sacrebleu.metrics import CHRF as SacreCHRF

from bcaudio.metrics.counting import CountingMetric, divide
from bcaudio.text.normalize import base_language

TOKENIZERS = {"zh": "zh", "cmn": "zh", "yue": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
MAX_ORDER = 4


class _Translation(CountingMetric):
    """What BLEU and chrF share: sacrebleu's statistics per sentence, from one reference each."""

    higher_is_better = True
    counted = "sentence"
    scorer: SacreBLEU | SacreCHRF

    def __init__(self, language: str, scorer: SacreBLEU | SacreCHRF) -> None:
        super().__init__()
        base_language(language)  # refuses what is no language code
        self.language, self.scorer = language, scorer
        scorer.num_refs = 1  # for the signature of a rank that has seen nothing

    def update(self, hypotheses: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Adds the n-gram counts of each hypothesis against its one reference; ValueError naming the id of an empty one."""
        self._check_pairs(hypotheses=hypotheses, references=references, ids=ids)
        for item, reference in zip(ids, references, strict=True):
            if not reference.strip():
                raise ValueError(
                    f"{item}: the reference translation is empty; {type(self).__name__} needs one, so drop the item or correct it"
                )
        if references:
            found = self.scorer._extract_corpus_statistics(list(hypotheses), [list(references)])
            self.add_rows(np.array(found, np.int64), ids)

    @property
    def signature(self) -> str:
        """sacrebleu's signature of tokeniser or orders, smoothing and version, for one reference."""
        return str(self.scorer.get_signature())


class BLEU(_Translation):
    """Corpus BLEU in 0-100, equal to `sacrebleu.corpus_bleu` on the joint corpus (arXiv 2502.17239, section 4, S2TT).

    Args:
        language: the target language; zh, cmn and yue are tokenised by sacrebleu's `zh`, ja and ko by its MeCab tokenisers
            (which need `pip install sacrebleu[ja]` or `[ko]`), every other by `13a`.

    Raises:
        ValueError: no language code, or its tokeniser is not installed.
    """

    name = "bleu"
    statistics = (
        "hypothesis_length",
        "reference_length",
        *(f"{what}_{n}" for what in ("correct", "total") for n in range(1, MAX_ORDER + 1)),
    )

    def __init__(self, language: str) -> None:
        base = base_language(language)
        try:
            scorer = SacreBLEU(tokenize=TOKENIZERS.get(base, "13a"))
        except (ImportError, RuntimeError) as error:
            raise ValueError(f"BLEU: the tokeniser for {base} is not installed; pip install sacrebleu[{base}]") from error
        super().__init__(language, scorer)

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """BLEU in 0-100, with exponential smoothing, as sacrebleu does by default; NaN where no item has a reference."""
        sums = np.asarray(sums, np.float64)
        length, reference, correct, total = sums[..., 0], sums[..., 1], sums[..., 2 : 2 + MAX_ORDER], sums[..., 2 + MAX_ORDER :]
        smooth = 2.0 ** np.cumsum(correct == 0, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = 100 * np.where(correct == 0, 1 / (smooth * total), correct / total)
            brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
            score = brevity * np.exp(np.log(precision).mean(axis=-1))
        none = (correct == 0).all(axis=-1) | (total == 0).any(axis=-1)
        return np.where(reference == 0, np.nan, np.where(none, 0.0, score))

    def counts(self) -> dict[str, Any]:
        """n-gram counts of order 1 to 4, lengths in tokens, sentences and sacrebleu's signature."""
        return {
            **{what: [self.sum_of(f"{what}_{n}") for n in range(1, MAX_ORDER + 1)] for what in ("correct", "total")},
            "hypothesis_length": self.sum_of("hypothesis_length"),
            "reference_length": self.sum_of("reference_length"),
            "sentences": self.count(),
            "signature": self.signature,
        }


class ChrF(_Translation):
    """Corpus chrF in 0-100, equal to `sacrebleu.corpus_chrf` on the joint corpus (Popović 2015, 2017).

    Args:
        language: the target language; chrF treats all alike.
        word_order: longest word n-gram beside the characters' up to 6; 2 is chrF++.
    """

    def __init__(self, language: str, word_order: int = 0) -> None:
        scorer = SacreCHRF(word_order=word_order)
        orders = [f"{n}_characters" for n in range(1, scorer.char_order + 1)] + [f"{n}_words" for n in range(1, word_order + 1)]
        self.statistics = tuple(f"{what}_{n}" for n in orders for what in ("hypothesis", "reference", "match"))
        self.word_order = word_order
        super().__init__(language, scorer)

    @property
    def name(self) -> str:
        """`chrf`, `chrf+` or `chrf++`."""
        return "chrf" + "+" * self.word_order

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """chrF in 0-100: the F score of precision and recall, each the mean over the orders that both sides have."""
        hypothesis, reference, match = (np.asarray(sums[..., n::3], np.float64) for n in range(3))
        both = (hypothesis > 0) & (reference > 0)
        orders = np.maximum(both.sum(axis=-1), 1)
        precision = np.where(both, match / np.maximum(hypothesis, 1), 0.0).sum(axis=-1) / orders
        recall = np.where(both, match / np.maximum(reference, 1), 0.0).sum(axis=-1) / orders
        weight = self.scorer.beta**2
        score = np.nan_to_num(divide(100 * (1 + weight) * precision * recall, weight * precision + recall))
        return np.where((reference == 0).all(axis=-1), np.nan, score)

    def counts(self) -> dict[str, Any]:
        """n-gram counts by order (characters, then words), sentences and sacrebleu's signature."""
        sums = [self.sum_of(name) for name in self.statistics]
        return {
            **{what: sums[n::3] for n, what in enumerate(("hypothesis", "reference", "match"))},
            "sentences": self.count(),
            "signature": self.signature,
        }
