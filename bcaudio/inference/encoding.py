"""Sound becomes codes where a sample has none yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bcaudio.data.schema import Sample
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.inference.prompt import in_batches
from bcaudio.models.audio_tokenizer import AudioTokenizer

LISTEN_RATE = 16000
MARGIN_S = 0.06  # kept around a span of several, as clips have around their speech


def with_codes(items: Sequence[Item], tokenizer: AudioTokenizer | None, fingerprint: Mapping[str, Any]) -> list[Sample]:
    """The samples with codes for every span; those that have them keep them, unless another tokenizer made them.

    Args:
        items: `fields["codes_fingerprint"]` is that of their shards, where they come from shards.
        tokenizer: of the system.
        fingerprint: of the tokenizer.

    Raises:
        NotRunError: there is something to encode, but no tokenizer.
        ItemError: an item without sound, or whose sound cannot be encoded.
    """
    todo = {i: span_clips(item) for i, item in enumerate(items) if not _has_codes(item, fingerprint)}
    if todo and tokenizer is None:
        raise NotRunError("the items have no codes and the system no audio tokenizer to make them; name its stage in the recipe")
    encoded = iter(encode_clips(tokenizer, [clip for clips in todo.values() for clip in clips]) if tokenizer is not None else ())
    samples = []
    for i, item in enumerate(items):
        if i not in todo:
            samples.append(item.sample)
            continue
        rows = [next(encoded) for _ in todo[i]]
        if not any(map(len, rows)):
            raise ItemError(item.id, "its sound is too short for a single code (under 60 ms)")
        counts, codes = tuple(map(len, rows)), np.concatenate(rows).astype(np.int16)
        samples.append(replace(item.sample, span_num_codes=counts, codes=codes))
    return samples


def _has_codes(item: Item, fingerprint: Mapping[str, Any]) -> bool:
    theirs, ours = ((print_ or {}).get("weights_sha256") for print_ in (item.fields.get("codes_fingerprint"), fingerprint))
    return item.sample.codes is not None and (None in (theirs, ours) or theirs == ours)


def span_clips(item: Item) -> list[np.ndarray]:
    """float32 16 kHz sound of every span; ItemError where spans of several have no times."""
    waveform, spans = item.waveform(LISTEN_RATE), item.sample.spans
    if len(spans) == 1:
        return [waveform]
    if any(span.end_s <= span.start_s for span in spans):
        raise ItemError(item.id, f"its {len(spans)} spans have no times, so they cannot be heard one by one")
    bounds = span_bounds(item.sample)
    return [waveform[round(start_s * LISTEN_RATE) : round(end_s * LISTEN_RATE)] for start_s, end_s in bounds]


def span_bounds(sample: Sample) -> list[tuple[float, float]]:
    """Seconds to encode for every span: the whole clip for a single one, else the span with a small margin.

    The margin stays inside the pauses around the span.
    """
    if len(sample.spans) == 1:
        return [(0.0, sample.duration_s)]
    bounds = []
    for i, span in enumerate(sample.spans):
        before = sample.spans[i - 1].end_s if i else 0.0
        after = sample.spans[i + 1].start_s if i + 1 < len(sample.spans) else sample.duration_s
        bounds.append((max(span.start_s - MARGIN_S, before), min(span.end_s + MARGIN_S, after)))
    return bounds


@torch.no_grad()
def encode_clips(tokenizer: AudioTokenizer, clips: Sequence[np.ndarray], batch_size: int = 16) -> list[np.ndarray]:
    """float32 16 kHz clips -> codes [T, K] each; clips beyond the tokenizer's window go piece by piece. A clip's codes do not
    depend on the others.
    """
    device, frontend = next(tokenizer.parameters()).device, tokenizer.frontend

    def encode(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(batch[-1]) > frontend.max_samples:
            return [tokenizer.encode_long(torch.from_numpy(clip).to(device)).cpu().numpy() for clip in batch]
        waveform = torch.zeros(len(batch), max(frontend.n_fft, len(batch[-1])))
        for row, clip in zip(waveform, batch, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        lengths = torch.tensor([max(frontend.n_fft, len(clip)) for clip in batch], device=device)
        codes, counts = tokenizer.encode(waveform.to(device), lengths)
        return [rows[:count].cpu().numpy() for rows, count in zip(codes, counts.tolist(), strict=True)]

    size = 1 if tokenizer.upstream_batching else batch_size
    short = [i for i, clip in enumerate(clips) if len(clip) <= frontend.max_samples]
    found = dict(zip(short, in_batches(encode, [clips[i] for i in short], size, len), strict=True))
    return [found[i] if i in found else encode([clip])[0] for i, clip in enumerate(clips)]
