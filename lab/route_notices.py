"""What the kernel says about routes, with the moment at which it says so: to measure how soon a route comes or goes.

A netlink socket of the node's, bound before the constructor returns, so that nothing is missed and nothing waits in a tool's buffer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lab.space import Space

# <linux/netlink.h>, <linux/rtnetlink.h>
NETLINK_ROUTE = 0
RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
RTA_DST, RTA_GATEWAY = 1, 5
RT_TABLE_MAIN, RTN_UNICAST, RTM_F_CLONED = 254, 1, 0x200
RECEIVE_BUFFER = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RouteNotice:
    """A route of the main table that came or went. ``at`` is the monotonic clock; ``gateway`` is empty for a link's own."""

    at: float
    gone: bool
    prefix: str
    gateway: str = ""


def parse_notices(data: bytes, *, at: float) -> Iterator[RouteNotice]:
    """The notices in one datagram, but for other tables and the kernel's copies of routes for single addresses."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        message, data = data[16:length], data[(length + 3) & ~3 :]
        if kind not in (RTM_NEWROUTE, RTM_DELROUTE) or length < 28:
            continue
        family, bits, _, _, table, _, _, route_type, flags = struct.unpack_from("=BBBBBBBBI", message)
        if table == RT_TABLE_MAIN and route_type == RTN_UNICAST and not flags & RTM_F_CLONED:
            size = 4 if family == socket.AF_INET else 16
            found = _attributes(message[12:])
            network = ipaddress.ip_address(found.get(RTA_DST, b"\0" * size))
            gateway = str(ipaddress.ip_address(found[RTA_GATEWAY])) if RTA_GATEWAY in found else ""
            yield RouteNotice(at, kind == RTM_DELROUTE, f"{network}/{bits}", gateway)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


class RouteNotices:
    """Listens in a space while this context lasts. ``missed`` says that the kernel had more to say than was read."""

    def __init__(self, space: Space) -> None:
        self.notices: list[RouteNotice] = []
        self.missed = False
        self._socket = space.call(_open)
        self._socket.settimeout(0.1)
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"routes-{space.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> RouteNotices:
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join(timeout=30)
        self._socket.close()

    def gone(self, prefix: str) -> RouteNotice | None:
        """The notice of the end of a route; None when it has not come."""
        return next((notice for notice in tuple(self.notices) if notice.gone and notice.prefix == prefix), None)

    def _run(self) -> None:
        while self._running:
            with contextlib.suppress(TimeoutError):
                try:
                    data = self._socket.recv(65536)
                except TimeoutError:
                    raise
                except OSError:  # ENOBUFS
                    self.missed = True
                    continue
                self.notices += parse_notices(data, at=time.monotonic())


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    made.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))
    return made
