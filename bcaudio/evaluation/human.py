"""Real human recordings, which no stage of the micro world has trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bcaudio.evaluation.asr import SpeechRecognition
from bcaudio.evaluation.benchmark import Item, Output, Scoring, thin
from bcaudio.evaluation.hearing import NUMBER_WORDS
from bcaudio.evaluation.reconstruction import Reconstruction
from bcaudio.metrics.counting import CountingMetric
from bcaudio.text.normalize import units


class HumanDigits(SpeechRecognition):
    """`human.digits.wer`: recognition of those human prompts that are nothing but number words.

    Args:
        shards: tar files or globs of the `prompts` corpus.
        language: of the prompts.
        words: the vocabulary; a prompt with any other word is left out.
        limit: at most so many items.
        split: None keeps all: no stage is taught on these.
        given: as for SpeechRecognition.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        *,
        language: str = "en",
        words: Sequence[str] = tuple(NUMBER_WORDS),
        limit: int | None = None,
        split: str | None = None,
        **given: Any,
    ) -> None:
        super().__init__(shards, language=language, split=split, **given)
        self.name = "human.digits"
        self.words, self.limit = frozenset(words), limit

    def items(self) -> list[Item]:
        """The prompts that fit, those with a problem left out; ValueError where none does."""
        chosen = [item for item in super().items() if not item.problem and self._fits(item)]
        if not chosen:
            raise ValueError(f"human.digits: no prompt of the data consists of the {len(self.words)} number words alone")
        return thin(chosen, self.limit)

    def _fits(self, item: Item) -> bool:
        return self.words.issuperset(units(self.reference(item), self.language))


class HumanReconstruction(Reconstruction):
    """`human.reconstruction.mel_mae` (all codebooks of the first level named) and `.levels_<K>`: human voices through the codes.

    Args:
        shards: tar files or globs of the `prompts` corpus.
        levels: numbers of codebooks; the first also gives the figure without `.levels_<K>`.
        split: None keeps all.
        batch_size: items per call of the system.
        given: as for Reconstruction.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        levels: Sequence[int] = (8,),
        *,
        split: str | None = None,
        batch_size: int = 8,
        **given: Any,
    ) -> None:
        options = {"name": "human.reconstruction", "languages_heard": (), **given}
        super().__init__(shards, levels, split=split, batch_size=batch_size, **options)

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric]:
        scored = super().score(outputs, scoring)
        return {f"{self.name}.mel_mae": scored[f"{self.name}.mel_mae.levels_{self.levels[0]}"], **scored}
