"""What generation and scoring read: prompts, special ids, batches of like length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class SpecialIdsLike(Protocol):
    """The special ids generation needs (`bcaudio.text.special_tokens.SpecialIds` has them)."""

    audio_pad: int
    audio_start: int
    audio_end: int
    audiogen_start: int
    audiogen_end: int
    audiotext_start: int
    eos: int


@dataclass(frozen=True)
class Prompt:
    """Token ids with the codes [N, K] of their audio pads, in order; None without audio.

    Continuous `features` [N, dim] may stand in place of codes, in prompts that end in text.
    """

    input_ids: Sequence[int]
    codes: np.ndarray | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def code_rows(self, audio_pad_id: int, num_codebooks: int, where: str) -> Tensor:
        """Codes as [N, K] int64, one row per audio pad.

        With `features` there are none: [0, K].

        Raises:
            ValueError: naming `where`, if the shape is not [N, K] or N is not the number of audio pads; for features also if the
                ids end in an audio pad or there are codes as well.
        """
        rows = torch.zeros(0, num_codebooks, dtype=torch.long)
        if self.codes is not None:
            rows = torch.as_tensor(np.asarray(self.codes, dtype=np.int64))
        num_pads = sum(token == audio_pad_id for token in self.input_ids)
        if self.features is not None:
            if self.codes is not None or len(self.features) != num_pads or list(self.input_ids[-1:]) == [audio_pad_id]:
                raise ValueError(
                    f"{where}: {len(self.features)} features for {num_pads} audio pads; "
                    "give one each, no codes, and ids that end in text"
                )
            return rows
        if tuple(rows.shape) != (num_pads, num_codebooks):
            raise ValueError(f"{where}: codes are {list(rows.shape)}, but its audio pads need [{num_pads}, {num_codebooks}]")
        return rows


def in_batches(
    function: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item], size: int, length: Callable[[Item], int]
) -> list[Result]:
    """Apply `function` to batches of at most `size` items of like length; results come in the order of the items."""
    order = sorted(range(len(items)), key=lambda index: length(items[index]))
    results: dict[int, Result] = {}
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        results.update(zip(chosen, function([items[index] for index in chosen]), strict=True))
    return [results[index] for index in range(len(items))]
