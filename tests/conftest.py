"""Fixtures every test may use: comparing a rendered text with the one kept under `tests/golden/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

KEPT = Path(__file__).parent / "golden"

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew; then read the diff")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden("help.txt", text)` holds when the text is what the file of that name under `tests/golden/` says."""
    update: bool = request.config.getoption("--update-golden")

    def compare(name: str, text: str) -> None:
        file = KEPT / name
        if update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert file.exists(), f"{file} is missing; write it with --update-golden and read it"
        assert text == file.read_text()

    return compare
