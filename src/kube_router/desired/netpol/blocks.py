"""Address ranges with exceptions, as rule matches and sets.

Ranges without exceptions are one union and share a set. A range with exceptions has a set of its own, in which the kernel lets
the longest prefix decide: an exception must never reach into another range. `hash:net` has no room for prefix length 0, so
the whole world is two halves there. What lies outside the range is no exception; one that covers the range leaves nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

from kube_router.cache.policies import Direction
from kube_router.cache.selectors import identity
from kube_router.codec import rules
from kube_router.codec.sets import net_entry
from kube_router.desired.netpol.names import PEER_SIDE, block_set
from kube_router.kit.net import Family, family_of, network
from kube_router.model.objects import IPBlock
from kube_router.model.state import State
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec

_HALVES: Final[dict[str, tuple[str, str]]] = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}


class PeerMatch(NamedTuple):
    """How a rule knows a peer: by a range in its header or by a match; by neither when everyone is one. `word` is for people."""

    word: str
    match: str = ""
    cidr: str = ""


def block_matches(blocks: Iterable[IPBlock], direction: Direction, family: Family) -> tuple[list[PeerMatch], State]:
    """Matches, any of which admits a peer in the family, and the sets that they name."""
    plain: set[str] = set()
    matches: list[PeerMatch] = []
    state: State = {}
    for block in blocks:
        excepts = _effective(block, family)
        if excepts is None:
            continue
        if not excepts:
            plain.add(block.cidr)
            continue
        name = block_set(direction, identity("block", block.cidr, *excepts), family)
        matches.append(PeerMatch("cidr", rules.match_set(name, PEER_SIDE[direction])))
        state |= _set(name, family, _split(block.cidr), excepts)
    if any(cidr in _HALVES for cidr in plain):
        return [PeerMatch("cidr")], {}
    if len(plain) == 1:
        matches.append(PeerMatch("cidr", cidr=plain.pop()))
    elif plain:
        name = block_set(direction, identity("blocks", *sorted(plain)), family)
        matches.append(PeerMatch("cidr", rules.match_set(name, PEER_SIDE[direction])))
        state |= _set(name, family, plain, ())
    return sorted(matches), state


def _effective(block: IPBlock, family: Family) -> tuple[str, ...] | None:
    """Exceptions that take something away, sorted; None when nothing of the block is left in the family."""
    if family_of(block.cidr) != family:
        return None
    whole = network(block.cidr)
    taken = [network(cidr) for cidr in block.excepts if family_of(cidr) == family]
    if any(_covers(hole, whole) for hole in taken):
        return None
    return tuple(sorted({str(hole) for hole in taken if _covers(whole, hole)}))


def _covers(outer: ipaddress.IPv4Network | ipaddress.IPv6Network, inner: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return outer.prefixlen <= inner.prefixlen and inner.network_address in outer


def _split(cidr: str) -> tuple[str, ...]:
    return _HALVES.get(cidr, (cidr,))


def _set(name: str, family: Family, cidrs: Iterable[str], excepts: Iterable[str]) -> State:
    """An entry is either in or out: of a half of the world that is an exception, the exception is left."""
    state: State = {SetKey(name): SetSpec("hash:net", family)}
    state |= {SetMember(name, net_entry(cidr)): Member() for cidr in cidrs}
    state |= {SetMember(name, net_entry(cidr)): Member(nomatch=True) for cidr in excepts}
    return state
