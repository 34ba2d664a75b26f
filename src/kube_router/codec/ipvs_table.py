"""Destinations as /proc/net/ip_vs shows them: one text for all services, where netlink wants a question for each.

A node with 5,000 services answers 5,000 questions in the time in which it prints this text a hundred times over. It says less about
services (no flags but persistence), so those are asked for by netlink; of destinations it says all that we set. Who reads
it has to ask by netlink what it does not find here: the text is made in pieces, between which services may come and go.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from kube_router.kit.net import canonical_address
from kube_router.model.names import PROTOCOLS
from kube_router.model.state import State
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServerKey

_ARROW: Final = "  -> "
_FORWARD: Final = {"Masq": 0, "Tunnel": 2}  # IP_VS_CONN_F_MASQ, IP_VS_CONN_F_TUNNEL

# Lines of destinations by what stands before the scheduler in the line of their service.
Table = Mapping[str, Sequence[str]]


def parse(text: str) -> Table:
    """The text cut into services; of one that is printed twice, the last counts."""
    table: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_ARROW):
            lines.append(line)
        else:
            lines = table[" ".join(line.split(None, 2)[:2])] = []
    return table


def destinations(table: Table, server: VirtualServerKey) -> State | None:
    """Destinations of a service; None when the table does not know the service, or not all about it."""
    lines = table.get(_head(server)) if server.protocol in PROTOCOLS else None
    if lines is None:
        return None
    found: State = {}
    for line in lines:
        where, forward, weight, *_ = line[len(_ARROW) :].split()
        address, _, port = where.rpartition(":")
        if forward not in _FORWARD:
            return None
        found[DestinationKey(server, _address(address), int(port, 16))] = _destination(int(weight), _FORWARD[forward])
    return found


def _head(server: VirtualServerKey) -> str:
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
