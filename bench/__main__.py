"""`python -m bench CASE`: measure one case where its kernel is, print its table, end with its verdict and the exit status that says
the same (0 within budget, 1 over, 2 not measured)."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

from bench.frame import NATIVE_LOOP, Row, calibration, company, emulation_factor, progress, table, verdict
from lab import kernel, kernel_features

HERE = Path(__file__).parent
NOT_MEASURED = 2


class Case(Protocol):
    """What a module `bench/case_NAME.py` holds."""

    TITLE: str
    NEEDS: frozenset[str]

    def measure(self) -> Iterator[Row]:
        """Figures, as they are measured."""


def names() -> list[str]:
    """All cases that there are."""
    return sorted(path.stem.removeprefix("case_") for path in HERE.glob("case_*.py"))


def load(name: str) -> Case:
    """The module of a case."""
    return cast(Case, importlib.import_module(f"bench.case_{name}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Decide where, start it there, hand on what it said."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure one case against its floor and its budgets.")
    parser.add_argument("case", choices=names())
    parser.add_argument("--inside", action="store_true", help="(used by itself) this is the place: measure now")
    parser.add_argument("--lab-kernel", action="store_true", help="run in the lab kernel even where this one would do")
    options = parser.parse_args(arguments)
    if options.inside:
        return measure(options.case)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_MEASURED))  # told to end, it ends the lab kernel too
    missing = kernel_features.missing(load(options.case).NEEDS)
    try:
        if missing or options.lab_kernel:
            return _in_lab_kernel(options.case, missing)
        return subprocess.run(_command(options.case), check=False).returncode
    except (kernel.NoLabKernel, kernel.LabKernelFailed) as problem:
        print(f"bench {options.case}: not measured: {problem}")
        return NOT_MEASURED


def measure(name: str) -> int:
    """Measure here and now, in the network namespace that this process is in."""
    case = load(name)
    where = f"lab kernel {os.environ[kernel.INSIDE]}, emulated" if kernel.inside() else f"in place, kernel {os.uname().release}"
    busy = company(os.getloadavg()[0], os.cpu_count() or 1)
    rows: list[Row] = []
    problem = ""
    try:
        for row in case.measure():
            progress(f"{row.measure}: {row.ours:.4g} {row.unit}")
            rows.append(row)
    except Exception as fault:  # noqa: BLE001  whatever broke it, what was measured is shown, and the verdict says so
        traceback.print_exc()
        problem = f"{type(fault).__name__}: {fault}".splitlines()[0]
    factor = emulation_factor()
    print(f"\n{case.TITLE}\n{where}" + (f"; Python runs {factor:.1f} times slower than native there" if factor != 1.0 else ""))
    if busy:
        print(busy)
    print(table(rows, factor))
    line, status = (f"bench {name}: not measured: {problem}", NOT_MEASURED) if problem else verdict(name, rows, factor)
    print(line, flush=True)
    return status


def _in_lab_kernel(name: str, missing: frozenset[str]) -> int:
    why = f"this kernel lacks {', '.join(sorted(missing))}" if missing else "as asked"
    progress(f"starting the lab kernel ({why}); it takes 20 to 45 s")
    work = kernel.work_folder(f"bench-{name}")
    boot = kernel.Boot(work=work, environment={NATIVE_LOOP: repr(calibration())})
    status = kernel.run(_command(name), boot).status
    shutil.rmtree(work, ignore_errors=True)
    return status


def _command(name: str) -> list[str]:
    """A process in a network and a mount namespace of its own, so that nothing of the machine's is touched."""
    inner = [sys.executable, "-m", "bench", name, "--inside"]
    return ["unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *inner]


if __name__ == "__main__":
    sys.exit(main())
