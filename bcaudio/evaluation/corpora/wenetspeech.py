"""WenetSpeech: Mandarin of the net and of meetings; segments of long opus files, listed in one huge JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bcaudio.data.json_list import json_items
from bcaudio.evaluation.corpora.files import PublishedCorpus, Row, choose
from bcaudio.evaluation.corpora.recording import Recording

SUBSETS = ("DEV", "TEST_NET", "TEST_MEETING")


@dataclass(frozen=True)
class WenetSpeech(PublishedCorpus):
    """An evaluation set of WenetSpeech. Of a long recording only the segment that is asked for is decoded.

    Args:
        root: the folder with `WenetSpeech.json` and `audio`.
        subset: DEV, TEST_NET or TEST_MEETING.
    """

    root: str | Path
    subset: str = "TEST_NET"

    title: ClassVar[str] = "WenetSpeech"
    site: ClassVar[str] = "https://wenet.org.cn/WenetSpeech"
    layout: ClassVar[str] = "ROOT/WenetSpeech.json and ROOT/audio/test_net/youtube/B00000/Y0000000000_--5llN02F84.opus"

    def __post_init__(self) -> None:
        choose("WenetSpeech: subset", self.subset, SUBSETS)

    @property
    def split(self) -> str:
        """dev or test."""
        return "dev" if self.subset == "DEV" else "test"

    def rows(self) -> Iterator[Row]:
        """In the order of the JSON, which is never in memory as a whole."""
        table = self.require(self.root, "WenetSpeech.json")
        for number, recording in enumerate(json_items(table, "audios")):
            where = f"{table}: recording {number}"
            try:
                path = table.parent / recording["path"]
                for segment in recording["segments"]:
                    if self.subset not in segment["subsets"]:
                        continue
                    start_s, end_s = float(segment["begin_time"]), float(segment["end_time"])
                    if not 0 <= start_s < end_s:
                        raise ValueError(f"{segment['sid']} lies at {start_s}-{end_s} s")
                    yield Row(
                        segment["sid"],
                        segment["text"].strip(),
                        where,
                        "zh",
                        Recording(path, start_s=start_s, end_s=end_s),
                        duration_s=end_s - start_s,
                    )
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{where} cannot be read ({error!r}); copy the file again") from error
