"""What an LLM judge is asked, as files: `prompts/NAME-VERSION.txt`; a file that has been used never changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("prompts")
_HEAD = re.compile(r"# (?P<name>[a-z0-9-]+) (?P<version>[0-9]+)\n# verdict: (?:yes\|no|1\.\.(?P<scale>[0-9]+))\n")
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS = ("mark", "question", "references", "answer")
_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_REPLY = re.compile(r"\s*REASON:[ \t]*(\S[^\n]*?)\s*\n\s*VERDICT:[ \t]*(yes|no|[0-9]+(?:/[0-9]+)?)\.?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """A prompt and how its replies are read.

    A file has the lines `# NAME VERSION` and `# verdict: yes|no` (or `# verdict: 1..10`), the text with {question}, {references}
    (may be left out), {answer} and {mark}, a line `---`, and what is added when a reply could not be read.

    Args:
        name, version: of the first line.
        sha256: of the whole file.
        scale: the best mark; None for yes or no.
        text, reminder: the parts of the file.
    """

    name: str
    version: int
    sha256: str
    scale: int | None
    text: str
    reminder: str

    @classmethod
    def load(cls, name: str) -> Prompt:
        """The prompt `qa-correct-1` of this package, or a file by its path (`mine/strict-1.txt`).

        Raises:
            FileNotFoundError: there is no such prompt or file.
            ValueError: the file has another form.
        """
        path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
            raise FileNotFoundError(f"judge prompt {name!r}: no file {path}; known are {known}, or give the path of a .txt file")
        data = path.read_bytes()
        content = data.decode("utf-8")
        head = _HEAD.match(content)
        text, dashes, reminder = content[head.end() :].partition("\n---\n") if head else ("", "", "")
        unknown = set(_FIELD.findall(text)) - set(_FIELDS)
        missing = {"mark", "question", "answer"} - set(_FIELD.findall(text))
        if not head or not dashes or not reminder.strip() or unknown or missing:
            why = "its first lines, or the line --- with a reminder behind it, are missing"
            why = f"unknown fields {sorted(unknown)}" if unknown else f"no field {sorted(missing)}" if head and missing else why
            raise ValueError(f"{path}: is no judge prompt ({why}); see bcaudio.evaluation.judge_prompts.Prompt")
        scale = int(head["scale"]) if head["scale"] else None
        return cls(head["name"], int(head["version"]), hashlib.sha256(data).hexdigest(), scale, text.strip(), reminder.strip())

    @property
    def stamp(self) -> dict[str, str]:
        """What results name: `prompt` and `prompt_sha256`."""
        return {"prompt": f"{self.name} {self.version}", "prompt_sha256": self.sha256}

    @property
    def wants_references(self) -> bool:
        """Whether the text holds the right answers."""
        return "{references}" in self.text

    @property
    def lowest(self) -> float:
        """The score of an answer that says nothing."""
        return 0.0 if self.scale is None else 1 / self.scale

    def filled(self, fields: Mapping[str, str]) -> str:
        """The text with its fields (`question`, `references`, `answer`) in one pass: fields inside a value stay as they are.

        {mark} follows from the values, so that no value can hold it and thereby end its block early.
        """
        mark = hashlib.sha256("\0".join(f"{name}={fields[name]}" for name in sorted(fields)).encode()).hexdigest()[:12]
        given = {**fields, "mark": mark}
        return _FIELD.sub(lambda match: given[match[1]], self.text)

    def read(self, reply: str) -> tuple[float, str] | None:
        """(score in [0, 1], reason) of a reply; None unless it is the two lines that were asked for and nothing else.

        A mark of `1..N` becomes mark / N. Thoughts before the reply (`<think>`), asterisks and backticks are passed over.
        """
        thoughts = _THOUGHTS.match(reply)
        match = _REPLY.fullmatch(re.sub(r"[*`]", "", reply[thoughts.end() :] if thoughts else reply))
        if not match:
            return None
        reason, verdict = match[1], match[2].lower()
        if self.scale is None:
            return (float(verdict == "yes"), reason) if verdict in ("yes", "no") else None
        mark, _, of = verdict.partition("/")
        if not mark.isdigit() or not 1 <= int(mark) <= self.scale or of not in ("", str(self.scale)):
            return None
        return int(mark) / self.scale, reason
