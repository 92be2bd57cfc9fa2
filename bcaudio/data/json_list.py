"""One huge JSON list, read item by item."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20  # characters
_LARGEST_ITEM = 1 << 28  # characters: a list item beyond it is broken JSON
_BETWEEN = re.compile(r"[\s,]*")


def json_items(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of the list `name` in one huge JSON object, e.g. `{"dataset": "x", "audios": [{...}, ...]}`.

    Raises:
        ValueError: there is no such list near the top, the JSON is broken, or the file ends in the middle.
    """
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as file:
        try:
            buffer = file.read(_CHUNK)
            opening = re.search(rf'"{name}"\s*:\s*\[', buffer)
            if opening is None:
                raise ValueError(f"{path}: no list {name!r} in its first {_CHUNK} characters; download the file again")
            position = opening.end()
            while True:
                position = _BETWEEN.match(buffer, position).end()
                if buffer.startswith("]", position):
                    return
                try:
                    item, position = decoder.raw_decode(buffer, position)
                except json.JSONDecodeError as error:
                    more = file.read(max(_CHUNK, len(buffer) - position))
                    if not more or len(buffer) - position > _LARGEST_ITEM:
                        raise ValueError(
                            f"{path}: list {name!r} is broken or ends early ({error.msg}); download it again"
                        ) from None
                    buffer, position = buffer[position:] + more, 0
                    continue
                yield item
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); download it again") from error
