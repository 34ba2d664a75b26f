"""The links of this host as events, and disturbances of what we wrote, from netlink notices.

The socket belongs to the network namespace that the process is in, and is read on the event loop: a notice costs microseconds.
Notices of a burst are put together for `COALESCE` seconds. A complete list comes first; after lost notices (ENOBUFS) it comes again. A
dump that the kernel calls interrupted is repeated by the dumper and never acted on.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from kube_router.codec.netlink import Message, Reply, replies
from kube_router.codec.notices import (
    GROUPS,
    MAIN_TABLE,
    RouteReplaced,
    Told,
    WayOut,
    dump_addresses,
    dump_links,
    filter_program,
    parse,
    ways_out,
)
from kube_router.codec.routes import dump_routes
from kube_router.kit.errors import TargetError
from kube_router.kit.net import FAMILIES
from kube_router.telemetry.logging import get_logger
from kube_router.watch.events import Batch, Sink
from kube_router.watch.gate import Backoff
from kube_router.watch.linktable import Disturbance, LinkTable
from kube_router.watch.stream import Status

log = get_logger("watch")

COALESCE: Final = 0.02  # seconds
_READ: Final = 64 * 1024  # octets; a notice is one message, of a few hundred
_AT_ONCE: Final = 500  # notices read before the loop gets its turn
BUFFER: Final = 4 * 1024 * 1024  # octets by the kernel's count: a few thousand notices
_BACKOFF: Final = Backoff(first=0.05, most=2.0)
_SO_RCVBUFFORCE: Final = 33  # beyond net.core.rmem_max; needs CAP_NET_ADMIN
_SO_ATTACH_FILTER: Final = 26
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1


class Dumper(Protocol):
    """Reads a dump whole: apply/kernel/netlink_socket.py. Called from a worker thread."""

    def dump(self, message: Message) -> list[Reply]:
        """All messages; Stale or Busy (kit/errors.py) or OSError when it cannot be had now."""


class InterfaceWatch:
    """Links of the network namespace that the process is in. `run` is a task for the whole life; cancel it to stop."""

    def __init__(
        self, sink: Sink, notice: Callable[[Disturbance], None], *, dumper: Callable[[], Dumper], buffer: int = BUFFER, own: int = 0
    ) -> None:
        """`own`: port id of the socket that writes our routes, whose replacements are no news."""
        self._sink = sink
        self._notice = notice
        self._make_dumper = dumper
        self._buffer = buffer
        self._own = own
        self._dumper: Dumper | None = None
        self._table = LinkTable()
        self._socket: socket.socket | None = None
        self._lost = False  # notices, so that only a new list tells what is
        self._awake = asyncio.Event()
        self._flush: asyncio.TimerHandle | None = None
        self._status = Status(since=time.monotonic())

    @property
    def status(self) -> Status:
        """How it does now."""
        return self._status

    async def run(self) -> None:
        """List, then follow, for ever. Raises OSError when this kernel or namespace has no netlink, and on bugs."""
        loop = asyncio.get_running_loop()
        self._socket = _subscribed(self._buffer)
        try:
            while True:
                self._lost = False
                await self._list()
                loop.add_reader(self._socket, self._read)
                while not self._lost:
                    self._awake.clear()
                    if self._table.ways_doubtful:
                        await self._look_for_ways()
                    else:
                        await self._awake.wait()
                loop.remove_reader(self._socket)
                log.step("notices of links were lost, listing anew")
        finally:
            if self._flush is not None:
                self._flush.cancel()
            loop.remove_reader(self._socket)
            self._socket.close()

    async def _list(self) -> None:
        """Dump while notices wait in the socket, then hear these, then tell everything."""
        failures = 0
        self._discard()
        while True:
            try:
                told, ways = await asyncio.to_thread(self._dump)
                break
            except (TargetError, OSError) as error:
                failures += 1
                self._status = Status(listed=self._status.listed, error=f"cannot list links: {error}", since=time.monotonic())
                await asyncio.sleep(_BACKOFF.delay(failures, 0.5))
        self._table.replace(told)
        self._table.replace_ways(ways)
        self._hear_all()
        if self._status.error or not self._status.listed:
            self._status = Status(listed=True, since=time.monotonic())
        self._sink(Batch((self._table.complete(),)))
        self._tell_disturbance()

    async def _look_for_ways(self) -> None:
        """Default routes changed: tell what they are now. While the kernel does not say, they stay as they were told last."""
        self._table.ways_doubtful = False
        try:
            ways = await asyncio.to_thread(self._dump_ways)
        except (TargetError, OSError) as error:
            log.step(f"cannot list default routes, trying again: {error}")
            self._table.ways_doubtful = True
            await asyncio.sleep(_BACKOFF.most)
            return
        doubtful = self._table.ways_doubtful  # by notices that came meanwhile
        self._table.replace_ways(ways)
        self._table.ways_doubtful = doubtful
        self._tell()

    def _dump(self) -> tuple[list[Told], list[WayOut]]:
        if self._dumper is None:
            self._dumper = self._make_dumper()
        found = self._dumper.dump(dump_links()) + self._dumper.dump(dump_addresses())
        told = [one for reply in found if (one := parse(reply.type, reply.payload)) is not None]
        return told, self._dump_ways()

    def _dump_ways(self) -> list[WayOut]:
        assert self._dumper is not None
        return [way for family in FAMILIES for way in ways_out(self._dumper.dump(dump_routes(family, table=MAIN_TABLE)))]

    # -- notices ---------------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._hear_all(most=_AT_ONCE)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(COALESCE, self._tell)

    def _hear_all(self, *, most: int = 1 << 30) -> None:
        """Take in what waits in the socket, at most so many messages."""
        assert self._socket is not None
        for _ in range(most):
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost = True
                self._awake.set()
                return
            for reply in replies(data):
                told = parse(reply.type, reply.payload, reply.flags)
                if told is not None and not (reply.port == self._own and isinstance(told, RouteReplaced)):
                    self._table.hear(told)

    def _discard(self) -> None:
        """Drop what waits in the socket: after lost notices the earlier ones would undo what the dump says."""
        assert self._socket is not None
        while True:
            try:
                self._socket.recv(_READ)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _tell(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._lost:
            return  # the list that follows tells all
        batch = Batch(tuple(self._table.take()))
        if batch:
            self._sink(batch)
        self._tell_disturbance()
        if self._table.ways_doubtful:
            self._awake.set()

    def _tell_disturbance(self) -> None:
        disturbance = self._table.disturbance()
        if disturbance:
            self._notice(disturbance)


def _subscribed(buffer: int) -> socket.socket:
    """A netlink socket that gets the notices, without those of new routes."""
    notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        program = filter_program()
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
        with suppress(OSError):  # without it we only get more to read
            notices.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
        try:
            notices.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        except OSError:
            notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        notices.bind((0, 0))
        for group in GROUPS:
            notices.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        notices.close()
        raise
    return notices
