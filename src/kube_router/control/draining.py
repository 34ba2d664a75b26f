"""Backends that nobody wants any more stay with weight 0 until their connections have ended (--ipvs-graceful-termination).

    released --> weight 0, wanted by ("draining", server) --> no connection left, or the grace time over --> removed

A backend that comes back is simply wanted again: whoever wants a key wins over us, and the drain is forgotten. Of a Service that
goes as a whole, what its connections run through stays with its backends: virtual server, set entries, address; but if somebody
else serves the same address and port by now (or the same Service, with a mark or without), only server and backends do. It works
alike after a restart: what an earlier run was draining is held and wanted by nobody, so its drain begins anew.

Past the grace time a backend stays for as long as its slice says that its pod is ending: the pod has its own grace period, and the
slice forgets it when it is gone. Only connections are counted, never packets, so UDP is not drained: a sender that does not pause
would keep a dead backend for ever. Neither are backends of schedulers that go on choosing one of weight 0 and then refuse: dh, and
sh and mh without the flag by which they fall back on another one (desired/proxy/service.py sets it).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from kube_router.cache.cache import View
from kube_router.codec.sets import port_entry
from kube_router.control.controller import Call
from kube_router.kit.errors import TargetError
from kube_router.kit.net import Family, family_of, host_prefix
from kube_router.model import names
from kube_router.model.objects import Claim
from kube_router.model.state import Key, State
from kube_router.model.state.direct import DeliveryKey, MarkRuleKey, PodPortKey, PodTunnelKey, PodVipKey
from kube_router.model.state.ipvs import FALLBACK, FALLING_BACK, HASHING, Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, Member, SetKey, SetMember
from kube_router.plan.ledger import Ledger

LOOK: Final = 5.0  # seconds between looks at connections, as the original's
_ITEM: Final = "draining"
_LAST: Final = ("\U0010ffff",)  # behind every Service, whose priority begins with its age
_DRAINED: Final = frozenset({"TCP", "SCTP"})
_MARKS: Final = (names.SERVICE_MARKS, names.CLUSTER_MARKS)

# Connections of destinations, of those servers that are asked about; what is not in it is not known.
Connections = Callable[[Collection[VirtualServerKey]], Mapping[DestinationKey, int]]
# What clients ask for whose packets bear a mark; None where that is not known.
ClaimOf = Callable[[int], Claim | None]


class _Drain(msgspec.Struct, gc=False):
    """A backend that ends: the time at which its grace began, and its value meanwhile."""

    since: float
    value: Destination


class Draining:
    """A `control.controller.Keeper`. `grace` in seconds; `ends` says whether the pod behind a claim and address is still ending;
    `now` is a monotonic clock."""

    def __init__(
        self,
        grace: float,
        *,
        connections: Connections,
        ends: Callable[[Claim, str], bool],
        claim_of: ClaimOf = lambda _mark: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grace = grace
        self._connections = connections
        self._ends = ends
        self._claim_of = claim_of
        self._now = now
        self._drains: dict[VirtualServerKey, dict[DestinationKey, _Drain]] = {}
        self._claims: dict[VirtualServerKey, Claim] = {}  # of servers that drain
        self._finished: set[DestinationKey] = set()  # drained, and to be removed: not to be drained again because that failed
        self._counts: Mapping[DestinationKey, int] = {}
        self._looked = now()

    def __len__(self) -> int:
        """Destinations that are draining. From any thread."""
        return sum(map(len, list(self._drains.values())))

    async def look(self, call: Call) -> None:
        """Count connections, one reading for all, if it is time to."""
        now = self._now()
        if not self._drains or now < self._looked + LOOK:
            return
        self._looked = now
        try:
            self._counts = await call(self._connections, list(self._drains))
        except TargetError:
            self._counts = {}  # not known: the grace time decides

    def keep(self, ledger: Ledger) -> None:
        """Take in what was released, let go of what has ended or is wanted again."""
        now = self._now()
        everything = ledger.released()
        released = [key for key in everything if isinstance(key, DestinationKey)]
        self._finished.intersection_update(released)
        for server in list(self._drains):
            self._review(server, ledger, now)
        if not self._drains:
            self._looked = now  # the first look comes a while after the first drain
        marked = _marked(everything, ledger) if released else {}
        for key in released:
            value = ledger.held[key]
            if key not in self._finished and isinstance(value, Destination) and self._is_drained(key.server, marked, ledger):
                self._drains.setdefault(key.server, {})[key] = _Drain(now, Destination(0, value.forward))
        for server in list(self._drains):
            self._claim(server, ledger)

    def again(self) -> float | None:
        """Seconds until the next look, or until the first grace time is over if that is sooner."""
        if not self._drains:
            return None
        now = self._now()
        ends = (drain.since + self._grace for drains in self._drains.values() for drain in drains.values())
        return max(0.0, min([self._looked + LOOK, *(end for end in ends if end > now)]) - now)

    def _review(self, server: VirtualServerKey, ledger: Ledger, now: float) -> None:
        drains = self._drains[server]
        for key, drain in list(drains.items()):
            if key not in ledger.held or ledger.winner(key) != _item(server):
                del drains[key]  # taken away by somebody, or wanted again
            elif self._has_ended(key, drain, now):
                del drains[key]
                self._finished.add(key)

    def _has_ended(self, key: DestinationKey, drain: _Drain, now: float) -> bool:
        if self._looked > drain.since and self._counts.get(key) == 0:
            return True
        if now < drain.since + self._grace:
            return False
        return not self._ends(self._claims[key.server], key.address)

    def _is_drained(self, server: VirtualServerKey, marked: Mapping[int, Claim], ledger: Ledger) -> bool:
        claim = self._claims.get(server) or self._claim_at(server, marked)
        value = ledger.held.get(server)
        if claim is None or claim.protocol not in _DRAINED or not isinstance(value, VirtualServer):
            return False
        if value.scheduler in HASHING and not (value.scheduler in FALLING_BACK and value.flags & FALLBACK):
            return False
        self._claims[server] = claim
        return True

    def _claim_at(self, server: VirtualServerKey, marked: Mapping[int, Claim]) -> Claim | None:
        if server.mark:
            return marked.get(server.mark) or self._claim_of(server.mark)
        return Claim(server.address, names.PROTOCOLS[server.protocol].upper(), server.port) if server.protocol in names.PROTOCOLS else None

    def _claim(self, server: VirtualServerKey, ledger: Ledger) -> None:
        item, drains = _item(server), self._drains[server]
        state: State = {key: drain.value for key, drain in drains.items()}
        if not drains:
            del self._drains[server], self._claims[server]
        else:
            keys: list[Key] = [key for drain in drains for key in _in_pod(drain, self._claims[server])]
            if ledger.winner(server) in (None, item):
                keys += [server, *_around(self._claims[server], ledger), *_delivery(server)]
            state |= {key: ledger.held[key] for key in keys if key in ledger.held}
        ledger.want(item, state, _LAST if state else ())


def ending(view: View) -> Callable[[Claim, str], bool]:
    """Whether slices say that the pod of an address, a backend of the Services with a claim, is still ending."""

    def ends(claim: Claim, address: str) -> bool:
        # A server at an address of the node stands for a node port.
        services = {service.name for one in (claim, claim._replace(address="")) for service in view.services.each("claim", one)}
        pieces = (piece for name in services for piece in view.slices.by("service", name))
        return any(endpoint.terminating and address in endpoint.addresses for piece in pieces for endpoint in piece.endpoints)

    return ends


def _item(server: VirtualServerKey) -> tuple[str, VirtualServerKey]:
    return _ITEM, server


def _is_item(item: object) -> bool:
    return isinstance(item, tuple) and item[0] == _ITEM


def _around(claim: Claim, ledger: Ledger) -> list[Key]:
    """What packets of a claim need beside its server, if it is there: what marks them, what admits them, what draws them here.
    Nothing where somebody serves the claim: they are his by now."""
    family = family_of(claim.address)
    entry = port_entry(claim.address, claim.protocol, claim.port)
    admission = SetMember(names.set_name(names.IPVS_SERVICES, family), entry)
    winner = ledger.winner(admission)
    if winner is not None and not _is_item(winner):
        return []
    return [
        admission,
        *(SetMember(names.set_name(base, family), entry) for base in _MARKS),
        SetMember(names.set_name(names.SERVICE_IPS, family), claim.address),
        AddressKey(names.DUMMY, host_prefix(claim.address)),
    ]


def _delivery(server: VirtualServerKey) -> Iterator[Key]:
    """What packets of a server by mark get their mark from, and are delivered by."""
    if not server.mark:
        return
    family: Family = 6 if server.family == 6 else 4
    yield from (MarkRuleKey(family, server.mark), DeliveryKey(family))
    for marks, chain in zip(_MARKS, (names.MARKS_CHAIN, names.CLUSTER_MARKS_CHAIN), strict=True):
        yield from (SetKey(names.set_name(marks, family)), ChainKey(family, "mangle", chain))
        yield from (JumpKey(family, "mangle", hook, chain) for hook in ("PREROUTING", "OUTPUT"))
    yield SetKey(names.set_name(names.CLUSTER_PODS, family))


def _in_pod(backend: DestinationKey, claim: Claim) -> tuple[Key, ...]:
    """What a pod of this node needs to take in what a tunnel brings; others' pods have nothing of ours."""
    if not backend.server.mark:
        return ()
    protocol = names.PROTOCOL_NUMBERS[claim.protocol]
    return (
        PodTunnelKey(backend.address),
        PodVipKey(backend.address, claim.address),
        PodPortKey(backend.address, claim.address, protocol, claim.port),
    )


def _marked(released: Iterable[Key], ledger: Ledger) -> dict[int, Claim]:
    """Claims behind the marks of entries that go: who gave out the marks has struck them off by now."""
    found: dict[int, Claim] = {}
    for key in released:
        value = ledger.held[key]
        if isinstance(key, SetMember) and isinstance(value, Member) and value.mark > 0:
            address, _, place = key.entry.partition(",")
            protocol, _, port = place.partition(":")
            found[value.mark] = Claim(address, protocol.upper(), int(port))
    return found
