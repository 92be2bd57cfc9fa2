"""Batched generation of text and audio in turn, with a key-value cache."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from bcaudio.inference.prompt import Prompt, SpecialIdsLike, in_batches
from bcaudio.inference.sampling import AUDIO, FIRST_TEXT, GREEDY, LATER_TEXT, SamplingOptions, choose
from bcaudio.inference.scoring import score
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.nn.depth_transformer import DepthTransformer


@dataclass
class Response:
    """One reply in text and speech: segment i says `text_ids[i]` (without `audiogen_start` and `eos`) in `codes[i]` [T, K].

    `input_ids` is the whole row, prompt included.
    """

    text_ids: list[list[int]] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    input_ids: list[int] = field(default_factory=list)


@dataclass
class DecodingState:
    """A batch of unfinished rows.

    The last id of a row (with its codes, if it is audio) is not yet in the cache, so it can be overwritten.
    Rows advance independently: a cache slot in which a row stood still is 0 in that row of `mask`.
    """

    ids: list[list[int]]
    last_codes: Tensor
    """[B, K] codes of the last id, read where it is an audio pad."""
    cache: Cache
    mask: Tensor
    """[B, S] int64, 1 = a slot of the cache that holds a token of the row."""


class Generator:
    """Generates with an `AudioLLM`.

    Args:
        model: the model, in eval mode.
        special_ids: ids of the special tokens.
        banned_ids: ids the text head may never choose, beside the audio marks that only the loop may write.
        rng: source of randomness for sampling, on the model's device.
    """

    def __init__(
        self,
        model: AudioLLM,
        special_ids: SpecialIdsLike,
        banned_ids: Collection[int] = (),
        rng: torch.Generator | None = None,
    ) -> None:
        self.model = model
        self.special = special_ids
        self.rng = rng
        loop_only = {special_ids.audio_pad, special_ids.audio_start, special_ids.audio_end, special_ids.audiogen_end}
        self.banned_ids = frozenset(banned_ids) | loop_only
        # whether to take one more step; ranks that share one model's weights must agree on it
        self.going: Callable[[bool], bool] = bool

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.llm.get_input_embeddings().weight.device

    @torch.no_grad()
    def start(self, prompts: Sequence[Prompt]) -> DecodingState:
        """Read the prompts into a cache (left padding), all but their last ids.

        Raises:
            ValueError: for an empty prompt, or codes that do not match the audio pads of their prompt.
        """
        pad_id, num_codebooks = self.special.audio_pad, self.model.num_codebooks
        codes = [
            prompt.code_rows(pad_id, num_codebooks, f"prompt {index}").to(self.device) for index, prompt in enumerate(prompts)
        ]
        features = [prompt.features for prompt in prompts if prompt.features is not None]
        if features and any(map(len, codes)):
            raise ValueError("a batch of prompts has both codes and features; give one kind for all of them")
        ids = [list(prompt.input_ids) for prompt in prompts]
        if not all(ids):
            raise ValueError(f"prompt {ids.index([])}: it is empty; a prompt needs at least one id")
        longest = max(map(len, ids))
        last_codes = torch.zeros(len(ids), num_codebooks, dtype=torch.long, device=self.device)
        padded = torch.full((len(ids), longest - 1), self.special.eos, device=self.device)
        mask = torch.zeros_like(padded)
        for row, row_ids in enumerate(ids):
            if row_ids[-1] == pad_id:
                last_codes[row], codes[row] = codes[row][-1], codes[row][:-1]
            first = longest - len(row_ids)
            padded[row, first:] = torch.tensor(row_ids[:-1], dtype=torch.long)
            mask[row, first:] = 1
        cache = DynamicCache(config=self.model.llm.config)
        if longest > 1:
            self.model(
                padded,
                None if features else torch.cat(codes),
                features=torch.cat(features).to(self.device) if features else None,
                position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            )
        return DecodingState(ids, last_codes, cache, mask)

    @torch.no_grad()
    def generate_text(
        self,
        prompts: Sequence[Prompt] | DecodingState,
        max_new_tokens: int,
        stop_ids: Collection[int],
        options: SamplingOptions = GREEDY,
        banned_ids: Collection[int] = (),
        rows: Sequence[bool] | None = None,
    ) -> list[list[int]]:
        """One text segment per row.

        Args:
            prompts: prompts, or the state to continue, which is advanced.
            max_new_tokens: limit per row.
            stop_ids: a row ends with the first of these, which is kept as its last id.
            options: how to choose; the history of the repetition penalty is the whole row.
            banned_ids: further ids that may not be chosen.
            rows: which rows take part; all by default.

        Returns:
            the new ids of each row.
        """
        state = prompts if isinstance(prompts, DecodingState) else self.start(prompts)
        active = self._active(state, rows)
        new_ids: list[list[int]] = [[] for _ in state.ids]
        seen = banned = None
        for _ in range(max_new_tokens):
            if not self.going(any(active)):
                break
            scores = self.model.text_logits(self._advance(state, active)).float()
            if seen is None:
                seen, banned = torch.zeros_like(scores, dtype=torch.bool), sorted(self.banned_ids | set(banned_ids))
                for row, row_ids in enumerate(state.ids):
                    seen[row, torch.tensor(row_ids, device=self.device)] = True
            scores[:, banned] = -torch.inf
            chosen = choose(scores, seen, options, self.rng)
            seen.scatter_(1, chosen.unsqueeze(1), True)
            for row, token in enumerate(chosen.tolist()):
                if active[row]:
                    state.ids[row].append(token)
                    new_ids[row].append(token)
                    active[row] = token not in stop_ids
        return new_ids

    @torch.no_grad()
    def generate_audio(
        self,
        state: DecodingState,
        max_frames: int = 500,
        options: SamplingOptions = AUDIO,
        rows: Sequence[bool] | None = None,
    ) -> list[np.ndarray]:
        """One audio segment per row, whose last id must be `audiogen_start`.

        A row ends when level 0 chooses its end class, or after `max_frames`. As in the published loop every frame, the end frame
        included, appends an audio pad to the row; overwrite the last one with `audiogen_end` before going on.

        Args:
            state: the batch, advanced in place.
            max_frames: limit per row.
            options: how to choose; the history of the repetition penalty is each level's codes of this segment.
            rows: which rows take part; all by default.

        Returns:
            codes [T, K] int64 of each row, without the end frame; empty for rows that take no part.
        """
        head, sizes = self._head(), self.model.codebook_sizes
        active = self._active(state, rows)
        for row, row_ids in enumerate(state.ids):
            if active[row] and row_ids[-1] != self.special.audiogen_start:
                raise ValueError(f"generate_audio: row {row} ends with id {row_ids[-1]}, but audio begins after audiogen_start")
        frames: list[list[Tensor]] = [[] for _ in state.ids]
        seen = [
            torch.zeros(len(active), size + (level == 0), dtype=torch.bool, device=self.device)
            for level, size in enumerate(sizes)
        ]
        for _ in range(max_frames):
            if not self.going(any(active)):
                break
            x, cache, levels = self._advance(state, active), head.start(), []
            for level in range(len(sizes)):
                # only level 0 may end the segment
                scores = head.step(x, cache)[:, : seen[level].shape[1]]
                levels.append(choose(scores, seen[level], options, self.rng))
                seen[level].scatter_(1, levels[-1].unsqueeze(1), True)
                x = self.model.audio_embedding.tables[level](levels[-1])
            codes = torch.stack(levels, dim=1)
            for row, code in enumerate(levels[0].tolist()):
                if active[row]:
                    state.ids[row].append(self.special.audio_pad)
                    state.last_codes[row] = codes[row]
                    active[row] = code != sizes[0]
                    if active[row]:
                        frames[row].append(codes[row])
        empty = torch.zeros(0, len(sizes), dtype=torch.long)
        return [(torch.stack(row).cpu() if row else empty).numpy() for row in frames]

    def respond(
        self,
        prompts: Sequence[Prompt],
        later_stop_ids: Collection[int] = (),
        max_text_tokens: int = 50,
        max_frames: int = 500,
        max_rounds: int = 100,
        first_text: SamplingOptions = FIRST_TEXT,
        later_text: SamplingOptions = LATER_TEXT,
        audio: SamplingOptions = AUDIO,
        on_segment: Callable[[int, list[int], np.ndarray], None] | None = None,
    ) -> list[Response]:
        """Replies in text and speech: a text segment, its audio, the next text segment, until the end of text.

        Args:
            prompts: a batch of prompts that end where the reply begins.
            later_stop_ids: ids that end a later text segment, beside `audiogen_start` and `eos`; punctuation in the demos.
            max_text_tokens: limit of a text segment.
            max_frames: limit of an audio segment.
            max_rounds: limit of segments.
            first_text: how to choose the first text.
            later_text: how to choose the later texts.
            audio: how to choose codes.
            on_segment: called with (row, text ids, codes) as soon as a segment is complete.
        """
        special, state = self.special, self.start(prompts)
        responses = [Response(input_ids=ids) for ids in state.ids]
        stops = {special.audiogen_start, special.eos}
        texts, rows = self.generate_text(state, max_text_tokens, stops, first_text), [True] * len(responses)
        last_round = [False] * len(responses)
        for _ in range(max_rounds):
            for row in np.flatnonzero(rows):
                state.ids[row][-1] = special.audiogen_start
            codes = self.generate_audio(state, max_frames, audio, rows)
            for row in np.flatnonzero(rows).tolist():
                state.ids[row][-1] = special.audiogen_end
                responses[row].text_ids.append([token for token in texts[row] if token not in stops])
                responses[row].codes.append(codes[row])
                if on_segment is not None:
                    on_segment(row, responses[row].text_ids[-1], codes[row])
            rows = [going and not last for going, last in zip(rows, last_round, strict=True)]
            if not any(rows):
                break
            texts = self.generate_text(state, max_text_tokens, stops | set(later_stop_ids), later_text, rows=rows)
            last_round = [bool(text) and text[-1] == special.eos for text in texts]
            # the end of text alone ends the reply; with words before it they are still to be spoken
            rows = [going and len(text) > last for going, text, last in zip(rows, texts, last_round, strict=True)]
        return responses

    def generate_text_batch(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        stop_ids: Collection[int] | None = None,
        options: SamplingOptions = GREEDY,
        batch_size: int = 32,
    ) -> list[list[int]]:
        """Texts for any number of prompts, without their stop ids (`eos` by default); prompts of like length share a batch."""
        stops = {self.special.eos} if stop_ids is None else set(stop_ids)

        def texts(batch: Sequence[Prompt]) -> list[list[int]]:
            found = self.generate_text(batch, max_new_tokens, stops, options)
            return [ids[:-1] if ids and ids[-1] in stops else ids for ids in found]

        return in_batches(texts, prompts, batch_size, len)

    def generate_speech_batch(
        self, prompts: Sequence[Prompt], max_frames: int = 500, options: SamplingOptions = AUDIO, batch_size: int = 32
    ) -> list[np.ndarray]:
        """Codes [T, K] for any number of prompts that end with `audiogen_start`."""

        def speech(batch: Sequence[Prompt]) -> list[np.ndarray]:
            return self.generate_audio(self.start(batch), max_frames, options)

        return in_batches(speech, prompts, batch_size, len)

    def score(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[Prompt],
        reduction: str = "mean",
        num_levels: int | None = None,
        batch_size: int = 32,
    ) -> list[float]:
        """Log-likelihood of each continuation after its prompt: see `bcaudio.inference.scoring.score`."""
        return score(self.model, self.special, prompts, continuations, reduction, num_levels, batch_size)

    def _head(self) -> DepthTransformer:
        if self.model.audio_head is None:
            raise ValueError("generate_audio: this model was built without an audio head; it can only listen")
        return self.model.audio_head

    def _active(self, state: DecodingState, rows: Sequence[bool] | None) -> list[bool]:
        return [True] * len(state.ids) if rows is None else [bool(row) for row in rows]

    def _advance(self, state: DecodingState, active: Sequence[bool]) -> Tensor:
        """Feed the last id of every active row -> hidden [B, dim]; the other rows stand still and their hidden means nothing."""
        is_active = torch.tensor(active, device=self.device)
        last = torch.tensor([ids[-1] if going else self.special.eos for ids, going in zip(state.ids, active, strict=True)])
        last = last.to(self.device).unsqueeze(1)
        position_ids = state.mask.sum(dim=1, keepdim=True)
        state.mask = torch.cat([state.mask, is_active.long().unsqueeze(1)], dim=1)
        output = self.model(
            last,
            state.last_codes[last[:, 0] == self.special.audio_pad],
            position_ids=position_ids,
            attention_mask=state.mask,
            past_key_values=state.cache,
            use_cache=True,
        )
        return output.hidden[:, 0]
