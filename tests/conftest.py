"""Fixtures every test may use, and where tests run: see `tests/deferral.py` and `tests/verdict.py`.

`golden` compares a rendered text with the one kept under `tests/golden/`; `netns` moves the test into a fresh network
namespace; `namespaces` makes more of them; `gobgpd` is a real speaker, once for each API generation that is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.kernel_netns import Netns
from tests import speakers
from tests.deferral import Deferral, Reporting
from tests.verdict import Verdict

KEPT = Path(__file__).parent / "golden"

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew; then read the diff")
    parser.addoption("--report-to", help="(inside the lab kernel) write every report to this file, one JSON a line")
    parser.addoption("--verdict-to", help="write the verdict's table to this file as JSON")


def pytest_configure(config: pytest.Config) -> None:
    report_to = config.getoption("--report-to")
    if report_to:
        config.pluginmanager.register(Reporting(config, report_to), "lab-reporting")
        return
    _settle_hypothesis()
    config.pluginmanager.register(Deferral(), "lab-deferral")
    config.pluginmanager.register(Verdict(config.getoption("--verdict-to")), "lab-verdict")


def _settle_hypothesis() -> None:
    """Properties are judged by their answer, not by how busy the machine is. In CI each run tries the same examples: a
    change is judged by what it changes; people's runs keep looking for new ones, fewer at a time, for they are many. (Inside the
    lab kernel the import is saved.)"""
    from hypothesis import settings

    in_ci = bool(os.environ.get("CI"))
    settings.register_profile("ours", deadline=None, derandomize=in_ci, max_examples=100 if in_ci else 50)
    settings.load_profile("ours")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses `gobgpd` runs once for each generation; a missing one is told in the verdict."""
    if "gobgpd" not in metafunc.fixturenames:
        return
    there = sorted(speakers.binaries())
    metafunc.parametrize("gobgpd", there, indirect=True)
    verdict = metafunc.config.pluginmanager.get_plugin("lab-verdict")
    for generation, remedy in speakers.REMEDIES.items():
        note = f"gobgpd {generation} is NOT here and nothing was tested against it: {remedy}"
        if verdict is not None and generation not in there and note not in verdict.notes:
            verdict.notes.append(note)


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


@pytest.fixture
def namespaces() -> Iterator[Callable[[], Netns]]:
    """`namespaces()` makes a fresh network namespace, as often as wanted; all are let go after the test."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def netns(namespaces: Callable[[], Netns]) -> Iterator[Netns]:
    """The test itself runs in a fresh network namespace: its thread, and the threads and processes it starts."""
    with namespaces().entered() as namespace:
        yield namespace


@pytest.fixture
def gobgpd(request: pytest.FixtureRequest, tmp_path: Path, namespaces: Callable[[], Netns]) -> Iterator[speakers.Speaker]:
    """A running gobgpd, not yet configured, in a namespace of its own. Mark the test with `needs("root")`."""
    speaker = speakers.Speaker(request.param, tmp_path, namespaces())
    speaker.start()
    yield speaker
    speaker.stop()
