"""The files of a text tokenizer, from a published folder into a stage folder and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from bcaudio.pretrained.sources import TOKENIZER, TOKENIZER_FILES
from bcaudio.pretrained.stages import FOLDERS
from bcaudio.pretrained.target import warn
from bcaudio.recipe.record import stage_record
from bcaudio.text.special_tokens import NAMES


def write_text_tokenizer(source: Path, root: Path, num_rows: int | None = None) -> None:
    """Copy the tokenizer's files into a finished stage `<root>/text_tokenizer`.

    Args:
        source: folder with a tokenizer.json.
        root: parent of the stage folder.
        num_rows: rows of the text embedding; given, the project's special tokens that the tokenizer lacks get ids if rows are
            left for them.
    """
    out = root / FOLDERS["text_tokenizer"]
    out.mkdir()
    _copy_files(source, out)
    added: dict[str, int] = {}
    if num_rows is not None:
        tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
        missing = [name for name in NAMES.values() if tokenizer.token_to_id(name) is None]
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in missing])
        added = {name: tokenizer.token_to_id(name) for name in missing}
        if added and max(added.values()) < num_rows:
            tokenizer.save(str(out / TOKENIZER))
        elif added:
            warn(f"{source}: the tokenizer lacks {', '.join(missing)}, and the embedding of {num_rows} rows has no room for them")
            added = {}
    with stage_record(out, {"name": out.name, "imported": {"source": str(source)}}) as record:
        record.add(vocab_size=Tokenizer.from_file(str(out / TOKENIZER)).get_vocab_size(), added_special_tokens=added)


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the tokenizer's files of a stage into `out`, with a tokenizer_config.json that transformers can load."""
    _copy_files(folder, out)
    if not (out / "tokenizer_config.json").exists():
        eos = NAMES["eos"]
        content = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": eos}
        (out / "tokenizer_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy_files(source: Path, out: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
