"""The one table of special tokens (released_model names; ids are always read from a tokenizer by name, never assumed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

NAMES: dict[str, str] = {
    "eos": "<|endoftext|>",
    "system": "<B_SYS>",
    "question": "<C_Q>",
    "answer": "<C_A>",
    "audio_start": "<audio_start_baichuan>",
    "audio_end": "<audio_end_baichuan>",
    "audio_pad": "<audio_pad_baichuan>",
    "audiotext_start": "<audiotext_start_baichuan>",
    "audiogen_start": "<audiogen_start_baichuan>",
    "audiogen_end": "<audiogen_end_baichuan>",
}


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens in one tokenizer.

    `audio_start pad... audio_end` frames heard audio, `audiogen_start pad... audiogen_end` spoken audio; `audiotext_start` before
    `answer` asks for a reply in text and speech.
    """

    eos: int
    system: int
    question: int
    answer: int
    audio_start: int
    audio_end: int
    audio_pad: int
    audiotext_start: int
    audiogen_start: int
    audiogen_end: int

    @classmethod
    def read(cls, token_to_id: Callable[[str], int | None], where: str) -> SpecialIds:
        """Look every name up in a tokenizer; ValueError lists the names it lacks."""
        found = {field.name: token_to_id(NAMES[field.name]) for field in fields(cls)}
        missing = [NAMES[name] for name, value in found.items() if value is None]
        if missing:
            raise ValueError(f"{where}: the tokenizer has no token {', '.join(missing)}; add them as special tokens")
        return cls(**found)
