"""WenetSpeech: 10,000 hours of Mandarin from YouTube and podcasts; segments of long opus files, listed in one huge JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bcaudio.data.json_list import json_items
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.utterance import Utterance

SUBSETS = ("L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING")


class WenetSpeech(RecordedCorpus):
    """Segments of WenetSpeech; speakers are not known.

    Args:
        root: the folder with `WenetSpeech.json` and `audio`.
        subsets: of `SUBSETS`; a segment comes if it is in one of them. L, M, S (each within the one before) and W (weakly
            labelled) are training, DEV is dev, the others test.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title, licence, site = "WenetSpeech", "see wenet.org.cn/WenetSpeech", "https://wenet.org.cn/WenetSpeech"
    layout = "ROOT/WenetSpeech.json and ROOT/audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus"

    def __init__(
        self, root: str | Path, subsets: Sequence[str], corpus: str = "wenetspeech", samples_per_shard: int = 256
    ) -> None:
        super().__init__(root, corpus, "zh", samples_per_shard)
        self.subsets = choose(f"{corpus}: subsets", subsets, SUBSETS)

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """In the order of the JSON."""
        for recording in json_items(self._require("WenetSpeech.json"), "audios"):
            try:
                audio, segments = self.root / recording["path"], recording["segments"]
                missing = not audio.is_file()
                for segment in segments:
                    subsets = set(segment["subsets"]) & set(self.subsets)
                    if not subsets:
                        continue
                    split = "train" if subsets <= {"L", "M", "S", "W"} else "dev" if subsets == {"DEV"} else "test"
                    times = {"start_s": float(segment["begin_time"]), "end_s": float(segment["end_time"])}
                    if missing:
                        dropped["missing audio file"] += 1
                    else:
                        yield from self._utterance(
                            dropped, split, segment["sid"], audio, segment["text"], check_audio=False, **times
                        )
            except (KeyError, TypeError, ValueError, AttributeError):
                dropped["bad entry"] += 1
