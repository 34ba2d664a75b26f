"""Many BGP peers in one namespace, each at an address of its own: they take connections, and dial by themselves when told to.

A peer answers an OPEN with its own and keeps the session alive; it announces nothing. Written from RFC 4271 4.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from contextlib import suppress

from lab.kernel_netns import Netns

_MARKER = b"\xff" * 16
_OPEN, _KEEPALIVE, _NOTIFICATION = 1, 4, 3
_FOUR_OCTET_AS = 65  # capability, RFC 6793
_MULTIPROTOCOL = 1  # capability, RFC 4760


class Crowd:
    """Peers of one AS at `addresses`, all on loopback of `netns`."""

    def __init__(self, netns: Netns, addresses: list[str], *, asn: int = 64512) -> None:
        self._netns, self._asn = netns, asn
        self.addresses = addresses
        self.opens: dict[str, int] = dict.fromkeys(addresses, 0)  # OPEN messages received, by our address
        self._tasks: set[asyncio.Task[None]] = set()
        for address in addresses:
            netns.run(f"ip addr add {address}/32 dev lo")

    async def listen(self, addresses: list[str]) -> None:
        """Take connections at these."""
        for address in addresses:
            with self._netns.entered():
                server = socket.create_server((address, 179))
            server.setblocking(False)
            self._run(self._accept(server))

    def dial(self, own: str, peer: str, after: float) -> None:
        """Connect from one of ours, some time later; and again two seconds after it was refused."""
        self._run(self._dial(own, peer, after))

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type, var-annotated]
        self._tasks.add(task)

    async def _accept(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection, _ = await loop.sock_accept(server)
                self._run(self._speak(connection))
        finally:
            server.close()

    async def _dial(self, own: str, peer: str, after: float) -> None:
        await asyncio.sleep(after)
        loop = asyncio.get_running_loop()
        while True:
            with self._netns.entered():
                connection = socket.socket()
            connection.setblocking(False)
            connection.bind((own, 0))
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(loop.sock_connect(connection, (peer, 179)), 3.0)
                await self._speak(connection)
            connection.close()
            await asyncio.sleep(2.0)

    async def _speak(self, connection: socket.socket) -> None:
        own = connection.getsockname()[0]
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            writer.write(self._open(own))
            while True:
                header = await reader.readexactly(19)
                length, kind = struct.unpack(">HB", header[16:])
                await reader.readexactly(length - 19)
                if kind == _NOTIFICATION:
                    return
                if kind == _OPEN:
                    self.opens[own] += 1
                if kind in (_OPEN, _KEEPALIVE):
                    writer.write(_MARKER + struct.pack(">HB", 19, _KEEPALIVE))
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    def _open(self, own: str) -> bytes:
        capabilities = struct.pack(">BBHBB", _MULTIPROTOCOL, 4, 1, 0, 1) + struct.pack(">BBI", _FOUR_OCTET_AS, 4, self._asn)
        options = struct.pack(">BB", 2, len(capabilities)) + capabilities
        asn = self._asn if self._asn < 65536 else 23456
        body = struct.pack(">BHH4sB", 4, asn, 90, ipaddress.IPv4Address(own).packed, len(options)) + options
        return _MARKER + struct.pack(">HB", 19 + len(body), _OPEN) + body
