"""Where the parity tests find their stored tensors: `pytest tests/parity --fixtures DIR` (or `--fixtures-dir DIR`).

Nothing of the tensors is known here or in the tests but their names: sizes, rates and numbers of levels, layers and steps come
from the JSON beside them or from their shapes, and the cases of a component are those that its file holds.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors import safe_open

FOLDER = Path(__file__).parent / "fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fixtures-dir", default=str(FOLDER), help="folder with the parity fixtures")
    # pytest has a `--fixtures` of its own, which lists fixture functions; below this folder it names ours
    actions = parser.optparser._option_string_actions
    actions["--fixtures"] = actions["--fixtures-dir"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cases(component, tensor): run for every NAME of which component.safetensors has `tensor`")


def folder_of(config: pytest.Config) -> Path:
    """The folder with NAME.safetensors and NAME.json."""
    folder = Path(config.getoption("fixtures_dir", str(FOLDER)))
    if not folder.is_dir():
        raise pytest.UsageError(f"--fixtures {folder}: no such folder; give one with NAME.safetensors and NAME.json")
    return folder


def case_names(file: Path, tensor: str) -> list[str]:
    """Every NAME such that the file has the tensor `tensor`, where NAME stands for `*`; `in.*.mel_length` finds `batch`, ..."""
    if not file.is_file():
        raise pytest.UsageError(f"{file}: no such file; a folder of fixtures holds every component")
    pattern = re.compile(re.escape(tensor).replace(r"\*", r"([^.]+)"))
    with safe_open(file, "pt") as tensors:
        names = [match[1] for key in tensors.keys() if (match := pattern.fullmatch(key))]  # noqa: SIM118 (no mapping)
    if not names:
        raise pytest.UsageError(f"{file}: no tensor is named {tensor}, so there is no case to test")
    return sorted(names)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is not None:
        component, tensor = marker.args
        metafunc.parametrize("name", case_names(folder_of(metafunc.config) / f"{component}.safetensors", tensor))


@pytest.fixture(scope="session")
def fixtures(request: pytest.FixtureRequest) -> Path:
    """The folder with NAME.safetensors and NAME.json."""
    return folder_of(request.config)
