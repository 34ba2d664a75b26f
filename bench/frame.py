"""What all bench cases share: rows with a floor, a ratio, a budget and a verdict, and where a case runs.

A case is a module `bench/case_NAME.py` with

    TITLE = "one line for people"
    NEEDS = frozenset({"root", "netns", ...})      # features as lab/kernel_features.py knows them
    def measure() -> Iterator[Row]: ...            # generates its own world; called in a fresh network namespace, as root

It runs in place when the running kernel has all that it needs, else in the lab kernel. Budgets in seconds and milliseconds
hold for a native run, and so do shares of a core: under emulation a fixed loop is timed on both sides, and these are divided by its
factor before they are judged. Ratios to the floor, counts and memory are judged as they are.

It refuses to hide anything: a case that breaks off has the verdict "not measured", which is a failure too.
"""

from __future__ import annotations

import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

NATIVE_LOOP: Final = "BENCH_NATIVE_LOOP"  # environment: seconds that the calibration loop takes outside the lab kernel
_LEFT: Final = (0, 5, 6)  # columns of words
CORE: Final = "% of a core"  # processor time in a time
_TIMES: Final = frozenset({"s", "ms", "us", CORE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure, in `unit` ("s", "ms", "us" and CORE are times of a processor, all else is judged as it is).

    `floor`: what the C tools took for the same state in this run, same unit. `most`: budget for the figure itself; `most_ratio`: budget
    for figure / floor. Without either the figure is only told.
    """

    measure: str
    ours: float
    unit: str
    floor: float | None = None
    most: float | None = None
    most_ratio: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the floor's; None without a floor."""
        return None if self.floor is None else self.ours / self.floor

    def is_over(self, factor: float) -> bool:
        """Whether a budget is broken; `factor` is how much slower than native this kernel runs Python."""
        scale = factor if self.unit in _TIMES else 1.0
        if self.most is not None and self.ours / scale > self.most:
            return True
        return self.most_ratio is not None and (self.ratio is None or self.ratio > self.most_ratio)


def table(rows: Sequence[Row], factor: float) -> str:
    """All rows as text for people."""
    head = ("measure", "floor", "ours", "ratio", "budget", "verdict", "")
    cells = [head, *(_cells(row, factor) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join(_line(line, widths) for line in cells)


def verdict(case: str, rows: Iterable[Row], factor: float) -> tuple[str, int]:
    """The last line, and the exit status that says the same."""
    over = [row.measure for row in rows if row.is_over(factor)]
    return (f"bench {case}: over budget: {'; '.join(over)}", 1) if over else (f"bench {case}: within budget", 0)


def calibration(times: int = 5) -> float:
    """Seconds of processor that a fixed piece of Python takes here: the best of some runs, since others only ever make it slower."""
    return min(_processor_time(_loop) for _ in range(times))


def emulation_factor() -> float:
    """How much slower than native this kernel runs Python; 1.0 in place."""
    native = os.environ.get(NATIVE_LOOP)
    return calibration() / float(native) if native else 1.0


def company(load: float, processors: int) -> str:
    """A warning for people when others keep the machine busy, from its load average before anything was measured; empty when none do."""
    if load < processors / 2:
        return ""
    return f"load average was {load:.1f} on {processors} processors before: others were at work, times are longer than they need be"


def median(measure: Callable[[], float], times: int = 5) -> float:
    """Median of several measurements."""
    return statistics.median(measure() for _ in range(times))


def timed(function: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    return _timed(function) * 1000


def tool(*arguments: str, text: str = "") -> str:
    """Run a tool of the system on `text`; its output. Raises RuntimeError with all it said when it fails."""
    done = subprocess.run(arguments, input=text, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _cells(row: Row, factor: float) -> tuple[str, ...]:
    budget = [f"<= {_number(row.most)} {row.unit}"] if row.most is not None else []
    budget += [f"<= {_number(row.most_ratio)} x floor"] if row.most_ratio is not None else []
    judged = "over" if row.is_over(factor) else "ok" if budget else "-"
    native = [f"native about {_number(row.ours / factor)} {row.unit}"] if factor != 1.0 and row.unit in _TIMES else []
    return (
        row.measure,
        "-" if row.floor is None else f"{_number(row.floor)} {row.unit}",
        f"{_number(row.ours)} {row.unit}",
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        ", ".join(budget) or "-",
        judged,
        "; ".join([*native, *([row.note] if row.note else [])]),
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        text.ljust(width) if column in _LEFT else text.rjust(width) for column, (text, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _processor_time(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def _loop() -> None:
    pack = struct.Struct("=HHI").pack
    kept: dict[str, bytes] = {}
    for number in range(20_000):
        kept[f"10.{number >> 8}.{number & 255}.1"] = pack(8, number & 255, number)
    sorted(kept, reverse=True)
