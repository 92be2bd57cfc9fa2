"""Rule 9 of docs/design.md: imports go one way, and each heavy library has its rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "distributed audio text recipe checkpoint launch",
        "nn data metrics",
        "models",
        "losses inference pretrained",
        "training strategies planning",
        "callbacks evaluation",
        "train evaluate serve cli __main__",
    )
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

LIGHTNING_ROOMS = (
    "bcaudio.data.datamodule",
    "bcaudio.training",
    "bcaudio.strategies",
    "bcaudio.callbacks",
    "bcaudio.train",
)
ROOMS_OF: dict[str, tuple[str, ...]] = {
    "lightning": LIGHTNING_ROOMS,
    "lightning_fabric": LIGHTNING_ROOMS,
    "pytorch_lightning": LIGHTNING_ROOMS,
    "omegaconf": ("bcaudio.recipe",),
    "webdataset": ("bcaudio.data.shards",),
    "deepspeed": ("bcaudio.strategies",),
}


def module_name(path: Path, root: Path) -> str:
    """`<root>/bcaudio/nn/__init__.py` -> `bcaudio.nn`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, also those inside functions; relative ones made absolute."""
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from bcaudio import nn` names a room in its alias, not in its source
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def lies_in(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether a module is one of the rooms or inside one."""
    return any(module == room or module.startswith(room + ".") for room in rooms)


def broken_rules(path: Path, root: Path) -> list[str]:
    """One line for every import of a file that rule 9 forbids."""
    module = module_name(path, root)
    top, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    if top == "bcaudio" and room and room not in LEVEL:
        return [f"{path}: room {room} has no place in LAYERS; docs/design.md, rule 9, lists the rooms"]
    problems = []
    for line, target in imported_modules(path, root):
        target_top, *target_rest = target.split(".")
        if not lies_in(module, ROOMS_OF.get(target_top, (top,))):
            problems.append(f"{path}:{line}: imports {target_top}, allowed only in {', '.join(ROOMS_OF[target_top])}")
        if top == "bcaudio" and target_top == "data_prep":
            problems.append(f"{path}:{line}: bcaudio imports data_prep")
        if top == "bcaudio" and target_top == "bcaudio" and target_rest:
            if target_rest[0] not in LEVEL and room:
                continue  # a name of bcaudio/__init__.py, such as a version
            if not room:
                problems.append(f"{path}:{line}: bcaudio/__init__.py imports {target}; it must stay cheap to import")
            elif LEVEL[target_rest[0]] > LEVEL[room]:
                problems.append(f"{path}:{line}: {room} (layer {LEVEL[room]}) imports {target} (layer {LEVEL[target_rest[0]]})")
    return problems


def test_every_import_of_the_project_follows_rule_9() -> None:
    files = {top: sorted((ROOT / top).rglob("*.py")) for top in ("bcaudio", "data_prep")}
    assert all(len(found) > 0 for found in files.values()), {top: len(found) for top, found in files.items()}
    problems = [problem for found in files.values() for path in found for problem in broken_rules(path, ROOT)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "source", "word"),
    [
        ("bcaudio/nn/x.py", "from bcaudio.models.llm import LLM", "layer 1"),
        ("bcaudio/nn/x.py", "from bcaudio import models", "layer 1"),
        ("bcaudio/nn/x.py", "from ..training import stage", "layer 1"),
        ("bcaudio/nn/x.py", "def f():\n    import lightning.pytorch", "imports lightning"),
        ("bcaudio/data/reader.py", "import webdataset as wds", "imports webdataset"),
        ("bcaudio/train.py", "from deepspeed.utils import zero_to_fp32", "imports deepspeed"),
        ("bcaudio/training/stage.py", "from omegaconf import OmegaConf", "imports omegaconf"),
        ("bcaudio/cli.py", "from data_prep import make_shards", "imports data_prep"),
        ("bcaudio/__init__.py", "from .nn import attention", "stay cheap"),
        ("bcaudio/helpers/x.py", "import math", "no place in LAYERS"),
        ("data_prep/x.py", "import lightning", "imports lightning"),
    ],
)
def test_each_kind_of_forbidden_import_is_seen(tmp_path: Path, path: str, source: str, word: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    assert [word in problem for problem in broken_rules(file, tmp_path)] == [True]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bcaudio/training/stage.py", "import lightning\nfrom bcaudio.models import llm\nfrom ..nn import attention"),
        ("bcaudio/data/shards.py", "import webdataset"),
        ("bcaudio/recipe/load.py", "from omegaconf import OmegaConf\nfrom bcaudio import __version__"),
        ("data_prep/x.py", "from bcaudio.train import fit"),
    ],
)
def test_allowed_imports_raise_no_complaint(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    assert broken_rules(file, tmp_path) == []
