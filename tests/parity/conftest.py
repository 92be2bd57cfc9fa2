"""Where the parity tests find their stored tensors: `pytest tests/parity --fixtures DIR` (or `--fixtures-dir DIR`)."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fixtures-dir", default=str(Path(__file__).parent / "fixtures"), help="folder with the parity fixtures")
    # pytest has a `--fixtures` of its own, which lists fixture functions; below this folder it names ours
    actions = parser.optparser._option_string_actions
    actions["--fixtures"] = actions["--fixtures-dir"]


@pytest.fixture(scope="session")
def fixtures(request: pytest.FixtureRequest) -> Path:
    """The folder with NAME.safetensors and NAME.json."""
    folder = Path(request.config.getoption("fixtures_dir"))
    if not folder.is_dir():
        raise FileNotFoundError(f"--fixtures {folder}: no such folder")
    return folder
