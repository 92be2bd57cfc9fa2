"""Log-likelihoods of continuations, for choices by perplexity (arXiv 2502.17239, section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bcaudio.inference.prompt import Prompt, SpecialIdsLike, in_batches
from bcaudio.models.audio_llm import AudioLLM


def score(
    model: AudioLLM,
    special: SpecialIdsLike,
    prompts: Sequence[Prompt],
    continuations: Sequence[Prompt],
    reduction: str = "mean",
    num_levels: int | None = None,
    batch_size: int = 32,
) -> list[float]:
    """Log-likelihood (nats) of each continuation after its prompt, for choices by perplexity.

    A text id counts through the text head, an audio frame through the audio head, and the end of a spoken segment through level
    0's end class. Marks that the loop writes by itself (`audio_start`, `audio_end`, `audiogen_end`) count nothing.

    Args:
        model: the model, in eval mode.
        special: ids of the special tokens.
        prompts: what comes before; not scored. At least one id each.
        continuations: what is scored, text or audio or both.
        reduction: `mean` over scored ids and codes (the negative log perplexity), or `sum`.
        num_levels: codebook levels that count, from the first; all by default.
        batch_size: rows per forward pass.

    Raises:
        ValueError: for an unknown reduction, lists of different lengths, or audio codes that do not match their pads.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"score: reduction is {reduction!r}; use mean or sum")
    if len(prompts) != len(continuations):
        raise ValueError(f"score: {len(prompts)} prompts, but {len(continuations)} continuations")
    if any(part.features is not None for part in (*prompts, *continuations)):
        raise ValueError("score: continuous features cannot be scored; give codes")
    levels = model.num_codebooks if num_levels is None else num_levels
    pairs = list(zip(prompts, continuations, strict=True))
    sums = in_batches(
        lambda batch: _score(model, special, batch, levels), pairs, batch_size, lambda pair: len(pair[0]) + len(pair[1])
    )
    return [total / max(count, 1) if reduction == "mean" else total for total, count in sums]


@torch.no_grad()
def _score(
    model: AudioLLM, special: SpecialIdsLike, pairs: Sequence[tuple[Prompt, Prompt]], num_levels: int
) -> list[tuple[float, int]]:
    """(sum of log-likelihoods, number of scored items) of every pair; right padding, which causal attention never reads."""
    unscored = {special.audio_pad, special.audio_start, special.audio_end, special.audiogen_end}
    device = model.llm.get_input_embeddings().weight.device
    codes = [
        torch.cat([part.code_rows(special.audio_pad, model.num_codebooks, "score") for part in pair]).to(device) for pair in pairs
    ]
    ids = [[*prompt.input_ids, *continuation.input_ids] for prompt, continuation in pairs]
    padded = torch.full((len(ids), max(map(len, ids))), special.eos, device=device)
    text: list[tuple[int, int, int]] = []
    audio: list[tuple[int, int, Tensor]] = []
    for row, (row_ids, row_codes) in enumerate(zip(ids, codes, strict=True)):
        padded[row, : len(row_ids)] = torch.tensor(row_ids, dtype=torch.long)
        frame = sum(token == special.audio_pad for token in pairs[row][0].input_ids)
        for position in range(len(pairs[row][0]), len(row_ids)):
            token = row_ids[position]
            if token == special.audio_pad:
                audio.append((row, position - 1, row_codes[frame]))
                frame += 1
            elif token == special.audiogen_end:
                audio.append((row, position - 1, torch.tensor(model.codebook_sizes, device=device)))
            if token not in unscored:
                text.append((row, position - 1, token))
    hidden = model(padded, torch.cat(codes)).hidden
    totals, counts = torch.zeros(len(ids), dtype=torch.float64), [0] * len(ids)
    if text:
        where, before, tokens = (torch.tensor(column, device=device) for column in zip(*text, strict=True))
        likelihood = model.text_logits(hidden[where, before]).float().log_softmax(dim=-1)
        totals.index_add_(0, where.cpu(), likelihood.gather(1, tokens.unsqueeze(1)).squeeze(1).double().cpu())
    if audio:
        where, before = (torch.tensor([item[column] for item in audio], device=device) for column in (0, 1))
        targets = torch.stack([item[2] for item in audio])
        is_end = targets[:, 0] == model.codebook_sizes[0]
        for level, logits in enumerate(model.audio_logits(hidden[where, before], targets)[:num_levels]):
            likelihood = logits.float().log_softmax(dim=-1).gather(1, targets[:, level : level + 1]).squeeze(1)
            # the levels after the first of an end frame are never read, so they decide nothing
            totals.index_add_(0, where.cpu(), (likelihood * (~is_end | (level == 0))).double().cpu())
        for (row, _, _), end in zip(audio, is_end.tolist(), strict=True):
            counts[row] += 1 if end else num_levels
    for row, _, _ in text:
        counts[row] += 1
    return list(zip(totals.tolist(), counts, strict=True))
