"""Address text: canonical strings are our address type.

An address or CIDR is parsed once, at the edge (`codec`, `config`, observers), and from then on travels as its canonical
text: "10.0.0.1", "fd00::1", "10.0.0.0/24" (host bits zero). Equal text is equal meaning, strings hash and compare in C,
and 40,000 of them cost a tenth of as many `ipaddress` objects.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Final, Literal

Family = Literal[4, 6]
FAMILIES: Final[tuple[Family, ...]] = (4, 6)


def family_of(address: str) -> Family:
    """Family of a canonical address or CIDR."""
    return 6 if ":" in address else 4


def canonical_address(text: str) -> str:
    """Canonical text of an address; ValueError when it is none. IPv4-mapped IPv6 stays IPv6, zone ids are refused."""
    if ":" not in text:
        # inet_pton takes four plain decimal numbers and nothing else, which already is the canonical form; it costs a
        # fiftieth of an `ipaddress` object, and a cluster has tens of thousands of addresses.
        try:
            socket.inet_pton(socket.AF_INET, text)
        except (OSError, ValueError):
            raise ValueError(f"{text!r} does not appear to be an IPv4 or IPv6 address") from None
        return text
    if "%" in text:
        raise ValueError(f"{text!r} carries a zone id")
    return str(ipaddress.ip_address(text))


def canonical_network(text: str) -> str:
    """Canonical text of a CIDR, host bits cleared; ValueError when it is none. A bare address becomes a host prefix."""
    address, _, length = text.partition("/")
    if ":" not in text and len(length) in (1, 2) and length.isdecimal() and length.isascii() and int(length) <= 32:
        # As above: without host bits it is canonical already, and a table of routes has a hundred thousand of them.
        with suppress(OSError):
            packed = int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")
            if not packed << int(length) & 0xFFFFFFFF and str(int(length)) == length:
                return text
    return str(ipaddress.ip_network(text, strict=False))


@lru_cache(maxsize=4096)
def network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parsed form of a canonical CIDR, for containment tests."""
    return ipaddress.ip_network(cidr)


def contains(cidr: str, address: str) -> bool:
    """Whether a canonical CIDR holds a canonical address; False across families."""
    return family_of(cidr) == family_of(address) and ipaddress.ip_address(address) in network(cidr)


def host_prefix(address: str) -> str:
    """The /32 or /128 of an address."""
    return f"{address}/{128 if ':' in address else 32}"


def of_family(addresses: Iterable[str], family: Family) -> tuple[str, ...]:
    """Those of the family, in order."""
    return tuple(address for address in addresses if family_of(address) == family)
