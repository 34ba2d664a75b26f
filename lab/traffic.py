"""Steady traffic between two places, to count what is lost while something else happens."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab.probe import Target
from lab.waiting import SLOWNESS


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the datagrams: numbers of those sent and of those that were never answered."""

    sent: int
    lost: Sequence[int]
    refused: int
    answered_by: frozenset[str]


class Stream:
    """Datagrams at a steady pace over one socket, each answered by an echo server; runs until ``stop``."""

    def __init__(self, target: Target, made: socket.socket, *, every: float = 0.02) -> None:
        self._socket = made
        self._every = every * SLOWNESS
        self._sent = 0
        self._refused = 0
        self._answers: dict[int, str] = {}
        self._stopping = threading.Event()
        made.connect((target.address, target.port))
        made.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def stop(self, *, patience: float = 1.0) -> Tally:
        """End it, wait a little for late answers, and count. ``patience`` is in seconds (times slowness)."""
        self._stopping.set()
        self._thread.join(timeout=30)
        end = time.monotonic() + patience * SLOWNESS
        while time.monotonic() < end and len(self._answers) < self._sent:
            self._collect()
            time.sleep(self._every)
        self._socket.close()
        lost = [number for number in range(self._sent) if number not in self._answers]
        return Tally(self._sent, lost, self._refused, frozenset(self._answers.values()))

    @property
    def sent(self) -> int:
        return self._sent

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            number, self._sent = self._sent, self._sent + 1
            try:
                self._socket.send(str(number).encode())
            except OSError:
                self._refused += 1
            self._collect()

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    said = json.loads(self._socket.recv(4096))
                except BlockingIOError:
                    raise
                except OSError:
                    self._refused += 1
                    return
                self._answers[int(said["got"])] = said["pod"]


class Flow:
    """One TCP connection to an echo server that stays open: for what must hold for flows that stand."""

    def __init__(self, target: Target, made: socket.socket, *, seconds: float = 5.0) -> None:
        self._socket = made
        made.settimeout(seconds * SLOWNESS)
        made.connect((target.address, target.port))
        self._file = made.makefile("rwb")
        self.greeting = json.loads(self._file.readline())

    @property
    def pod(self) -> str:
        """Who is at the other end."""
        return str(self.greeting["pod"])

    def works(self, text: str = "still there?") -> bool:
        """Say something and see whether it comes back."""
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
            return self._file.readline() == text.encode() + b"\n"
        except OSError:
            return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()


class Flows:
    """Many TCP connections to echo servers, all open at once and spoken over in turn; one thread serves them until ``stop``.

    A connection is lost when the other end resets or closes it, or when a word is not echoed in ``patience`` seconds (times
    slowness). What was lost stays lost: nothing is opened again.
    """

    def __init__(self, ends: Sequence[tuple[Target, socket.socket]], *, every: float = 0.002, patience: float = 5.0) -> None:
        self._every, self._patience = every * SLOWNESS, patience * SLOWNESS
        self._flows = [_Held(target, made) for target, made in ends]
        self._connect()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flows", daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        for flow in self._flows:
            with contextlib.suppress(BlockingIOError):
                flow.made.connect((flow.target.address, flow.target.port))
        for flow in self._flows:
            flow.made.settimeout(self._patience)
            greeting = flow.made.recv(4096)  # an error of the connection comes here
            flow.pod = str(json.loads(greeting.partition(b"\n")[0])["pod"])

    @property
    def pods(self) -> Sequence[str]:
        """Who is at the other end of each, in the order of the ends."""
        return [flow.pod for flow in self._flows]

    @property
    def words(self) -> int:
        """Words echoed so far on the connection that was spoken over least."""
        return min(flow.words for flow in self._flows)

    def lost(self) -> Sequence[str]:
        """Each connection that broke: to where, with whom, and why."""
        return [f"{flow.target.address}:{flow.target.port} with {flow.pod}: {flow.trouble}" for flow in self._flows if flow.trouble]

    def stop(self) -> Sequence[str]:
        """Speak once more over each, close all, and hand back what was lost."""
        self._stopping.set()
        self._thread.join(timeout=2 * self._patience)
        for flow in self._flows:
            flow.speak()
            flow.made.close()
        return self.lost()

    def _run(self) -> None:
        for flow in itertools.cycle(self._flows):
            if self._stopping.wait(self._every):
                return
            flow.speak()


class _Held:
    """One connection of many."""

    def __init__(self, target: Target, made: socket.socket) -> None:
        self.target, self.made = target, made
        self.pod, self.words, self.trouble = "", 0, ""

    def speak(self) -> None:
        if self.trouble:
            return
        word = f"{self.words}\n".encode()
        try:
            self.made.sendall(word)
            heard = b""
            while not heard.endswith(b"\n"):
                more = self.made.recv(4096)
                if not more:
                    raise ConnectionResetError("closed by the other end")
                heard += more
        except OSError as trouble:
            self.trouble = repr(trouble)
            return
        if heard != word:
            self.trouble = f"answered {heard!r} for {word!r}"
        self.words += 1
