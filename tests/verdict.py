"""The last lines of a test run: where each group ran, how many passed and failed, and what could not be covered.

`N passed, N failed` stands alone on a line, so that people and programs can find it. A skipped test is named with its
reason: nothing goes missing quietly.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.deferral import HERE

_RANK = {"passed": 0, "skipped": 1, "failed": 2}


class Verdict:
    """Counts each test once, by the worst of its phases, under the folder it stands in and the place where it ran."""

    def __init__(self, file: str | None) -> None:
        self._file = Path(file) if file else None
        self._outcomes: dict[str, str] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self._reasons: dict[str, str] = {}
        self.notes: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._count(report.nodeid, "failed", HERE)
        elif report.skipped:
            self._count(report.nodeid, "skipped", HERE)
            self._reasons[report.nodeid] = _reason(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._count(report.nodeid, report.outcome, getattr(report, "where", HERE))
        if report.skipped:
            self._reasons[report.nodeid] = _reason(report)

    def _count(self, nodeid: str, outcome: str, where: str) -> None:
        before = self._outcomes.get(nodeid, outcome)
        self._outcomes[nodeid] = max(before, outcome, key=_RANK.__getitem__)
        self._places[nodeid] = (_group(nodeid), where)

    def table(self) -> dict[tuple[str, str], Counter[str]]:
        """(group, where) -> how many of each outcome."""
        rows: dict[tuple[str, str], Counter[str]] = {}
        for nodeid, outcome in self._outcomes.items():
            rows.setdefault(self._places[nodeid], Counter())[outcome] += 1
        return dict(sorted(rows.items()))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rows = self.table()
        if not rows:
            return
        total: Counter[str] = Counter()
        for row in rows.values():
            total += row
        write = terminalreporter.write_line
        terminalreporter.ensure_newline()
        write(f"{'group':12} {'where':32} {'passed':>7} {'failed':>7}")
        for (group, where), row in rows.items():
            write(f"{group:12} {where:32} {row['passed']:7} {row['failed']:7}")
        for nodeid, reason in self._reasons.items():
            write(f"SKIPPED {nodeid}: {reason}")
        for note in self.notes:
            write(f"NOTE {note}")
        skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
        write(f"{total['passed']} passed, {total['failed']} failed{skipped}")
        if self._file is not None:
            self._file.write_text(json.dumps(self._as_json(rows)))

    def _as_json(self, rows: dict[tuple[str, str], Counter[str]]) -> dict[str, object]:
        return {
            "rows": [{"group": group, "where": where, **row} for (group, where), row in rows.items()],
            "skipped": self._reasons,
            "notes": self.notes,
        }


def _group(nodeid: str) -> str:
    parts = nodeid.split("::", 1)[0].split("/")
    return parts[1] if len(parts) > 2 else parts[-1]


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    longrepr = report.longrepr
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
