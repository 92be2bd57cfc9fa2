"""The report's examples: spectrograms, sounds, loss masks. Their source is `examples.json` of the evaluate stage:

`mels`: `[{key, title, panels: [{name, file}]}]`, each file an .npy of shape [F, n_mels]; the first panel is the reference.
`audio`: `[{key, title, text, heard, expected, players: [{name, file}]}]`, each file a sound.
`masks`: `[{task, key, tokens: [{text, kind: "text" | "audio" | "special", paid, num}]}]`.
Files are named relative to the folder of examples.json.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.evaluation.report_charts import envelope
from bcaudio.evaluation.report_data import as_tables, file_inside, is_number, read_examples
from bcaudio.evaluation.report_media import MAX_MEL_FRAMES, AudioShelf, mel_png, read_mel
from bcaudio.evaluation.report_results import absent

_KINDS = ("text", "audio", "special")


def example_bodies(folder: Path | None) -> dict[str, str]:
    """The sections `spectrograms`, `sounds` and `masks` of a folder with examples.json; a reason for what is not there."""
    content, problem = read_examples(folder)
    draw: dict[str, tuple[str, Callable[[Sequence[Mapping[str, Any]], Path], str]]] = {
        "spectrograms": ("mels", mels_section),
        "sounds": ("audio", audio_section),
        "masks": ("masks", lambda found, _: masks_section(found)),
    }
    bodies = {}
    for section, (key, body) in draw.items():
        found = as_tables(content.get(key))
        bodies[section] = body(found, folder) if found and folder else absent(problem or f"examples.json has no {key}")
    return bodies


def mels_section(examples: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """One block per clip; its panels share their colours, so that brightness can be compared."""
    return "".join(_mel_clip(example, folder) for example in examples)


def _mel_clip(example: Mapping[str, Any], folder: Path) -> str:
    loaded: list[tuple[str, np.ndarray | str]] = []
    for panel in as_tables(example.get("panels")):
        try:
            content: np.ndarray | str = read_mel(file_inside(folder, panel.get("file")))
        except (ValueError, OSError) as error:
            content = str(error)
        loaded.append((str(panel.get("name", "")), content))
    arrays = [content for _, content in loaded if isinstance(content, np.ndarray)]
    # panels with another number of bands have other units too (the flow decoder's mel is not the tokenizer's)
    ranges = {bands: _range([a for a in arrays if a.shape[1] == bands]) for bands in {a.shape[1] for a in arrays}}
    figures, reference = [], next(iter(loaded), ("", ""))
    for name, content in loaded:
        if isinstance(content, str):
            figures.append(f'<figure class="mel"><figcaption><b>{escape(name)}</b></figcaption>{absent(content)}</figure>')
            continue
        frames, bands = content.shape
        remark = f"{frames:,} frames × {bands} bands"
        if frames > MAX_MEL_FRAMES:
            remark += f", the first {MAX_MEL_FRAMES:,} drawn"
        if isinstance(reference[1], np.ndarray) and content is not reference[1] and content.shape[1] == reference[1].shape[1]:
            common = min(frames, len(reference[1]))
            remark += f" · mean |difference| from {reference[0]} {np.abs(content[:common] - reference[1][:common]).mean():.3f}"
        figures.append(
            f'<figure class="mel"><figcaption><b>{escape(name)}</b><span class="muted">{escape(remark)}</span></figcaption>'
            f'<img alt="mel spectrogram, {escape(name)}" src="{mel_png(content, *ranges[bands])}"></figure>'
        )
    body = "".join(figures) or absent("the example names no panels")
    return f'<h3>{_title(example)}</h3><div class="mels">{body}</div>'


def _range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([array.ravel() for array in arrays])
    low, high = np.percentile(values, [1.0, 99.8])
    return float(low), float(high)


def audio_section(examples: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """One card per example: what was to be said, what the model wrote, what the auditor heard, and the sounds."""
    paths = []
    for example in examples:
        for player in as_tables(example.get("players")):
            try:
                paths.append(file_inside(folder, player.get("file")))
            except ValueError:
                continue
    shelf = AudioShelf(paths)
    cards = "".join(_audio_card(example, folder, shelf) for example in examples)
    how = "lossless (FLAC)" if shelf.lossless else "compressed (Ogg Vorbis), since all clips as FLAC would not fit"
    return f'<p class="muted">The sounds in this file are {how}.</p><div class="clips">{cards}</div>'


def _audio_card(example: Mapping[str, Any], folder: Path, shelf: AudioShelf) -> str:
    expected, heard = example.get("expected"), example.get("heard")
    rows = [("expected", expected), ("model wrote", example.get("text")), ("auditor heard", heard)]
    listed = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in rows if value not in (None, ""))
    verdict = ""
    if expected and heard is not None:
        same = same_words(str(expected), str(heard))
        verdict = (
            f'<span class="pill {"good" if same else "bad"}">{"✓ heard as expected" if same else "✗ heard otherwise"}</span>'
        )
    players = as_tables(example.get("players"))
    sounds = (player(str(one.get("name", "")), shelf, partial(file_inside, folder, one.get("file"))) for one in players)
    body = "".join(sounds) or absent("the example names no players")
    words = f'<dl class="facts">{listed}</dl>' if listed else ""
    return f'<article class="clip"><h3>{_title(example)}</h3>{verdict}{words}{body}</article>'


def player(name: str, shelf: AudioShelf, find: Callable[[], Path]) -> str:
    """A sound with its outline under its name; where `find` or the sound itself fails, the reason instead."""
    shown = escape(name)
    try:
        clip = shelf.clip(find())
    except (ValueError, OSError) as error:
        return f'<div class="player"><b>{shown}</b>{absent(str(error))}</div>'
    return (
        f'<div class="player"><div><b>{shown}</b>'
        f'<span class="muted">{clip.duration_s:.1f} s · {clip.sample_rate / 1000:g} kHz</span></div>'
        f'{envelope(clip.peaks)}<audio controls preload="none" aria-label="{shown}" src="{clip.uri}"></audio></div>'
    )


def same_words(left: str, right: str) -> bool:
    """Equal but for case, spaces and punctuation: only a mark beside the player, no metric."""

    def letters(text: str) -> str:
        return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())

    return letters(left) == letters(right)


def masks_section(examples: Sequence[Mapping[str, Any]]) -> str:
    """One row of chips per task: filled where loss is paid, dashed where not; runs of audio are folded into one chip."""
    legend = "".join(
        f'<span class="chip k-{kind} {paid}">{kind}, {"paid" if paid == "paid" else "not paid"}</span>'
        for kind in _KINDS
        for paid in ("paid", "unpaid")
    )
    blocks = [f'<div class="chips">{legend}</div>']
    for example in examples:
        tokens = as_tables(example.get("tokens"))
        paid = sum(_count(token) for token in tokens if token.get("paid"))
        total = sum(_count(token) for token in tokens)
        title = f"{escape(str(example.get('task', '?')))} <span class='muted mono'>{escape(str(example.get('key', '')))}</span>"
        share = f'<p class="muted">Loss is paid on {paid:,} of {total:,} positions.</p>'
        chips = "".join(_chip(*chip) for chip in folded(tokens))
        blocks.append(f"<h3>{title}</h3>{share}" + (f'<div class="chips">{chips}</div>' if chips else absent("no tokens")))
    return "".join(blocks)


def folded(tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, bool, int]]:
    """(text, kind, paid, number of positions) per chip; neighbouring audio tokens of the same kind of pay become one."""

    def run(indexed: tuple[int, Mapping[str, Any]]) -> tuple[str, bool, int]:
        index, token = indexed
        return _kind(token), bool(token.get("paid")), -1 if _kind(token) == "audio" else index

    for (kind, paid, _), members in groupby(enumerate(tokens), key=run):
        group = [token for _, token in members]
        yield str(group[0].get("text", "")), kind, paid, sum(_count(token) for token in group)


def _kind(token: Mapping[str, Any]) -> str:
    return token["kind"] if token.get("kind") in _KINDS else "special"


def _count(token: Mapping[str, Any]) -> int:
    number = token.get("num", 1)
    return int(number) if is_number(number) else 1


def _chip(text: str, kind: str, paid: bool, number: int) -> str:
    shown = escape(text.replace("\n", "⏎")) or "␣"
    times = f" <small>× {number:,}</small>" if number > 1 else ""
    pay = "paid" if paid else "unpaid"
    return f'<span class="chip k-{kind} {pay}" title="{kind}, {"loss paid" if paid else "no loss"}">{shown}{times}</span>'


def _title(example: Mapping[str, Any]) -> str:
    key = escape(str(example.get("key", "")))
    return f"{escape(str(example.get('title') or ''))} <span class='muted mono'>{key}</span>"
