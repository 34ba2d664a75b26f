"""A netlink socket that sends requests by the hundred and reads dumps whole.

A batch is many messages in one `sendmsg`, of which only the last asks for an acknowledgement: the kernel works them off in
order before `sendmsg` returns, reports each failure with its sequence number, and the last acknowledgement says that there
is nothing more to come. So a batch of 200 that goes well costs two system calls.

It refuses to interpret errors: what "exists already" means is the business of the targets. Not safe for use by several
threads at once; each target has a lock of its own.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from kube_router.codec.netlink import (
    ACK,
    DONE,
    ERROR,
    HEADER,
    INTERRUPTED,
    Message,
    Reply,
    errno_of,
    error_text,
    families_request,
    family_request,
    parse_family,
    replies,
)
from kube_router.kit.errors import Busy, Rejected, Stale

ROUTE: Final = 0  # NETLINK_ROUTE
NETFILTER: Final = 12  # NETLINK_NETFILTER
GENERIC: Final = 16  # NETLINK_GENERIC

_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10  # do not repeat our payload in acknowledgements
_EXT_ACK: Final = 11  # say in words what was wrong
_GET_STRICT_CHK: Final = 12  # take filters in dump requests seriously (kernel 4.20)

_WINDOW_MESSAGES: Final = 256
_WINDOW_OCTETS: Final = 64 * 1024  # well below the default send buffer (212,992), which bounds one sendmsg
# Every message of a window may fail, and each report takes about 1 KiB of buffer by the kernel's count.
_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
_READ: Final = 32 * 1024  # the kernel fills no dump message beyond this
_TIMEOUT: Final = struct.pack("@ll", 10, 0)  # seconds until we take the kernel for stuck
_DUMP_TRIES: Final = 10


class Fault(NamedTuple):
    """Why a message failed: an error number of the kernel, and its words if it had any."""

    number: int
    text: str = ""

    def __str__(self) -> str:
        name = errno.errorcode.get(self.number, str(self.number))
        return f"{name}: {self.text}" if self.text else name


class NetlinkSocket:
    """`sent` counts the messages that went to the kernel, dumps included; `dumps` these alone."""

    def __init__(self, protocol: int) -> None:
        self.sent = 0
        self.dumps = 0
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as fault:
            raise Rejected(f"netlink protocol {protocol} is not in this kernel: {fault}") from fault
        self._socket.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            _try_option(self._socket, _SOL_NETLINK, option, 1)
        force = 33  # SO_RCVBUFFORCE: beyond net.core.rmem_max, which needs CAP_NET_ADMIN
        if not _try_option(self._socket, socket.SOL_SOCKET, force, _RECEIVE_BUFFER):
            _try_option(self._socket, socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)

    @property
    def port(self) -> int:
        """Its port id, which notices of what it changed bear."""
        port: int = self._socket.getsockname()[0]
        return port

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def send(self, messages: Sequence[Message]) -> dict[int, Fault]:
        """Send all in order; returns what failed, by index. Stale when reports were lost, Busy when the kernel does not answer."""
        faults: dict[int, Fault] = {}
        for start, end in _windows(messages):
            faults.update(self._window(messages, start, end))
        return faults

    def ask(self, message: Message) -> Reply:
        """One request with one answer. Raises OSError with the kernel's number."""
        return next(self._answer(message))

    def dump(self, message: Message) -> list[Reply]:
        """All of a dump; again when it changed while it was read. Stale when it does not come to rest, OSError when refused."""
        for _ in range(_DUMP_TRIES):
            self.dumps += 1
            found = list(self._answer(message, closing=True))
            if not any(reply.flags & INTERRUPTED for reply in found):
                return found[:-1]
        raise Stale("the kernel's tables change faster than they can be read")

    def generic_family(self, name: str) -> int:
        """Number of a generic netlink family; 0 when this kernel does not have it (yet)."""
        try:
            return parse_family(self.ask(family_request(name)))[1]
        except FileNotFoundError:
            return 0

    def loaded_family(self, name: str) -> int:
        """The same without loading it: 0 for one that nobody has used yet. OSError when refused."""
        return dict(map(parse_family, self.dump(families_request()))).get(name, 0)

    def _window(self, messages: Sequence[Message], start: int, end: int) -> Iterator[tuple[int, Fault]]:
        first = self._sequence + 1
        pieces: list[bytes] = []
        for sequence, message in enumerate(messages[start:end], first):
            kind, flags, payload = message
            pieces.append(HEADER.pack(16 + len(payload), kind, flags, sequence, 0))
            pieces.append(payload)
        last = first + end - start - 1
        kind, flags, payload = messages[end - 1]
        pieces[-2] = HEADER.pack(16 + len(payload), kind, flags | ACK, last, 0)
        self._sequence = last
        self.sent += end - start
        self._transmit(b"".join(pieces))
        while True:
            for reply in replies(self._receive()):
                if reply.type != ERROR or not first <= reply.sequence <= last:
                    continue  # left over from a batch that was given up
                number = errno_of(reply)
                if number:
                    yield start + reply.sequence - first, Fault(number, error_text(reply))
                if reply.sequence == last:
                    return

    def _answer(self, message: Message, *, closing: bool = False) -> Iterator[Reply]:
        """Messages of the answer; the DONE of a dump as well when `closing`, for it too may say that the dump was disturbed."""
        self._sequence += 1
        self.sent += 1
        kind, flags, payload = message
        self._transmit(HEADER.pack(16 + len(payload), kind, flags, self._sequence, 0) + payload)
        while True:
            for reply in replies(self._receive()):
                if reply.sequence != self._sequence:
                    continue
                if reply.type in (DONE, ERROR):
                    number = errno_of(reply)
                    if number > 0:
                        raise OSError(number, f"netlink: {Fault(number, error_text(reply))}")
                    if closing:
                        yield reply
                    return
                yield reply

    def _transmit(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (0, 0))
        except (BlockingIOError, TimeoutError) as fault:
            raise Busy("the kernel does not take netlink messages") from fault

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_READ)
        except (BlockingIOError, TimeoutError) as fault:
            raise Busy("the kernel does not answer netlink messages") from fault
        except OSError as fault:
            if fault.errno == errno.ENOBUFS:
                raise Stale("netlink reports were lost, what is held has to be read again") from fault
            raise


def _windows(messages: Sequence[Message]) -> Iterator[tuple[int, int]]:
    start = octets = 0
    for n, message in enumerate(messages):
        size = 16 + len(message.payload)
        if n > start and (n - start >= _WINDOW_MESSAGES or octets + size > _WINDOW_OCTETS):
            yield start, n
            start, octets = n, 0
        octets += size
    if messages:
        yield start, len(messages)


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


class NetlinkTarget:
    """What targets that write by netlink have in common: one socket in the network namespace in which it was made, used by one thread
    at a time."""

    def __init__(self, protocol: int, socket: NetlinkSocket | None = None) -> None:
        self._lock = threading.Lock()
        self._socket = socket or NetlinkSocket(protocol)

    @property
    def sent(self) -> int:
        """Messages sent to the kernel so far, dumps included."""
        return self._socket.sent

    @property
    def dumps(self) -> int:
        """How often all of something was asked for."""
        return self._socket.dumps

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
