"""Run each test where it can run: here, or all that cannot in one session inside one boot of the lab kernel, side by side.

`@pytest.mark.needs("ip_vs", "dummy", "root")` says what a test needs (names: `lab.kernel_features`). Tests whose
needs are met run here. The others are collected, and one lab kernel is booted in which one pytest session runs them all
while the tests here run; it has what they leave of the processors (they mostly wait for timers of protocols), so that their
limits hold. Its reports come back through a file, line by line, after the last test here, and count like any other. Nothing
is skipped: a test for which no report came back has failed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import kernel, kernel_features

HERE = "in place"
# For people: send every test with needs to the lab kernel, even where this kernel would do; how long it may take in all.
ALWAYS = bool(os.environ.get("LAB_KERNEL_ALWAYS"))
TIMEOUT_SECONDS = float(os.environ.get("LAB_KERNEL_TIMEOUT", "3600"))
_TAIL_LINES = 60


def needs_of(item: pytest.Item) -> frozenset[str]:
    """All features that the markers of a test, its class and its module name."""
    return frozenset(feature for marker in item.iter_markers("needs") for feature in marker.args)


class Deferral:
    """On the outside: sorts the tests, boots the lab kernel once, and feeds its reports to this session."""

    def __init__(self) -> None:
        self.deferred: list[pytest.Item] = []

    @pytest.hookimpl(trylast=True)  # after -k, -m and everything else has chosen
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        if session.config.option.collectonly:
            return
        stay: list[pytest.Item] = []
        for item in items:
            needs = needs_of(item)
            (self.deferred if needs and (ALWAYS or kernel_features.missing(needs)) else stay).append(item)
        items[:] = stay

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        here_first = session.testscollected
        session.testscollected += len(self.deferred)
        inside = _Inside(session, self.deferred) if self.deferred else None
        try:
            result = yield
            if inside is not None and not (session.config.option.maxfail and session.testsfailed):
                inside.report()
        finally:
            if inside is not None:
                inside.end()
        assert session.testscollected == here_first + len(self.deferred)
        return result


class _Inside:
    """The session inside the lab kernel, running from the beginning; its reports are passed on when they are asked for."""

    def __init__(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        self._session, self._items = session, items
        self._work = kernel.work_folder("tests")
        self._reports, listing = self._work / "reports.jsonl", self._work / "tests.txt"
        self._reports.touch()
        listing.write_text("".join(f"{item.nodeid}\n" for item in items))
        self._run = _KernelRun(_guest_command(session.config, listing, self._reports), self._work)
        self._lost: list[pytest.Item] = items
        _say(session, f"lab kernel: starting it for {len(items)} tests that need what this kernel lacks, beside the others")

    def report(self) -> None:
        """Pass on what it reports until it has ended."""
        session, run = self._session, self._run
        _say(session, f"lab kernel: {run.so_far(self._reports)} of {len(self._items)} tests are through")
        where = f"lab kernel {run.release}".strip()
        seen: set[str] = set()
        for line in run.follow(self._reports):
            report = session.config.hook.pytest_report_from_serializable(config=session.config, data=json.loads(line))
            report.where = where
            if report.nodeid not in seen:
                session.config.hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
            if report.when == "teardown":
                seen.add(report.nodeid)
            session.config.hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                session.config.hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
        self._lost = [item for item in self._items if item.nodeid not in seen]
        for item in self._lost:
            session.config.hook.pytest_runtest_logreport(report=_lost(item, run, where))
        _say(session, run.summary())

    def end(self) -> None:
        """End it if it still runs; its output stays where a test got no result."""
        self._run.end()
        if self._lost:
            _say(self._session, f"lab kernel: its whole output is in {self._work}")
        else:
            shutil.rmtree(self._work, ignore_errors=True)


class _KernelRun:
    """The lab kernel in a thread, its output kept in a file."""

    def __init__(self, command: list[str], work: Path) -> None:
        self._work, self._problem = work, ""
        self._outcome: kernel.Outcome | None = None
        self.release = ""
        try:
            self.release = kernel.release(kernel.find())
        except kernel.NoLabKernel as problem:
            self._problem = str(problem)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(command,), daemon=True)
        if not self._problem:
            self._thread.start()

    def _run(self, command: list[str]) -> None:
        environment = {"HYPOTHESIS_STORAGE_DIRECTORY": "/run/hypothesis"}
        boot = kernel.Boot(work=self._work, timeout=TIMEOUT_SECONDS, environment=environment, gentle=True, stop=self._stop)
        with (self._work / "output.txt").open("ab") as output:

            def keep(chunk: bytes) -> None:
                output.write(chunk)
                output.flush()

            try:
                self._outcome = kernel.run(command, boot, echo=keep)
            except (kernel.NoLabKernel, kernel.LabKernelFailed, OSError) as problem:
                self._problem = str(problem)

    def follow(self, reports: Path) -> Iterator[str]:
        """The lines of the file of reports as they are written, until the lab kernel has ended."""
        with reports.open() as stream:
            rest = ""
            while True:
                ended = not self._thread.is_alive()
                rest += stream.read()
                *lines, rest = rest.split("\n")
                yield from lines
                if ended:
                    return
                time.sleep(0.3)

    def so_far(self, reports: Path) -> int:
        """How many tests have ended."""
        return sum(json.loads(line)["when"] == "teardown" for line in reports.read_text().splitlines(keepends=True) if line[-1] == "\n")

    def end(self) -> None:
        """Wait for its end, which comes at once if it is not there yet."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def summary(self) -> str:
        if self._outcome is None:
            return f"lab kernel: {self._problem}"
        outcome = self._outcome
        return f"lab kernel: {outcome.boot_seconds:.0f} s to start, {outcome.total_seconds:.0f} s in all"

    def why_lost(self) -> str:
        """What to show for a test that never reported."""
        output = self._work / "output.txt"
        tail = output.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if output.exists() else []
        return "\n".join(["the lab kernel gave no result for this test", self.summary(), *tail])


def _guest_command(config: pytest.Config, listing: Path, reports: Path) -> list[str]:
    passed = [f"--tb={config.option.tbstyle}"] if config.option.tbstyle != "auto" else []
    if config.option.maxfail:
        passed.append(f"--maxfail={config.option.maxfail}")
    own = ["-v", "-p", "no:cacheprovider", f"--rootdir={config.rootpath}", f"--report-to={reports}"]
    return [sys.executable, "-m", "pytest", *own, *passed, f"@{listing}"]


def _lost(item: pytest.Item, run: _KernelRun, where: str) -> pytest.TestReport:
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=run.why_lost(),
        when="call",
    )
    report.where = where  # type: ignore[attr-defined]
    return report


def _say(session: pytest.Session, text: str) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\n{text}")  # not in the line of dots


class Reporting:
    """On the inside: hands every report out through a file, and fails what not even this kernel can run."""

    def __init__(self, config: pytest.Config, path: str) -> None:
        self._config = config
        self._stream = open(path, "a", buffering=1)  # noqa: SIM115 - held open for the whole session

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        lacking = kernel_features.missing(needs_of(item))
        if lacking:
            pytest.fail(f"needs {sorted(lacking)}, which not even the lab kernel has", pytrace=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._stream.write(json.dumps(data) + "\n")

    def pytest_unconfigure(self) -> None:
        self._stream.close()
