"""The ports of a rule, as matches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from kube_router.cache.policies import Direction, NamedPort
from kube_router.codec import rules
from kube_router.desired.netpol.names import port_set
from kube_router.kit.net import Family
from kube_router.model.objects import PolicyPort

_MULTIPORT_SLOTS: Final = 15  # XT_MULTI_PORTS of linux/netfilter/xt_multiport.h; a range takes two
_LAST: Final = 65535

Range = tuple[int, int]


class PortMatch(NamedTuple):
    """A protocol for the rule's header, "" for none, and a match, "" for none."""

    protocol: str
    match: str


def port_matches(ports: Sequence[PolicyPort], direction: Direction, family: Family) -> list[PortMatch]:
    """Matches, any of which admits a packet; no port at all admits every packet."""
    if not ports:
        return [PortMatch("", "")]
    matches = []
    for protocol in sorted({port.protocol for port in ports}):
        own = [port for port in ports if port.protocol == protocol]
        if any(port.port is None for port in own):
            matches.append(PortMatch(protocol, ""))
            continue
        numbers = [(port.port, port.end_port) for port in own if isinstance(port.port, int)]
        matches += [PortMatch(protocol, match) for match in _number_matches(protocol, _merged(numbers))]
        names = {port.port for port in own if isinstance(port.port, str)}
        matches += [
            PortMatch("", rules.match_set(port_set(NamedPort(direction, protocol, name), family), "dst", "dst")) for name in sorted(names)
        ]
    return matches


def _merged(numbers: Iterable[Range]) -> list[Range]:
    """Sorted ranges that neither overlap nor touch. An end before its start (the API refuses it) counts as no end."""
    merged: list[Range] = []
    for first, end in sorted(numbers):
        last = min(max(first, end), _LAST)
        if not 0 < first <= _LAST:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _number_matches(protocol: str, ranges: list[Range]) -> Iterator[str]:
    """SCTP always goes through multiport: the kernel's own SCTP match is a module that many lack, and a rule with it fails."""
    if len(ranges) == 1 and protocol != "SCTP":
        yield rules.ports(protocol, *ranges[0])
        return
    chunk: list[int | Range] = []
    room = _MULTIPORT_SLOTS
    for first, last in ranges:
        slots = 1 if first == last else 2
        if slots > room:
            yield rules.multiport(*chunk)
            chunk, room = [], _MULTIPORT_SLOTS
        chunk.append(first if first == last else (first, last))
        room -= slots
    if chunk:
        yield rules.multiport(*chunk)
