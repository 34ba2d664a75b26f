"""Whether the nodes behind tunnels answer through them: an encapsulation that is filtered on its way looks like nothing at all.

An ICMP echo goes to each of them from an address of this node's pod range, so that request and reply both take the way of pods
(policy routing here, the route to our pods there). Each is asked every `PERIOD` seconds, but never more than `RATE` in a second
are; after `MISSES` without an answer it counts as unreachable until one comes. It tells, and changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from kube_router.codec import echo
from kube_router.kit.net import FAMILIES, Family, family_of
from kube_router.telemetry.logging import get_logger

PERIOD: Final = 5.0
RATE: Final = 20.0
MISSES: Final = 3

_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/icmp.h
_ICMP6_FILTER: Final = 1  # linux/icmpv6.h
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # linux/in.h, linux/in6.h

log = get_logger("watch")


class ReachWatch:
    """Asks `ends()`, addresses of nodes behind tunnels, from `source(family)` ("" while there is none)."""

    def __init__(
        self,
        ends: Callable[[], Collection[str]],
        source: Callable[[Family], str],
        *,
        advice: str,
        period: float = PERIOD,
    ) -> None:
        """`advice`: what to look at when one does not answer."""
        self._ends = ends
        self._source = source
        self._advice = advice
        self._period = period
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._sequence = 0
        self._missed: dict[str, int] = {}
        self._asked: dict[int, str] = {}  # by sequence number: what has not answered yet

    @property
    def unreachable(self) -> dict[str, bool]:
        """Each end that is asked, and whether it counts as unreachable."""
        return {address: missed >= MISSES for address, missed in self._missed.items()}

    async def run(self) -> None:
        """Ask, for ever. Cancel it to stop. Without the right to send raw packets it says so and waits."""
        sockets: dict[Family, socket.socket] = {}
        loop = asyncio.get_running_loop()
        try:
            for family in FAMILIES:
                with suppress(OSError):
                    sockets[family] = _opened(family)
                    loop.add_reader(sockets[family], self._hear, sockets[family], family)
            if not sockets:
                log.warning("nodes behind tunnels are not asked whether they answer: raw sockets are not allowed here")
            while True:
                start = loop.time()
                await self._ask_all(sockets)
                await asyncio.sleep(max(self._period - (loop.time() - start), 0.1))
        finally:
            for one in sockets.values():
                loop.remove_reader(one)
                one.close()

    async def _ask_all(self, sockets: dict[Family, socket.socket]) -> None:
        ends = [address for address in self._ends() if family_of(address) in sockets and self._source(family_of(address))]
        for address in self._missed.keys() - set(ends):
            del self._missed[address]
        waiting = set(self._asked.values())
        self._asked = {}
        for address in ends:
            if address in waiting:
                self._miss(address)
            else:
                self._missed.setdefault(address, 0)
        for address in ends:
            self._sequence = (self._sequence + 1) & 0xFFFF
            self._asked[self._sequence] = address
            family = family_of(address)
            with suppress(OSError):  # no way there: it will not answer
                _send(sockets[family], family, echo.request(family, self._identifier, self._sequence), self._source(family), address)
            await asyncio.sleep(1 / RATE)

    def _miss(self, address: str) -> None:
        self._missed[address] = missed = self._missed.get(address, 0) + 1
        if missed == MISSES:
            log.warning("a node does not answer through its tunnel", address=address, advice=self._advice)

    def _hear(self, sock: socket.socket, family: Family) -> None:
        with suppress(OSError):
            found = echo.reply(family, sock.recv(2048))
            if found is None or found[0] != self._identifier:
                return
            address = self._asked.pop(found[1], "")
            if self._missed.get(address, 0) >= MISSES:
                log.info("a node answers through its tunnel again", address=address)
            if address in self._missed:
                self._missed[address] = 0


def _opened(family: Family) -> socket.socket:
    """A raw socket that gets echo replies alone."""
    kind, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    made = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    if family == 4:
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << echo.REPLY[4]) & 0xFFFFFFFF))
    else:
        words = [0xFFFFFFFF] * 8
        words[echo.REPLY[6] >> 5] &= ~(1 << (echo.REPLY[6] & 31))
        made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
    return made


def _send(sock: socket.socket, family: Family, packet: bytes, source: str, address: str) -> None:
    """Send from a source that the routing sees as well."""
    if family == 4:
        told = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, socket.inet_aton(source), bytes(4)))
    else:
        told = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16si", socket.inet_pton(socket.AF_INET6, source), 0))
    sock.sendmsg([packet], [told], 0, (address, 0))
