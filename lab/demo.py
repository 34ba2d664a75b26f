"""The walkthrough told to people: ``python -m lab.demo`` plays all 12 steps, ``--step 7`` one and what it stands on.

For each step: what is done, the command that a person would type with its real output, and a tick for each thing that must be
seen. The last line is the verdict. ``--keep`` leaves a shell in node1, with a ``kubectl`` that lists the lab's objects.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from lab.cluster import Cluster
from lab.waiting import SLOWNESS
from lab.walkthrough import STEPS, Step, with_what_they_need
from lab.walkthrough.stage import Broken, Stage

TICK, CROSS = "✓", "✗"
MOST_LINES = 50  # of one command's output


class Printer:
    """A teller for a terminal; colours only where there is one. ``quiet`` leaves out all but what breaks."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self.quiet = False
        self.ticks = 0

    def title(self, text: str) -> None:
        self._print(f"\n{self._in('1', text)}")

    def did(self, text: str) -> None:
        if not self.quiet:
            self._print(f"  {text}")

    def showed(self, where: str, command: str, output: str) -> None:
        if self.quiet:
            return
        self._print(f"\n    {self._in('36', f'{where}# {command}' if where else f'# {command}')}")
        lines = output.splitlines() or ["(nothing)"]
        for line in lines[:MOST_LINES]:
            self._print(f"    {line}")
        if len(lines) > MOST_LINES:
            self._print(f"    ... and {len(lines) - MOST_LINES} lines more")

    def held(self, promise: str, *, seconds: float) -> None:
        self.ticks += 1
        if not self.quiet:
            took = f" ({seconds:.1f} s)" if seconds >= 0.1 else ""
            self._print(f"  {self._in('32', TICK)} {promise}{took}")

    def broke(self, promise: str, why: str) -> None:
        self._print(f"  {self._in('31', CROSS)} {promise}\n    {why}")

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text

    def _print(self, text: str) -> None:
        print(text, flush=True)


def play(stage: Stage, printer: Printer, steps: Sequence[Step], *, shown: Sequence[int]) -> dict[int, bool]:
    """Play steps in order, aloud those in ``shown``; what became of each. The first that breaks ends the play."""
    outcome: dict[int, bool] = {}
    for step in steps:
        printer.quiet = step.number not in shown
        words = f"Step {step.number}: {step.title}"
        printer.title(f"{words} (prepares what follows)" if printer.quiet else words)
        start = time.monotonic()
        try:
            step.play(stage)
        except Exception as error:  # noqa: BLE001  the verdict must be said whatever went wrong
            if not isinstance(error, Broken):
                printer.broke("the step was played to its end", traceback.format_exc())
            outcome[step.number] = False
            printer.title(f"  {CROSS} step {step.number} broke after {time.monotonic() - start:.0f} s")
            break
        outcome[step.number] = True
        printer.title(f"  {TICK} step {step.number} ({time.monotonic() - start:.0f} s)")
    return outcome


def verdict(outcome: dict[int, bool], asked: Sequence[int], *, ticks: int, seconds: float) -> str:
    """The last line."""
    broken = [number for number, held in outcome.items() if not held]
    if broken:
        return f"demo: step {broken[0]} did not show what it must; {sum(outcome.values())} of {len(asked)} steps held"
    return f"demo: all {len(asked)} steps held ({ticks} checks, {seconds:.0f} s)"


def shell(cluster: Cluster) -> None:
    """A shell in node1, until the person leaves it."""
    node1 = cluster.node("node1")
    folder = node1.file("/run/bin")
    folder.mkdir(exist_ok=True)
    root = Path(__file__).parents[1]
    command = folder / "kubectl"
    command.write_text(f'#!/bin/sh\ncd "{root}" && exec "{sys.executable}" -m lab.kubectl "$@"\n')
    command.chmod(0o755)
    path = f"/run/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    print("This is node1. Try: kubectl get pods, ip route, ipvsadm -Ln, ip netns. Leave with exit.", flush=True)
    process = node1.space.popen(["sh", "-i"], env=os.environ | {"PATH": path, "PS1": "node1# ", "LAB_API": cluster.url}, cwd="/")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for what runs in the shell
    process.wait()
    signal.signal(signal.SIGINT, before)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description="The walkthrough on three nodes.")
    numbers = [step.number for step in STEPS]
    parser.add_argument("--step", type=int, choices=numbers, metavar="N", help="only this one, after what it needs")
    parser.add_argument("--keep", action="store_true", help="leave a shell in node1 at the end")
    parser.add_argument("--ipv4-only", action="store_true", help="leave IPv6 out")
    parser.add_argument("--gobgpd", default="", help="another gobgpd than Debian's")
    parser.add_argument("--work", type=Path, help="keep the logs of all processes in this folder")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("demo: the lab makes network namespaces; run it as root", file=sys.stderr)
        return 1
    asked = [options.step] if options.step else numbers
    printer = Printer(colours=sys.stdout.isatty())
    start = time.monotonic()
    slow = " (under emulation: this takes some minutes)" if SLOWNESS > 1 else ""
    printer.did(f"Three nodes, their wires and an API server are being made{slow}.")
    more = {"speaker": options.gobgpd} if options.gobgpd else {}
    with Cluster(nodes=3, ipv6=not options.ipv4_only, work=options.work, **more) as cluster:
        printer.did(f"They stand after {time.monotonic() - start:.0f} s.")
        outcome = play(Stage(cluster, printer), printer, with_what_they_need(asked), shown=asked)
        if options.keep:
            shell(cluster)
    print(f"\n{verdict(outcome, asked, ticks=printer.ticks, seconds=time.monotonic() - start)}", flush=True)
    return 0 if all(outcome.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
