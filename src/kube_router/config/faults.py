"""One thing wrong with what we were asked to do, said so that the reader can put it right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LONGEST_SHOWN: Final = 120


@dataclass(frozen=True, slots=True)
class Fault:
    """`flag` as written, with its dashes; `value` is None where there is none, or where it must not be shown.

    `problem` says what is wrong, `advice` what would be right, empty when the problem says so itself.
    """

    flag: str
    value: str | None
    problem: str
    advice: str = ""

    def __str__(self) -> str:
        subject = _cut(self.flag) if self.value is None else f"{self.flag}={_cut(self.value)}"
        return _printable(f"{subject}: {self.problem}" + (f"; {self.advice}" if self.advice else ""))


class StartRefused(Exception):
    """Start-up found faults that the command line alone could not show; `faults` are all of them, `status` the exit's."""

    status = 2

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = faults


def _printable(text: str) -> str:
    """Fit for one line of a terminal: control characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def report(faults: Iterable[Fault]) -> str:
    """All faults as text for a person, one a line, ending in a newline."""
    lines = [f"  {fault}" for fault in faults]
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    return "\n".join([f"kube-router: not started, {count}:", *lines, "Flags are explained by kube-router --help.", ""])
