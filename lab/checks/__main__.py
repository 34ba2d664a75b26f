"""`make check` and `make test`: run everything, show progress, and end with a plain verdict.

`python -m lab.checks` runs the checks that need no root: the style checks and the fast tests, side by side.
`python -m lab.checks test` goes on with the tests on real kernels; `-k EXPRESSION` runs the matching tests only.
A part that fails does not stop the others; the exit status is 0 when nothing failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
# Two sessions of about the same length, for the two processors that every machine has.
FAST = {
    "laws, walks and scenarios": ("tests/laws", "tests/walk", "tests/scenario", "tests/golden"),
    "units": ("tests/unit",),
}
REAL = ("tests/contract", "tests/kernel", "tests/lab")

STYLE: dict[str, list[str]] = {
    # The slowest first: two run at a time, beside the fast tests' own work.
    "types (mypy, strict)": [str(BIN / "mypy"), "-p", "kube_router", "-p", "lab", "-p", "bench"],
    "import contracts": [str(BIN / "lint-imports"), "--cache-dir", ".cache/import-linter"],
    "style (ruff)": [str(BIN / "ruff"), "check", "--quiet", "."],
    "format (ruff)": [str(BIN / "ruff"), "format", "--quiet", "--check", "."],
    "module size": [sys.executable, "-m", "lab.checks.module_size"],
}


@dataclass(slots=True)
class Result:
    """How one part ended. Of a part that ran tests also: counts by group and place, skipped tests, notes."""

    name: str
    status: int
    seconds: float
    output: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def style(name: str) -> Result:
    """One of the style checks, its output kept until it is known to matter."""
    begin = time.monotonic()
    done = subprocess.run(STYLE[name], cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return Result(name, done.returncode, time.monotonic() - begin, done.stdout + done.stderr)


def tests(name: str, folders: Sequence[str], *arguments: str, quiet: bool) -> Result:
    """One session of pytest over folders; `quiet` keeps its output until it is known to matter."""
    begin = time.monotonic()
    existing = [folder for folder in folders if any((REPOSITORY / folder).rglob("test_*.py"))]
    with tempfile.TemporaryDirectory() as folder:
        verdict = Path(folder) / "verdict.json"
        command = [sys.executable, "-m", "pytest", "--verdict-to", str(verdict), *arguments, *existing]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
            check=False,
        )
        found = json.loads(verdict.read_text()) if verdict.exists() else {}
    status = 0 if done.returncode == 5 and not found else done.returncode  # 5: nothing matched in these folders
    return Result(name, status, time.monotonic() - begin, done.stdout or "", **found)


def tell(result: Result, *, quiet: bool = True) -> Result:
    """One line for a part; all of its output when it failed and has not been shown."""
    print(f"  {'ok  ' if result.status == 0 else 'FAIL'} {result.name:24} {result.seconds:6.1f} s", flush=True)
    if result.status != 0 and quiet:
        print(result.output.rstrip(), flush=True)
    return result


def check() -> list[Result]:
    """The style checks and the fast tests side by side; a line for each as it ends."""
    print("make check: style checks and fast tests, side by side", flush=True)
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        futures = [pool.submit(tests, name, folders, quiet=True) for name, folders in FAST.items()]
        futures += [pool.submit(style, name) for name in STYLE]
        return [tell(future.result()) for future in concurrent.futures.as_completed(futures)]


def verdict(title: str, results: Sequence[Result], seconds: float) -> int:
    """The closing table and lines; the exit status."""
    total: Counter[str] = Counter()
    print(f"\n{'group':12} {'where':32} {'passed':>7} {'failed':>7}")
    for row in (row for result in results for row in result.rows):
        total.update({outcome: row.get(outcome, 0) for outcome in ("passed", "failed", "skipped")})
        print(f"{row['group']:12} {row['where']:32} {row.get('passed', 0):7} {row.get('failed', 0):7}")
    for result in results:
        for nodeid, reason in result.skipped.items():
            print(f"SKIPPED {nodeid}: {reason}")
        for note in result.notes:
            print(f"NOTE {note}")
    bad = [result.name for result in results if result.status != 0]
    if not total["passed"] and not bad:
        bad = ["no test was run"]
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"{total['passed']} passed, {total['failed']} failed{skipped}")
    minutes = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
    print(f"{title}: green in {minutes}" if not bad else f"{title}: RED after {minutes}: {', '.join(bad)}")
    return 1 if bad else 0


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="lab.checks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("check", "test"), default="check")
    parser.add_argument("-k", dest="expression", default="", help="run only the tests that match, as pytest's -k")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    begin = time.monotonic()
    if options.expression:
        every = tests("matching tests", ("tests",), "-k", options.expression, quiet=False)
        results = [tell(every, quiet=False)]
    else:
        results = check()
        if options.what == "test":
            print("make test: tests on real kernels, in place where this one can, else in the lab kernel", flush=True)
            results.append(tell(tests("tests on real kernels", REAL, quiet=False), quiet=False))
    return verdict(f"make {options.what}", results, time.monotonic() - begin)


if __name__ == "__main__":
    sys.exit(main())
