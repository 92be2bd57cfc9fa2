"""Manifests of lhotse: cuts as JSONL, with their recordings inside or in a manifest of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bcaudio.data.schema import LANGUAGE, SPLITS
from data_prep.sources.corpus import RecordedCorpus, choose
from data_prep.sources.tables import json_lines
from data_prep.utterance import Utterance

_NAMES = {"english": "en", "chinese": "zh", "mandarin": "zh", "cantonese": "yue", "french": "fr", "spanish": "es"}


class LhotseCuts(RecordedCorpus):
    """One utterance per supervision of a cut: the stretch that the supervision covers.

    Args:
        root: folder that relative paths in the manifests start from.
        cuts: file name of the cuts below `root`, `.jsonl` or `.jsonl.gz`.
        language: of the supervisions that name none by code or by one of a few English words.
        recordings: file name of the recordings, for cuts that do not hold theirs; their paths are held in memory.
        split: train, dev or test, of all cuts.
        source, licence: what samples say about where they come from.
        corpus, samples_per_shard: as in `RecordedCorpus`.
    """

    title = "lhotse cuts"
    layout = "ROOT/cuts_train.jsonl.gz (written by lhotse's CutSet.to_file) and, for bare cuts, ROOT/recordings_train.jsonl.gz"

    def __init__(
        self,
        root: str | Path,
        cuts: str,
        language: str,
        recordings: str | None = None,
        split: str = "train",
        source: str = "lhotse cuts",
        licence: str = "",
        corpus: str = "lhotse",
        samples_per_shard: int = 256,
    ) -> None:
        super().__init__(root, corpus, language, samples_per_shard)
        self.cuts, self.recordings = cuts, recordings
        self.split = choose(f"{corpus}: split", [split], SPLITS)[0]
        self.title, self.licence = source, licence

    def utterances(self, dropped: Counter[str]) -> Iterator[Utterance]:
        """In the order of the cuts; cuts of several tracks, and recordings that a command makes, are dropped."""
        audio_of: dict[str, str] = {}
        if self.recordings is not None:
            for _, recording in json_lines(self._require(self.recordings), dropped):
                audio_of[str(recording.get("id"))] = _source(recording)[1]
        for _, cut in json_lines(self._require(self.cuts), dropped):
            if cut.get("type", "MonoCut") != "MonoCut":
                dropped["not a MonoCut"] += 1
                continue
            try:
                yield from self._cut(cut, audio_of, dropped)
            except (KeyError, TypeError, ValueError, AttributeError):
                dropped["bad entry"] += 1

    def _cut(self, cut: dict[str, Any], audio_of: dict[str, str], dropped: Counter[str]) -> Iterator[Utterance]:
        supervisions = cut.get("supervisions") or []
        if not supervisions:
            dropped["no text"] += 1
        for number, supervision in enumerate(supervisions):
            if "recording" in cut:
                kind, audio = _source(cut["recording"])
            else:
                kind, audio = "file", audio_of.get(supervision["recording_id"], "")
            if kind not in ("file", "url") or not audio:
                dropped["not a file"] += 1
                continue
            offset_s, start_s = float(cut["start"]), float(supervision["start"])
            end_s = min(start_s + float(supervision["duration"]), float(cut["duration"]))  # it may reach beyond the cut
            language = str(supervision.get("language") or "")
            language = _NAMES.get(language.lower(), language)
            yield from self._utterance(
                dropped,
                self.split,
                cut["id"] if len(supervisions) == 1 else f"{cut['id']}-{number}",
                audio if "://" in audio else self.root / audio,
                supervision.get("text") or "",
                speaker=supervision.get("speaker") or "",
                language=language if LANGUAGE.fullmatch(language) else self.language,
                start_s=round(offset_s + max(start_s, 0.0), 6),
                end_s=round(offset_s + end_s, 6),
            )


def _source(recording: dict[str, Any]) -> tuple[str, str]:
    """(type, path or URL) of a recording in one file; any other recording has the type `""`."""
    sources = recording.get("sources") or []
    if len(sources) != 1 or sources[0].get("type") not in ("file", "url"):
        return "", ""
    return sources[0]["type"], sources[0]["source"]
