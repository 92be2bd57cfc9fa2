"""Forced alignment: when each word of a known text is said (paper section 4).

The best path of CTC (Graves et al. 2006) through the text's tokens by Viterbi. CTC models place a token on a frame or two and
call the rest blank, so the blank frames between two tokens are shared among their words. A model that was trained with word times
(recipes/micro/aligner.yaml) keeps a token for as long as its word is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from data_prep.steps.recognisers import Emitter
from data_prep.steps.words import pieces_of, places_of
from data_prep.utterance import Clip, Drops, Word


def viterbi(log_probs: np.ndarray, tokens: Sequence[int]) -> np.ndarray | None:
    """The best CTC path through `tokens`.

    Args:
        log_probs: [T, C]; index 0 is the blank.
        tokens: L >= 1 indices; between two equal ones the path passes a blank.

    Returns:
        int64 [T]: the position in `tokens` each frame belongs to, -1 for blank; None where T frames are too few.
    """
    num_frames, num_states = len(log_probs), 2 * len(tokens) + 1
    labels = np.zeros(num_states, np.int64)
    labels[1::2] = tokens
    may_skip = np.zeros(num_states, bool)
    may_skip[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(num_states, -np.inf)
    score[:2] = log_probs[0, labels[:2]]
    came = np.zeros((num_frames, num_states), np.int8)
    options = np.full((3, num_states), -np.inf)
    for t in range(1, num_frames):
        options[0] = score
        options[1, 1:] = score[:-1]
        options[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        came[t] = options.argmax(0)
        score = options.max(0) + log_probs[t, labels]
    state = num_states - 1 if score[-1] >= score[-2] else num_states - 2
    if score[state] == -np.inf:
        return None
    path = np.empty(num_frames, np.int64)
    for t in range(num_frames - 1, -1, -1):
        path[t] = state
        state -= came[t, state]
    return np.where(path % 2 == 1, path // 2, -1)


class Align:
    """Clips with the time of every word; text-only clips pass.

    Words that a clip already has (the synthesiser's events) stay, if they are those of its text.

    Drops: `misaligned` (mean log-probability of the text's tokens, or `events differ from the text`), `not in vocabulary`, `no
    text`. Adds the measure `alignment`: that mean, natural logarithm, per token.

    Args:
        emitter: a CTC model.
        min_log_prob: clips below are dropped; a token scores its best frame on the path. Of 260 espeak-ng clips with voices and
            texts that the micro world's auditor had not heard, -3 dropped none, and 91 % of them with another clip's text; -2
            found 95 %, but dropped every tenth right clip among the English stories, so choose more than -3 for short clips only.
            With the micro world's aligner -2 dropped no right clip, and 98 % of the wrong ones. What no threshold finds is a text
            that the clip says, and more.
        share: a blank stretch between two words is cut at this share of its length.
        reach_s: a word takes at most so much of a blank stretch; what neither word takes is a pause. For an aligner give half a
            frame, 0.02: its words last as long as their frames, and CTC needs a blank frame between two equal ones.
        replace_words: align also clips that already have words.
    """

    def __init__(
        self,
        emitter: Emitter,
        min_log_prob: float = -3.0,
        share: float = 0.5,
        reach_s: float = 0.25,
        replace_words: bool = False,
    ) -> None:
        if not 0 <= share <= 1 or reach_s < 0:
            raise ValueError(f"Align: share is {share} and reach_s {reach_s}; need 0 <= share <= 1 and reach_s >= 0")
        self.emitter, self.min_log_prob = emitter, min_log_prob
        self.share, self.reach_s, self.replace_words = share, reach_s, replace_words

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            text, language = clip.utterance.text, clip.utterance.language
            if not len(clip.waveform):
                yield clip
            elif clip.words and not self.replace_words:
                if places_of(clip.words, text, language) is None:
                    drops.add(clip, self, "misaligned", "events differ from the text")
                else:
                    yield clip
            else:
                aligned = self._align(clip, drops)
                if aligned is not None:
                    yield aligned

    def _align(self, clip: Clip, drops: Drops) -> Clip | None:
        language = clip.utterance.language
        pieces = pieces_of(clip.utterance.text, language)
        if not pieces:
            drops.add(clip, self, "no text")
            return None
        tokens: list[int] = []
        owners: list[int] = []
        for number, piece in enumerate(pieces):
            ids = self.emitter.tokens(piece.text, language)
            if ids is None:
                drops.add(clip, self, "not in vocabulary", piece.text)
                return None
            tokens += ids
            owners += [number] * len(ids)
        log_probs, frame_s = self.emitter.emissions(clip.waveform, clip.sample_rate)
        path = viterbi(log_probs, tokens)
        if path is None:
            drops.add(clip, self, "misaligned", f"{len(log_probs)} frames for {len(tokens)} tokens")
            return None
        best = [log_probs[path == i, token].max() for i, token in enumerate(tokens)]
        mean = round(float(np.mean(best)), 4)
        if mean < self.min_log_prob:
            drops.add(clip, self, "misaligned", mean)
            return None
        times = self._times(path, owners, frame_s, clip.duration_s)
        words = tuple(Word(piece.text, start, end) for piece, (start, end) in zip(pieces, times, strict=True))
        return replace(clip, words=words, measures={**clip.measures, "alignment": mean})

    def _times(self, path: np.ndarray, owners: list[int], frame_s: float, duration_s: float) -> list[tuple[float, float]]:
        """(start_s, end_s) per word; frame t covers [t, t + 1) * frame_s.

        The first word reaches back, and the last one forth, as far as the others do at the median.
        """
        spoken = np.flatnonzero(path >= 0)
        word_of = np.array(owners)[path[spoken]]
        words = range(owners[-1] + 1)
        starts = np.array([spoken[word_of == i][0] for i in words]) * frame_s
        ends = np.array([spoken[word_of == i][-1] + 1 for i in words]) * frame_s
        gaps = starts[1:] - ends[:-1]
        forth = np.minimum(self.share * gaps, self.reach_s)
        back = np.minimum((1 - self.share) * gaps, self.reach_s)
        starts -= np.concatenate([[np.median(back) if len(gaps) else self.reach_s / 2], back])
        ends += np.concatenate([forth, [np.median(forth) if len(gaps) else self.reach_s / 2]])
        times = np.clip(np.stack([starts, ends], axis=1), 0.0, duration_s).round(4)
        return [(float(start), float(end)) for start, end in times]
