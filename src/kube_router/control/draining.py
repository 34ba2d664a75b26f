"""Backends that nobody wants any more stay with weight 0 until their connections have ended (--ipvs-graceful-termination).

    released --> weight 0, wanted by ("draining", server) --> no connection left, or the grace time over --> removed

A backend that comes back is simply wanted again: whoever wants a key wins over us, and the drain is forgotten. Of a Service that
goes as a whole, what its connections run through stays with its backends: virtual server, set entries, address; but if somebody
else serves the same address and port by now (or the same Service, with a mark or without), only server and backends do. It works
alike after a restart: what an earlier run was draining is held and wanted by nobody, so its drain begins anew.

Past the grace time a backend stays for as long as its slice says that its pod is ending: the pod has its own grace period, and the
slice forgets it when it is gone. Only connections are counted, never packets, so UDP is not drained: a sender that does not pause
would keep a dead backend for ever. Neither are backends of the schedulers sh (without its fallback flag) and dh, which go on
choosing one of weight 0 and then refuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from kube_router.cache.cache import View
from kube_router.codec.sets import port_entry
from kube_router.control.controller import Call
from kube_router.kit.errors import TargetError
from kube_router.kit.net import family_of, host_prefix
from kube_router.model import names
from kube_router.model.objects import Claim
from kube_router.model.state import Key, State
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.netfilter import SetMember
from kube_router.plan.ledger import Ledger

LOOK: Final = 5.0  # seconds between looks at connections, as the original's
_ITEM: Final = "draining"
_LAST: Final = ("\U0010ffff",)  # behind every Service, whose priority begins with its age
_DRAINED: Final = frozenset({"TCP", "SCTP"})
_STICKY: Final = frozenset({"sh", "dh"})
_SH_FALLBACK: Final = 0x8  # IP_VS_SVC_F_SCHED_SH_FALLBACK: takes the next one where the chosen one has weight 0

# Connections of destinations, of those servers that are asked about; what is not in it is not known.
Connections = Callable[[Collection[VirtualServerKey]], Mapping[DestinationKey, int]]
# What clients ask for at a server: its own address, protocol and port, or those behind its mark; None where that is not known.
ClaimOf = Callable[[VirtualServerKey], Claim | None]


def claim_at(server: VirtualServerKey) -> Claim | None:
    """The claim that a server by address serves."""
    if server.mark or server.protocol not in names.PROTOCOLS:
        return None
    return Claim(server.address, names.PROTOCOLS[server.protocol].upper(), server.port)


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
        claim_of: ClaimOf = claim_at,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grace = grace
        self._connections = connections
        self._ends = ends
        self._claim_of = claim_of
        self._now = now
        self._drains: dict[VirtualServerKey, dict[DestinationKey, _Drain]] = {}
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
        released = [key for key in ledger.released() if isinstance(key, DestinationKey)]
        self._finished.intersection_update(released)
        for server in list(self._drains):
            self._review(server, ledger, now)
        if not self._drains:
            self._looked = now  # the first look comes a while after the first drain
        for key in released:
            value = ledger.held[key]
            if key not in self._finished and isinstance(value, Destination) and self._is_drained(key.server, ledger):
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
        claim = self._claim_of(key.server)
        return claim is None or not self._ends(claim, key.address)

    def _is_drained(self, server: VirtualServerKey, ledger: Ledger) -> bool:
        claim = self._claim_of(server)
        value = ledger.held.get(server)
        if claim is None or claim.protocol not in _DRAINED or not isinstance(value, VirtualServer):
            return False
        return value.scheduler not in _STICKY or (value.scheduler == "sh" and bool(value.flags & _SH_FALLBACK))

    def _claim(self, server: VirtualServerKey, ledger: Ledger) -> None:
        item, drains = _item(server), self._drains[server]
        state: State = {key: drain.value for key, drain in drains.items()}
        if not drains:
            del self._drains[server]
        elif ledger.winner(server) in (None, item):
            state |= {key: ledger.held[key] for key in (server, *self._around(server, ledger)) if key in ledger.held}
        ledger.want(item, state, _LAST if state else ())

    def _around(self, server: VirtualServerKey, ledger: Ledger) -> list[Key]:
        """What packets to a server need beside it, if it is there: what marks them, what admits them, what draws them here.
        Nothing where somebody serves its claim: they are his by now."""
        claim = self._claim_of(server)
        if claim is None:
            return []
        family = family_of(claim.address)
        entry = port_entry(claim.address, claim.protocol, claim.port)
        admission = SetMember(names.set_name(names.IPVS_SERVICES, family), entry)
        winner = ledger.winner(admission)
        if winner is not None and not _is_item(winner):
            return []
        return [
            admission,
            SetMember(names.set_name(names.SERVICE_MARKS, family), entry),
            SetMember(names.set_name(names.CLUSTER_MARKS, family), entry),
            SetMember(names.set_name(names.SERVICE_IPS, family), claim.address),
            AddressKey(names.DUMMY, host_prefix(claim.address)),
        ]


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
