"""Real gobgpd processes for tests, in both API generations, each in a network namespace of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from lab.kernel import REPOSITORY
from lab.kernel_netns import Netns

REMEDIES = {
    "v3": "install Debian's gobgpd (make setup)",
    "v4": "it is built by make setup where Go 1.26 or later is installed",
}

_START_SECONDS = 60.0  # emulated kernels are slow; a healthy gobgpd answers in well under a second natively


def binaries() -> dict[str, Path]:
    """API generation ("v3", "v4") -> gobgpd that speaks it, for those that are installed."""
    found: dict[str, Path] = {}
    candidates = [REPOSITORY / ".cache" / "gobgp-v4" / "gobgpd"]
    for name in ("gobgpd",):
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
        candidates += [Path(path)] if path else []
    for candidate in candidates:
        if candidate.exists():
            found.setdefault(f"v{_major(candidate)}", candidate)
    return found


def _major(binary: Path) -> int:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)\.\d+\.\d+", said)
    assert match is not None, f"{binary} does not tell its version: {said!r}"
    return int(match[1])


class Speaker:
    """One gobgpd: unconfigured, its gRPC API on a unix socket, its namespace in `netns`."""

    def __init__(self, generation: str, folder: Path, netns: Netns) -> None:
        self.generation, self.netns = generation, netns
        self.socket = folder / "gobgp.sock"
        self.log = folder / "gobgpd.log"
        self._binary = binaries()[generation]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        """What a gRPC channel is opened with."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the process and wait until its socket takes connections; AssertionError with its log when it does not."""
        self.socket.unlink(missing_ok=True)
        arguments = [str(self._binary), "--api-hosts", self.target, "--pprof-disable", "--log-level=debug"]
        with self.log.open("ab") as log:
            self._process = self.netns.start(arguments, output=log.fileno())
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            ended = self._process.poll() is not None
            assert not ended, f"gobgpd ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"gobgpd does not answer: {self.log.read_text()}"
            time.sleep(0.02)

    def stop(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End the process (at once, so that graceful restart is not defeated); nothing when it is not running."""
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
        return True
