"""Real human recordings, which no stage of the micro world has trained on."""

from __future__ import annotations

from collections.abc import Sequence

from bcaudio.evaluation.asr import SpeechRecognition
from bcaudio.evaluation.benchmark import Item, as_shards, thin
from bcaudio.evaluation.hearing import NUMBER_WORDS
from bcaudio.evaluation.reconstruction import Reconstruction
from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.text.normalize import units


class HumanDigits(SpeechRecognition):
    """`human.digits.wer`: recognition of those human prompts that are nothing but number words.

    Args:
        shards: tar files or globs of the `prompts` corpus, with codes.
        language: of the prompts.
        words: the vocabulary; a prompt with any other word is left out.
        limit: at most so many items.
        split: None keeps all: no stage is taught on these.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        language: str = "en",
        words: Sequence[str] = tuple(NUMBER_WORDS),
        limit: int | None = None,
        split: str | None = None,
        batch_size: int = 32,
        audio_llm: str | None = None,
    ) -> None:
        super().__init__(shards, language, limit, None, split, batch_size, audio_llm, "human.digits")
        self.shards = as_shards(shards, language=language, split=split)
        self.words, self.limit = frozenset(words), limit

    def items(self) -> list[Item]:
        chosen = [item for item in super().items() if self.words.issuperset(units(item.sample.spans[0].text, self.language))]
        if not chosen:
            raise ValueError(
                f"human.digits: no prompt of {', '.join(self.shards.paths)} consists of the {len(self.words)} number words alone"
            )
        return thin(chosen, self.limit)

    def score(self, outputs: Sequence[dict]) -> dict[str, dict]:
        scored = super().score(outputs)
        name = ErrorRate(self.language).name
        return {f"human.digits.{name}": scored[f"human.digits.{self.language}.{name}"]}


class HumanReconstruction(Reconstruction):
    """`human.reconstruction.mel_mae` (all codebooks of the first level named) and `.levels_<K>`: human voices through the codes.

    Args:
        shards: tar files or globs of the `prompts` corpus.
        levels: numbers of codebooks; the first also gives the figure without `.levels_<K>`.
        language: keep only this; None keeps all.
        limit: at most so many items.
        split: None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        levels: Sequence[int] = (8,),
        language: str | None = None,
        limit: int | None = None,
        split: str | None = None,
        batch_size: int = 8,
        audio_llm: str | None = None,
    ) -> None:
        super().__init__(
            shards, levels, language, limit, None, split, batch_size, audio_llm, "human.reconstruction", languages_heard=()
        )

    def score(self, outputs: Sequence[dict]) -> dict[str, dict]:
        scored = super().score(outputs)
        return {"human.reconstruction.mel_mae": scored[f"human.reconstruction.mel_mae.levels_{self.levels[0]}"], **scored}
