"""Asking over the network: may this reach that? Many questions at once, from sockets that were made where the asker stands.

ALLOW    an answer came
REFUSED  somebody said no: a reset, an ICMP error, or the sender's own kernel
SILENT   nothing came in the time given
"""

from __future__ import annotations

import enum
import errno
import json
import re
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.echo import PROTOCOLS
from lab.waiting import SLOWNESS

PATIENCE = 1.5  # seconds: longer than the first retransmission of a SYN, which is after one second

_TARGET = re.compile(r"^(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d+)(?:/(?P<protocol>tcp|udp|sctp))?$")
_REFUSALS = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EACCES,  # ICMP "administratively prohibited", or a rule of the sender's own node
    errno.EPERM,
    errno.ENOPROTOOPT,  # ICMP "protocol unreachable"
}


class Verdict(enum.Enum):
    """What became of a question."""

    ALLOW = "ALLOW"
    REFUSED = "REFUSED"
    SILENT = "SILENT"

    def __repr__(self) -> str:
        return self.value

    __str__ = __repr__


ALLOW, REFUSED, SILENT = Verdict.ALLOW, Verdict.REFUSED, Verdict.SILENT


@dataclass(frozen=True, slots=True)
class Target:
    """Where a question goes."""

    address: str
    port: int
    protocol: str = "tcp"

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    def open(self) -> socket.socket:
        """A socket for the question, in the network namespace of the calling thread."""
        kind, number = PROTOCOLS[self.protocol]
        made = socket.socket(self.family, kind, number)
        made.setblocking(False)
        return made


def parse_target(text: str) -> Target:
    """``10.0.0.1:53/udp``, ``[fd00::1]:80``; TCP unless it says otherwise. ValueError for anything else."""
    found = _TARGET.match(text)
    if found is None:
        raise ValueError(f"a target is ADDRESS:PORT or ADDRESS:PORT/PROTOCOL, not {text!r}")
    return Target(found["v6"] or found["host"], int(found["port"]), found["protocol"] or "tcp")


@dataclass(slots=True)
class Reply:
    """The outcome of one question: who answered, and which addresses the answerer saw (empty without an answer)."""

    verdict: Verdict
    pod: str = ""
    to: str = ""
    source: str = ""
    seconds: float = 0.0

    @property
    def source_address(self) -> str:
        """The asker's address as the answerer saw it."""
        return self.source.rpartition(":")[0].strip("[]")


@dataclass(slots=True)
class _Question:
    target: Target
    made: socket.socket
    started: float
    asked_again: float
    reply: Reply = field(default_factory=lambda: Reply(SILENT))
    received: bytes = b""
    done: bool = False

    def finish(self, verdict: Verdict) -> None:
        self.reply.verdict = verdict
        self.reply.seconds = time.monotonic() - self.started
        self.done = True

    def begin(self) -> None:
        try:
            self.made.connect((self.target.address, self.target.port))
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        if self.target.protocol == "udp":
            self.ask()

    def ask(self) -> None:
        """Send the datagram; done a second time half-way, since one may be lost while an address is looked up."""
        try:
            self.made.send(b"hello")
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno not in _REFUSALS:
            raise error
        self.finish(REFUSED)

    def readable(self) -> None:
        try:
            data = self.made.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                self.finish(SILENT)
            else:
                self._failed(error)
            return
        self.received += data
        if data and b"\n" not in self.received:
            return
        self._understand()
        # a server that is not ours may say nothing, or something else: it was reached all the same
        self.finish(ALLOW)

    def connected(self) -> bool:
        """Whether the connection stands; an error ends the question."""
        number = self.made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number == errno.ETIMEDOUT:
            self.finish(SILENT)
        elif number:
            self._failed(OSError(number, "connect"))
        else:
            self.made.send(b"hello\r\n\r\n")  # a server that waits for its client to speak answers this with an error
        return not number

    def _understand(self) -> None:
        try:
            said = json.loads(self.received.partition(b"\n")[0])
        except ValueError:
            return
        if isinstance(said, dict):
            self.reply.pod, self.reply.to, self.reply.source = (str(said.get(key, "")) for key in ("pod", "to", "from"))


def ask_all(questions: Sequence[tuple[Target, socket.socket]], *, seconds: float = PATIENCE) -> list[Reply]:
    """Put all questions at once and wait for all answers, ``seconds`` (times slowness) at most. The sockets are closed.

    TCP and SCTP count as allowed when the greeting has come, or when the connection stands and the time is over.
    """
    now = time.monotonic()
    patience = seconds * SLOWNESS
    asked = [_Question(target, made, now, now + patience / 2) for target, made in questions]
    standing: set[int] = set()
    with selectors.DefaultSelector() as selector:
        for question in asked:
            question.begin()
            if not question.done:
                waits = selectors.EVENT_READ if question.target.protocol == "udp" else selectors.EVENT_WRITE
                selector.register(question.made, waits, question)
        while (left := now + patience - time.monotonic()) > 0 and selector.get_map():
            for key, events in selector.select(min(left, patience / 8)):
                question = key.data
                if events & selectors.EVENT_WRITE and question.connected():
                    standing.add(id(question))
                    selector.modify(question.made, selectors.EVENT_READ, question)
                elif events & selectors.EVENT_READ:
                    question.readable()
                if question.done:
                    selector.unregister(question.made)
            _ask_again(selector)
    for question in asked:
        if not question.done:
            question.finish(ALLOW if id(question) in standing else SILENT)
        question.made.close()
    return [question.reply for question in asked]


def _ask_again(selector: selectors.BaseSelector) -> None:
    now = time.monotonic()
    for key in tuple(selector.get_map().values()):
        question = key.data
        if question.target.protocol == "udp" and now >= question.asked_again:
            question.asked_again = float("inf")
            question.ask()
            if question.done:
                selector.unregister(question.made)
