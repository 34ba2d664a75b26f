"""What a node serves: virtual servers with their destinations, and whether the addresses are there.

In the lab kernel a poll by many tools would starve the node, so this starts one (and `/proc/net/ip_vs` cannot be had instead: where
several network namespaces have services, the kernel leaves some out of it).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.node import Node

_PROTOCOLS = {"-t": "tcp", "-u": "udp", "--sctp-service": "sctp"}
_LOCAL4 = re.compile(r"\|-- ([\d.]+)\n\s+/32 \S+ LOCAL")

Served = Mapping[str, frozenset[str]]
"""Destinations ("10.1.0.1:8080") by virtual server ("10.233.0.9:80/tcp"); services by mark are left out."""


def joined(address: str, port: int) -> str:
    """Address and port as people write them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def servers(node: Node) -> Served:
    """All virtual servers of the node by address."""
    return parse(node.run("ipvsadm -Sn"))


def parse(saved: str) -> Served:
    """What `ipvsadm -Sn` says."""
    found: dict[str, set[str]] = {}
    for line in saved.splitlines():
        command, kind, end, *rest = line.split()
        if protocol := _PROTOCOLS.get(kind):
            ends = found.setdefault(f"{end}/{protocol}", set())
            if command == "-a":
                ends.add(rest[rest.index("-r") + 1])
    return {server: frozenset(ends) for server, ends in found.items()}


def addresses(node: Node) -> set[str]:
    """All addresses that the node has as its own, on whatever link."""
    numbers = (line.split()[0] for line in _read(node, "if_inet6").splitlines())
    return set(_LOCAL4.findall(_read(node, "fib_trie"))) | {str(ipaddress.IPv6Address(int(number, 16))) for number in numbers}


def unserved(node: Node, vips: Sequence[str], served: Served | None = None) -> list[str]:
    """Addresses that have no virtual server, or that the node does not have."""
    known = {server.rpartition(":")[0].strip("[]") for server in (servers(node) if served is None else served)}
    held = addresses(node)
    return [vip for vip in vips if vip not in known or vip not in held]


def _read(node: Node, table: str) -> str:
    return node.space.call(Path("/proc/thread-self/net", table).read_text)
