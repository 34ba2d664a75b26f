"""What the kernel tells everyone about links, addresses and routes, as `ip monitor` shows it, but without its delays.

The kernel queues a notice before it acknowledges the change that caused it, so once a target has returned all its notices
are here to be read.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_KERNEL = 2  # RTPROT_KERNEL
_NAMES = {16: "link", 17: "no link", 20: "address", 21: "no address", 24: "route", 25: "no route"}  # RTM_NEW*, RTM_DEL*


class Notices:
    """Notices since it was made or last read."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 * 1024 * 1024)  # SO_RCVBUFFORCE
        self._socket.bind((0, _GROUPS))

    def take(self) -> list[str]:
        """Kinds of notice in the order in which they came: "route", "no route", "link", ... Routes that the kernel makes for addresses
        and links are left out: it does so whenever it learns that a link has a carrier."""
        found: list[str] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            offset = 0
            while offset < len(data):
                length, kind = struct.unpack_from("=IH", data, offset)
                of_kernel = kind in (24, 25) and data[offset + 21] == _KERNEL  # rtm_protocol, behind 16 octets of header
                if not of_kernel:
                    found.append(_NAMES.get(kind, str(kind)))
                offset += (length + 3) & ~3

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening() -> Iterator[Notices]:
    """Notices of the network namespace in which the calling thread is."""
    notices = Notices()
    try:
        yield notices
    finally:
        notices.close()
