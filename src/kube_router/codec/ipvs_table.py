"""Destinations as /proc/net/ip_vs shows them: one text for all services, where netlink wants a question for each.

A node with 5,000 services answers 5,000 questions in the time in which it prints this text a hundred times over. It says less about
services (no flags but persistence), so those are asked for by netlink; of destinations it says all that we set. Who reads
it has to ask by netlink what it does not find here: the text is made in pieces, between which services may come and go.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from kube_router.kit.net import canonical_address
from kube_router.model.names import PROTOCOLS
from kube_router.model.state import State
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServerKey

_ARROW: Final = "  -> "
_MARKED: Final = "FWM"
_FORWARD: Final = {"Masq": 0, "Tunnel": 2}  # IP_VS_CONN_F_MASQ, IP_VS_CONN_F_TUNNEL

# Lines of destinations by what stands before the scheduler in the line of their service.
Table = Mapping[str, Sequence[str]]


def parse(text: str) -> Table:
    """The text cut into services; of one that is printed twice, the last counts. By mark there may be one of each family, which look
    alike: they have their lines together."""
    table: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_ARROW):
            lines.append(line)
        else:
            kind, place = line.split(None, 2)[:2]
            head = f"{kind} {place}"
            lines = table.setdefault(head, []) if kind == _MARKED else []
            table[head] = lines
    return table


def destinations(table: Table, server: VirtualServerKey) -> State | None:
    """Destinations of a service, in the kernel's order; None when the table does not know the service, or not all about it."""
    found: State = {}
    for key, fields in _rows(table, server):
        if fields[0] not in _FORWARD:
            return None
        found[key] = _destination(int(fields[1]), _FORWARD[fields[0]])
    return found if _lines(table, server) is not None else None


def connections(table: Table, server: VirtualServerKey) -> dict[DestinationKey, int]:
    """Connections of each destination of a service, those that are ending among them; nothing when the table does not know the service."""
    return {key: int(fields[2]) + int(fields[3]) for key, fields in _rows(table, server)}


def _rows(table: Table, server: VirtualServerKey) -> Iterator[tuple[DestinationKey, list[str]]]:
    """Each destination with its forwarding method, weight, active and inactive connections."""
    for line in _lines(table, server) or ():
        where, *fields = line[len(_ARROW) :].split()
        if (where[0] == "[") == (server.family == 6):
            address, _, port = where.rpartition(":")
            yield DestinationKey(server, _address(address), int(port, 16)), fields


def _lines(table: Table, server: VirtualServerKey) -> Sequence[str] | None:
    return table.get(_head(server)) if server.mark or server.protocol in PROTOCOLS else None


def _head(server: VirtualServerKey) -> str:
    if server.mark:
        return f"{_MARKED} {server.mark:08X}"
    name = PROTOCOLS[server.protocol].upper()
    if server.family == 6:
        full = socket.inet_pton(socket.AF_INET6, server.address).hex(":", 2)
        return f"{name} [{full}]:{server.port:04X}"
    return f"{name} {socket.inet_aton(server.address).hex().upper()}:{server.port:04X}"


def _address(text: str) -> str:
    if text.startswith("["):
        return canonical_address(text[1:-1])
    return socket.inet_ntoa(bytes.fromhex(text))


@lru_cache(maxsize=64)
def _destination(weight: int, forward: int) -> Destination:
    return Destination(weight, forward)
