"""What pays loss, token by token: one sample of each task for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bcaudio.data.index import ShardIndex
from bcaudio.data.sequence import IGNORE, SequenceBuilder
from bcaudio.data.tasks import segments_of
from bcaudio.text.special_tokens import NAMES
from bcaudio.text.tokenizer import TextTokenizer


class LossMasks:
    """The sequences that training sees, drawn from the same code (paper section 3.3).

    Args:
        text_tokenizer: folder of the text tokenizer.
        codebook_sizes: of the codes in the shards.
        shards: task -> tar files; the shortest sample of at least two codes is shown.
    """

    def __init__(self, text_tokenizer: str, codebook_sizes: Sequence[int], shards: Mapping[str, str]) -> None:
        self.builder = SequenceBuilder(TextTokenizer(text_tokenizer), codebook_sizes)
        self.shards = dict(shards)

    def examples(self) -> list[dict[str, Any]]:
        """One entry per task: `{task, key, tokens: [{text, kind, paid, num}]}`; a token pays when it is predicted under loss."""
        return [self._example(task, ShardIndex([shards])) for task, shards in self.shards.items()]

    def _example(self, task: str, index: ShardIndex) -> dict[str, Any]:
        size = np.where(index.num_codes > 1, index.num_codes, 10**9) if index.num_codes.any() else np.arange(len(index))
        sample = index.sample(int(size.argmin()))
        sequence = self.builder.sequence(segments_of(task, sample))
        # labels are shifted: what position t - 1 must predict is token t
        text_paid = np.concatenate([[False], sequence.labels[:-1] != IGNORE])
        audio_paid = (
            np.concatenate([[False], sequence.audio_labels[:-1, 0] != IGNORE])
            if sequence.audio_labels.size
            else np.zeros_like(text_paid)
        )
        names = {getattr(self.builder.special, field): name for field, name in NAMES.items()}
        tokens = []
        for token, paid, audio in zip(sequence.input_ids.tolist(), text_paid, audio_paid, strict=True):
            if token == self.builder.special.audio_pad:
                tokens.append({"text": "♪", "kind": "audio", "paid": bool(audio), "num": 1})
            elif token in names:  # the frame that ends an audio segment is predicted where audiogen_end then stands
                tokens.append({"text": names[token], "kind": "special", "paid": bool(paid or audio), "num": 1})
            else:
                tokens.append({"text": self.builder.tokenizer.token(token), "kind": "text", "paid": bool(paid), "num": 1})
        return {"task": task, "key": sample.key, "tokens": tokens}
