"""Seed-TTS-eval: sentences to speak in the voice of a prompt, English and Chinese."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.evaluation.corpora.files import Listing, PublishedCorpus, Row, split_lines
from bcaudio.evaluation.corpora.recording import Recording


@dataclass(frozen=True)
class SeedTTS(PublishedCorpus):
    """A list of Seed-TTS-eval: lines of utterance|text of the prompt|prompt|text to speak, and sometimes |recording of the text.

    An item's own sound is the human recording of the text, where the set has it. Fields: `prompt_text`, `prompt_audio` (a Path).

    Args:
        root: the folder `seedtts_testset`.
        language: en or zh, the folder of the list.
        list_name: file of the list: `meta.lst`, `hardcase.lst` (zh) ...
    """

    root: str | Path
    language: str
    list_name: str = "meta.lst"

    title: ClassVar[str] = "Seed-TTS-eval"
    site: ClassVar[str] = "https://github.com/BytedanceSpeech/seed-tts-eval"
    layout: ClassVar[str] = "ROOT/en/{meta.lst, prompt-wavs/common_voice_en_1.wav, wavs/common_voice_en_1-common_voice_en_2.wav}"
    role: ClassVar[str] = "narrator"

    def rows(self) -> Iterator[Row]:
        """In the order of the list."""
        path, there = self.require(self.root, self.language, self.list_name), Listing()
        for where, columns in split_lines(path, (4, 5), separator="|"):
            name, prompt_text, prompt, text, *wav = (column.strip() for column in columns)
            prompt_audio = path.parent / prompt
            spoken = path.parent / (wav[0] if wav and wav[0] else f"wavs/{name}.wav")
            yield Row(
                name,
                text,
                where,
                self.language,
                Recording(spoken) if there.has(spoken) else None,
                fields={"prompt_text": prompt_text, "prompt_audio": prompt_audio},
                problem="" if there.has(prompt_audio) else f"missing audio: {prompt_audio}",
            )
