"""Network namespaces without names: nothing to clean up when a process dies, for the last holder takes them along.

A `Netns` holds one namespace by an open file descriptor. Commands are run inside with `run`, Python code with
`entered()`, which moves the calling thread (threads and processes it starts then live there too). It makes no links,
and it mounts nothing: that is the business of whoever builds a network.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"


class Netns:
    """One network namespace, held by a file descriptor until `close`. Needs root (CAP_SYS_ADMIN).

    Raises OSError when the kernel refuses to make one.
    """

    def __init__(self) -> None:
        made: list[int] = []
        faults: list[OSError] = []

        def make() -> None:  # in a thread of its own, so that nobody else moves
            try:
                _call("unshare", _CLONE_NEWNET)
                made.append(_open_own())
            except OSError as fault:
                faults.append(fault)

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        if faults:
            raise faults[0]
        self._descriptor = made[0]
        self.run("ip link set lo up")

    @property
    def path(self) -> str:
        """A path that other processes can use while this one lives, as in `ip link set eth0 netns PATH`."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The argument vector that runs `arguments` inside, for subprocess."""
        return ["nsenter", f"--net={self.path}", "--", *arguments]

    def run(self, command: str | Sequence[str], *, text: str = "", check: bool = True) -> str:
        """Run a command (split at blanks when one string) inside with `text` as input; its standard output.

        Raises AssertionError with everything the command said when it fails and `check` is set.
        """
        arguments = command.split() if isinstance(command, str) else list(command)
        done = subprocess.run(self.command(arguments), input=text, text=True, capture_output=True, env=_environment(), check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, arguments: Sequence[str], *, output: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a long-running command inside; both its outputs go to the descriptor `output`."""
        return subprocess.Popen(self.command(arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment())

    @contextmanager
    def entered(self) -> Iterator[Netns]:
        """Move the calling thread inside, and back after."""
        home = _open_own()
        try:
            _call("setns", self._descriptor, _CLONE_NEWNET)
            try:
                yield self
            finally:
                _call("setns", home, _CLONE_NEWNET)
        finally:
            os.close(home)

    def close(self) -> None:
        """Let go of the namespace; it vanishes when nobody else is in it. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open_own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function} of a network namespace: {os.strerror(number)}")


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", "") + _SBIN, "LC_ALL": "C"}
