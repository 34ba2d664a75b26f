"""Running the kernel's command line tools: text in, text out, every fork counted.

Tools are found once, on PATH and in the system's usual folders (a container may start us with a bare PATH), and run with
the C locale, for their messages are read. No shell is involved. What a message means is for the targets to say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from kube_router.kit.errors import Busy, Rejected

_USUAL_FOLDERS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_TIMEOUT: Final = 120.0  # seconds; a restore of 100,000 lines takes one, thirteen under emulation


Observer = Callable[[str, str, float], None]


class Ran(msgspec.Struct, frozen=True):
    """What a tool left behind."""

    code: int
    output: str
    errors: str

    @property
    def well(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0


class Commands:
    """Starts tools. `forks` counts them; `variables` go over our own environment; `ran` is told tool, feed and seconds of each."""

    def __init__(self, *, variables: Mapping[str, str] | None = None, timeout: float = _TIMEOUT, ran: Observer | None = None) -> None:
        self.forks = 0
        self._ran = ran
        self._timeout = timeout
        self._environment = {**os.environ, "LC_ALL": "C", **(variables or {})}
        self._found: dict[str, str] = {}

    def find(self, tool: str) -> str | None:
        """Path of a tool; None when it is not installed. Only what was found is remembered."""
        path = self._found.get(tool)
        if path is None:
            folders = [*self._environment.get("PATH", "").split(os.pathsep), *_USUAL_FOLDERS]
            path = shutil.which(tool, path=os.pathsep.join(folder for folder in folders if folder))
            if path is not None:
                self._found[tool] = path
        return path

    def run(self, arguments: Sequence[str], feed: str = "") -> Ran:
        """Run a tool with `feed` on its standard input.

        Raises Rejected when it is not installed or cannot be started, Busy when it did not end in time.
        """
        path = self.find(arguments[0])
        if path is None:
            raise Rejected(f"{arguments[0]} is not installed (looked on PATH and in {', '.join(_USUAL_FOLDERS)})")
        self.forks += 1
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [path, *arguments[1:]],
                input=feed.encode(),
                capture_output=True,
                env=self._environment,
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise Busy(f"{' '.join(arguments)} did not end within {self._timeout:g} s") from late
        except OSError as fault:
            raise Rejected(f"{path} cannot be started: {fault}") from fault
        if self._ran is not None:
            self._ran(arguments[0], feed, time.perf_counter() - began)
        return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
