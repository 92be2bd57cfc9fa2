"""The files of one benchmark's outputs: parts while it is being asked, one file and a mark of completion when it is done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from bcaudio.evaluation.benchmark import Output, write_outputs
from bcaudio.recipe.errors import naming_full_disk
from bcaudio.recipe.record import jsonable, read_json, write_atomic


@dataclass(frozen=True)
class Stored:
    """What a benchmark's system said: all outputs in the order of the items, and what stands in the mark."""

    outputs: list[Output]
    mark: Mapping[str, Any]

    @property
    def answered(self) -> list[Output]:
        """The outputs that can be scored."""
        return [output for output in self.outputs if "error" not in output]

    @property
    def failed(self) -> dict[str, str]:
        """Why an item failed, by its id."""
        return {output["id"]: output["error"] for output in self.outputs if "error" in output}

    @property
    def num_items(self) -> int:
        """How many items the benchmark has, failed ones too."""
        return self.mark["num_items"]


class OutputFiles:
    """`<out>/outputs/NAME.jsonl`, `NAME.done.json`, `NAME.files/` and, until it is done, `NAME.part-<key>-<rank>.jsonl`.

    A line of a part is one batch, written at once: `{"items": [ids], "outputs": [...], "examples": {...}}`.

    Args:
        out: the stage folder.
        name: of the benchmark.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name, self.folder = out, name, out / "outputs"
        self.file, self.mark = self.folder / f"{name}.jsonl", self.folder / f"{name}.done.json"
        self.files = self.folder / f"{name}.files"

    def part(self, key: str, rank: int) -> Path:
        """Where a rank writes."""
        return self.folder / f"{self.name}.part-{key[:12]}-{rank}.jsonl"

    def parts(self, key: str = "") -> list[Path]:
        """The parts of a key; of any key by default."""
        return sorted(self.folder.glob(f"{escape(self.name)}.part-{key[:12]}*-*.jsonl"))

    def is_done(self, key: str, items: str | None) -> bool:
        """Whether outputs of this key lie here whole, and for these items (None: the items are not known)."""
        mark = read_json(self.mark)
        return mark.get("key") == key and "items" in mark and items in (None, mark["items"]) and self.file.is_file()

    def begin(self, key: str) -> set[str]:
        """Ids that are asked already. Files of other keys are deleted, and what was cut off in the middle of a line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.parts(key)
        for path in self.parts():
            if path not in kept:
                path.unlink()
        self.mark.unlink(missing_ok=True)
        for path in kept:
            _cut_torn_line(path)
        done = {id for batch in self.batches(key) for id in batch["items"]}
        if not done:
            shutil.rmtree(self.files, ignore_errors=True)
        return done

    def batches(self, key: str) -> Iterator[dict[str, Any]]:
        """All batches of a key's parts; ValueError naming file and line for one that cannot be read."""
        for path in self.parts(key):
            for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
                yield _parsed(line, path, number, ("items", "outputs", "examples"))

    def append(self, path: Path, batch: Mapping[str, Any]) -> None:
        """Adds a batch to a part, in one write."""
        line = json.dumps(batch, ensure_ascii=False) + "\n"
        with naming_full_disk(path), path.open("ab") as part:
            part.write(line.encode())

    def finish(self, key: str, ids: Sequence[str], failed: Mapping[str, str], num_examples: int, mark: Mapping[str, Any]) -> None:
        """Joins the parts in the order of `ids`; `failed` are those that were never asked."""
        said: dict[str, list[Output]] = {id: [{"id": id, "error": reason}] for id, reason in failed.items()}
        shown: dict[str, dict[str, list[dict[str, Any]]]] = {"audio": {}, "mels": {}}
        for batch in self.batches(key):
            said |= {id: [] for id in batch["items"]}
            for output in batch["outputs"]:
                said[output["id"]].append(output)
            for kind, found in batch["examples"].items():
                for example in found:
                    shown[kind].setdefault(example["key"], []).append(example)
        missing = [id for id in ids if not said.get(id)]
        assert not missing, f"{self.name}: no batch holds {missing[:3]}"
        outputs = [output for id in ids for output in said[id]]
        examples = {
            kind: [example for id in ids for example in found.get(id, ())][:num_examples] for kind, found in shown.items()
        }
        write_outputs(self.file, outputs)
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        content = {"key": key, "num_items": len(ids), "sha256": digest, "examples": examples, **mark}
        write_atomic(self.mark, json.dumps(content, ensure_ascii=False, default=jsonable) + "\n")
        self.clear()

    def clear(self) -> None:
        """Deletes the parts."""
        for path in self.parts():
            path.unlink()

    def copy_to(self, out: Path) -> None:
        """Copies everything of this benchmark to another stage folder."""
        there = OutputFiles(out, self.name)
        there.folder.mkdir(parents=True, exist_ok=True)
        if self.files.is_dir():
            shutil.copytree(self.files, there.files, dirs_exist_ok=True)
        for path in (*self.parts(), self.file, self.mark):  # the mark last: it says that all is there
            if path.is_file():
                shutil.copyfile(path, there.folder / path.name)

    def read(self) -> Stored:
        """The outputs.

        Raises:
            FileNotFoundError: they are not here, or only a part of them. ValueError: they are not as they were written; the
                message names file and line.
        """
        mark = read_json(self.mark)
        if not self.file.is_file() or "num_items" not in mark:
            parts = [path for path in self.parts() if path.stat().st_size]
            asked = sum(line.count(b"\n") for path in parts for line in [path.read_bytes()])
            state = f"half-written ({asked} batches in {parts[0].name} ...)" if parts else "not there"
            raise FileNotFoundError(
                f"{self.file}: the outputs of {self.name} are {state}; `bcaudio evaluate` asks what is missing"
            )
        remedy = f"delete {self.mark} and run `bcaudio evaluate` to ask again"
        data = self.file.read_bytes()
        outputs = [
            _parsed(line, self.file, number, ("id",), remedy)
            for number, line in enumerate(data.decode("utf-8", "replace").removesuffix("\n").split("\n"), start=1)
        ]
        found = len({output["id"] for output in outputs})
        if found != mark["num_items"]:
            raise ValueError(f"{self.file}:{len(outputs)}: ends after {found} of {mark['num_items']} items; {remedy}")
        if mark.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
            raise ValueError(f"{self.file}: was changed after it had been written (its SHA-256 is another); {remedy}")
        return Stored(outputs, mark)


def _parsed(line: str, path: Path, number: int, fields: Sequence[str], remedy: str = "") -> dict[str, Any]:
    remedy = remedy or "delete the file to ask again"
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number}: cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict) or any(field not in content for field in fields):
        raise ValueError(f"{path}:{number}: lacks {', '.join(fields)}; {remedy}")
    return content


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
