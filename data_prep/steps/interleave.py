"""The interleave builder: parted clips become samples for ITTS and INTLV (paper section 4; tasks in bcaudio/data/tasks.py).

| kind | task that reads it | sequence |
|---|---|---|
| itts | itts | text 1, audio 1, text 2, audio 2, ... |
| intlv | intlv | audio 1, text 2, audio 3, text 4, ... |
| intlv_text_first | intlv_text_first | text 1, audio 2, text 3, audio 4, ... |

A task takes the modality of a span from its place alone, so what is decided here is the kind and which neighbouring parts are
joined into one span. Each kind is a corpus of its own, `<corpus>_<kind>`, hence has shards of its own, which a training recipe
reads under the task of that name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from data_prep.utterance import Clip, Drops, Part

KINDS = ("itts", "intlv", "intlv_text_first")


class Interleave:
    """Chooses a kind for every clip and joins its parts into spans, both by a hash of its key.

    Drops: `too few segments` (a clip that cannot give `min_spans` spans), unless `keep_short`. Adds the measure `interleave`:
    the kind.

    Args:
        ratio: kind -> its share of the clips (they need not sum to 1).
        audio_parts: least and greatest number of parts joined into a span that is heard or spoken.
        text_parts: the same for a span that is only written (every second one of the two INTLV kinds).
        min_spans: spans a clip must give.
        max_span_s: parts are not joined beyond this length of audio.
        keep_short: pass such clips on unchanged, in their corpus, instead of dropping them.
        seed: another choice for every key.

    Raises:
        ValueError: an unknown kind, no positive share, or counts that are not 1 <= least <= greatest.
    """

    def __init__(
        self,
        ratio: Mapping[str, float] | None = None,
        audio_parts: Sequence[int] = (1, 2),
        text_parts: Sequence[int] = (1, 2),
        min_spans: int = 2,
        max_span_s: float = 30.0,
        keep_short: bool = False,
        seed: int = 0,
    ) -> None:
        self.ratio = dict(ratio) if ratio is not None else {"itts": 142.0, "intlv": 393.0}  # hours of section 3.3
        unknown = [kind for kind in self.ratio if kind not in KINDS]
        if unknown:
            raise ValueError(f"Interleave: ratio names {unknown[0]!r}; known kinds are {', '.join(KINDS)}")
        if min(self.ratio.values(), default=0) < 0 or sum(self.ratio.values()) <= 0:
            raise ValueError(f"Interleave: ratio is {self.ratio}; shares must be >= 0 and not all 0")
        for name, pair in (("audio_parts", audio_parts), ("text_parts", text_parts)):
            if len(pair) != 2 or not 1 <= pair[0] <= pair[1]:
                raise ValueError(f"Interleave: {name} is {list(pair)}; give [least, greatest] with 1 <= least <= greatest")
        if min_spans < 1:
            raise ValueError(f"Interleave: min_spans is {min_spans}; it must be at least 1")
        self.audio_parts, self.text_parts = tuple(audio_parts), tuple(text_parts)
        self.min_spans, self.max_span_s, self.keep_short, self.seed = min_spans, max_span_s, keep_short, seed

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            rng = random.Random(f"{self.seed} {clip.utterance.key}")
            kind = rng.choices(list(self.ratio), list(self.ratio.values()))[0]
            groups = self._groups(clip, kind, rng) if len(clip.spans) > 1 else [(0, 1)]
            if len(groups) >= self.min_spans and len(clip.spans) == len(clip.utterance.parts):
                yield _joined(clip, groups, kind)
            elif self.keep_short:
                yield clip
            else:
                drops.add(clip, self, "too few segments", len(groups))

    def _groups(self, clip: Clip, kind: str, rng: random.Random) -> list[tuple[int, int]]:
        """Which parts [first, end) each span joins; a part that would leave fewer than `min_spans` spans is not joined."""
        num_parts, groups, first = len(clip.spans), [], 0
        while first < num_parts:
            heard = kind == "itts" or (len(groups) % 2 == 0) == (kind == "intlv")
            size = rng.randint(*(self.audio_parts if heard else self.text_parts))
            most = num_parts - first - max(self.min_spans - len(groups) - 1, 0)
            end = first + max(1, min(size, most))
            while end - first > 1 and (
                clip.spans[end - 1][1] - clip.spans[first][0] > self.max_span_s
                or len({part.role for part in clip.utterance.parts[first:end]}) > 1
            ):
                end -= 1
            groups.append((first, end))
            first = end
        return groups


def _joined(clip: Clip, groups: Sequence[tuple[int, int]], kind: str) -> Clip:
    utterance = clip.utterance
    joint = "" if utterance.language.split("-")[0] in ("zh", "yue", "ja") else " "
    parts, spans = [], []
    for first, end in groups:
        head = utterance.parts[first]
        parts.append(Part(joint.join(part.text for part in utterance.parts[first:end]), head.role, head.timbre))
        spans.append((clip.spans[first][0], clip.spans[end - 1][1]))
    told = replace(utterance, corpus=f"{utterance.corpus}_{kind}", parts=tuple(parts))
    return replace(clip, utterance=told, spans=tuple(spans), measures={**clip.measures, "interleave": kind})
