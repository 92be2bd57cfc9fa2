"""Text normalisation for synthesis and alignment: digits, dates, money, units become words (paper section 4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from data_prep.utterance import Clip, Drops, MissingExtra


class NormalizeText:
    """Writes out what is not spelled as it is spoken, with WeTextProcessing (Apache-2.0) in zh and en; other languages pass.

    Text and parts of the utterance change; answer and translation, which are read and not spoken, stay. Clips that have words
    pass: their times belong to the text as it is. Needs `pip install bcaudio[normalize]`.

    Drops: `digits left` (the rules do not cover it). Adds the measure `written`, the text as it was, where it changed.

    Args:
        languages: of zh and en.

    Raises:
        ValueError: another language is named.
    """

    def __init__(self, languages: Sequence[str] = ("zh", "en")) -> None:
        unknown = [language for language in languages if language not in ("zh", "en")]
        if unknown:
            raise ValueError(f"NormalizeText: has no rules for {unknown[0]!r}; known are zh and en")
        self.languages = tuple(languages)
        self._normalizers: dict[str, Any] = {}

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            utterance = clip.utterance
            if utterance.language not in self.languages or clip.words:
                yield clip
                continue
            text = self.spoken(utterance.text, utterance.language)
            parts = tuple(replace(part, text=self.spoken(part.text, utterance.language)) for part in utterance.parts)
            left = re.search(r"\d+", " ".join([text, *(part.text for part in parts)]))
            if left:
                drops.add(clip, self, "digits left", left[0])
                continue
            measures = clip.measures if text == utterance.text else {**clip.measures, "written": utterance.text}
            yield replace(clip, utterance=replace(utterance, text=text, parts=parts), measures=measures)

    def spoken(self, text: str, language: str) -> str:
        """The text as it is said; text without digits and symbols stays as it is."""
        if not re.search(r"[\d%$€£¥℃°&+=<>]", text):
            return text
        if language not in self._normalizers:
            try:
                from wetext import Normalizer
            except ImportError as error:
                raise MissingExtra("NormalizeText: wetext is not installed; pip install bcaudio[normalize]") from error
            self._normalizers[language] = Normalizer(lang=language, operator="tn")
        return self._normalizers[language].normalize(text)
