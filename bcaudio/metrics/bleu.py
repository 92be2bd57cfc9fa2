"""Corpus BLEU from summed n-gram counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sacrebleu.metrics import BLEU as SacreBLEU
from torch import Tensor

from bcaudio.metrics.counting import CountingMetric

TOKENIZERS = {"zh": "zh"}
MAX_ORDER = 4


class BLEU(CountingMetric):
    """Corpus BLEU in 0-100, equal to `sacrebleu.corpus_bleu` on the joint corpus (arXiv 2502.17239, section 4, S2TT).

    Args:
        language: the target language; `zh` is tokenised by sacrebleu's `zh`, every other by `13a`.
    """

    higher_is_better = True
    name = "bleu"

    def __init__(self, language: str) -> None:
        super().__init__()
        self.language = language
        self.scorer = SacreBLEU(tokenize=TOKENIZERS.get(language, "13a"))
        for name in ("hypothesis_length", "reference_length", "sentences"):
            self.add_count(name)
        self.add_count("correct", (MAX_ORDER,))
        self.add_count("total", (MAX_ORDER,))

    def update(self, hypotheses: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> None:
        """Adds the n-gram counts of each hypothesis against its one reference; ValueError naming the id of an empty one."""
        self._check_pairs(hypotheses=hypotheses, references=references, ids=ids)
        for item, reference in zip(ids, references, strict=True):
            if not reference.strip():
                raise ValueError(f"{item}: the reference translation is empty; BLEU needs one, so drop the item or correct it")
        if not references:
            return
        score = self.scorer.corpus_score(list(hypotheses), [list(references)])
        self.correct += torch.tensor(score.counts, dtype=torch.int64, device=self.correct.device)
        self.total += torch.tensor(score.totals, dtype=torch.int64, device=self.total.device)
        self.hypothesis_length += score.sys_len
        self.reference_length += score.ref_len
        self.sentences += len(references)

    def value(self) -> Tensor:
        """BLEU in 0-100 (exponential smoothing, as sacrebleu does by default), float64."""
        if self.count() == 0:
            raise ValueError("BLEU: no sentence was scored")
        score = SacreBLEU.compute_bleu(
            correct=self.correct.tolist(),
            total=self.total.tolist(),
            sys_len=int(self.hypothesis_length),
            ref_len=int(self.reference_length),
            smooth_method="exp",
        )
        return torch.tensor(score.score, dtype=torch.float64)

    def count(self) -> int:
        """Sentences."""
        return int(self.sentences)

    def counts(self) -> dict[str, Any]:
        """n-gram counts of order 1 to 4, lengths in tokens, sentences and sacrebleu's signature."""
        return {
            "correct": self.correct.tolist(),
            "total": self.total.tolist(),
            "hypothesis_length": int(self.hypothesis_length),
            "reference_length": int(self.reference_length),
            "sentences": int(self.sentences),
            "signature": self.signature,
        }

    @property
    def signature(self) -> str:
        """sacrebleu's signature of tokeniser, smoothing and version, for one reference."""
        return "nrefs:1|" + "|".join(
            part for part in str(self.scorer.get_signature()).split("|") if not part.startswith("nrefs:")
        )
