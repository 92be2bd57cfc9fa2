"""One pipeline for corpora that need different steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_prep.utterance import Clip, Drops, Step


class Only:
    """Clips of some corpora go through a step, one by one; the others pass, in their place.

    In drops and accounts it stands under the name of its step.

    Args:
        step: a transform.
        corpora: names of the corpora.

    Raises:
        ValueError: no corpus, or a survey, which must see all clips.
    """

    def __init__(self, step: Step, corpora: Sequence[str]) -> None:
        name = type(step).__name__
        if not corpora or isinstance(corpora, str):
            raise ValueError(f"Only: corpora of {name} is {corpora!r}; give a list of at least one corpus")
        if hasattr(step, "judge"):
            raise ValueError(f"Only: {name} is a survey, which sees all clips; put it into the pipeline itself")
        self.step, self.corpora = step, tuple(corpora)

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        # what the step inside drops has come into this one: the books are kept by the steps of the pipeline
        drops.names = {**drops.names, id(self.step): drops.names.get(id(self), type(self).__name__)}
        for clip in clips:
            yield from self.step(iter([clip]), drops) if clip.utterance.corpus in self.corpora else (clip,)
