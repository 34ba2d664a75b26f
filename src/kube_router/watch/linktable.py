"""Links and addresses of this host from notices: what the cache should know, and what of ours others may have disturbed. Pure.

Most notices on a busy node concern nobody: a pod that starts makes half a dozen about its veth, a Service's VIP some about the
dummy link. So links that say nothing about the host itself stay out of the cache: ports of a bridge and veths without an address
of their own, and tunnels of ours. Links whose addresses we write ourselves (`written`) are in it without these: state of ours is
not our input.

**What counts as disturbed.** Our own writes come back as notices like everybody else's, and bear no reliable mark. So only losses are
told (a route that another lays over ours is one), by key: a key that somebody deleted matters only while it is wanted, and what we
delete ourselves is not wanted any more at that time. Where the kernel itself drops state without a notice (IPv4 routes over a link
that goes down or away, or whose address goes), the whole kind is told.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

import msgspec

from kube_router.codec.notices import (
    MAIN_TABLE,
    AddressGone,
    AddressSeen,
    EntryGone,
    LinkGone,
    LinkSeen,
    RouteGone,
    RouteReplaced,
    RuleGone,
    Told,
    WayOut,
    WaysChanged,
)
from kube_router.model.names import DUMMY, OVERLAY_TABLE, ROUTE_PROTOCOL, VXLAN_LINK, is_tunnel
from kube_router.model.objects import Interface, Kind, Name, Ref
from kube_router.model.state import Key
from kube_router.model.state.links import AddressKey, LinkKey, RouteKey, RuleKey
from kube_router.model.state.tunnels import FdbKey, NeighbourKey, TunnelKey
from kube_router.watch.events import Event, Put, Removed, Replaced

WRITTEN: Final = frozenset({DUMMY})
_TABLE_LOCAL: Final = 255
_OVER_TUNNELS: Final[frozenset[type[Key]]] = frozenset({RouteKey, FdbKey, NeighbourKey})


class Disturbance(msgspec.Struct, frozen=True):
    """What of ours others may have taken away: single keys, which matter to whoever wants them, and whole kinds."""

    keys: frozenset[Key] = frozenset()
    kinds: frozenset[type[Key]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.keys or self.kinds)

    def concerning(self, wanted: Container[Key]) -> set[type[Key]]:
        """Kinds to look after for one who wants these keys. With a wanted tunnel everything over it is lost, without a word for IPv4."""
        kinds = {type(key) for key in self.keys if key in wanted}
        return kinds | self.kinds | (_OVER_TUNNELS if TunnelKey in kinds else set())


class LinkTable:
    """The present links and addresses; `take` what they come to since the last time."""

    def __init__(self, written: Iterable[str] = WRITTEN) -> None:
        self._written = frozenset(written)
        self._links: dict[int, LinkSeen] = {}
        self._addresses: dict[int, set[str]] = {}
        self._ways: dict[int, set[str]] = {}
        self._told: dict[int, Interface] = {}
        self._touched: set[int] = set()
        self._lost_keys: set[Key] = set()
        self._lost_kinds: set[type[Key]] = set()
        # Whether default routes may differ from what was last told of them: a link that goes down takes its own along without a word.
        self.ways_doubtful = False

    def replace(self, told: Iterable[Told]) -> None:
        """A complete dump of links and addresses. What was lost since the last one is not known, so everything counts as disturbed."""
        before = bool(self._links)
        self._touched.update(self._links)
        self._links, self._addresses = {}, {}
        for one in told:
            self._take_in(one)
        self._lost_keys = set()
        self._lost_kinds = {LinkKey, AddressKey, RouteKey, TunnelKey, RuleKey, FdbKey, NeighbourKey} if before else set()

    def replace_ways(self, ways: Iterable[WayOut]) -> None:
        """A complete dump of the default routes. Gateways that are known by a link-local address are nobody's to claim."""
        before, self._ways = self._ways, {}
        for way in ways:
            if _speaks_for_the_host(way.gateway):
                self._ways.setdefault(way.link, set()).add(way.gateway)
        self._touched.update(link for link in before.keys() | self._ways.keys() if before.get(link) != self._ways.get(link))
        self.ways_doubtful = False

    def hear(self, told: Told) -> None:
        """One notice."""
        match told:
            case LinkSeen(link=index, up=up):
                before = self._links.get(index)
                if before is not None and before.up != up:
                    self._flapped(before)
            case LinkGone(link=index):
                self._lost_link(index)
            case AddressGone(link=index, prefix=prefix):
                self._lost_address(index, prefix)
            case RouteGone():
                self._lost_route(told)
            case RouteReplaced(prefix=prefix, table=table):
                self._lost_keys.add(RouteKey(prefix, table))
                self._doubt_ways(prefix, table)
            case WaysChanged():
                self.ways_doubtful = True
            case RuleGone(source=source, table=table):
                self._lost_keys.add(RuleKey(source, table))
            case EntryGone():
                self._lost_entry(told)
        self._take_in(told)

    def complete(self) -> Replaced:
        """All interfaces; `take` goes on from here."""
        interfaces = {index: self._interface(index) for index in self._links}
        self._told = {index: interface for index, interface in interfaces.items() if interface is not None}
        self._touched = set()
        return Replaced(Kind.INTERFACE, tuple(self._told.values()))

    def take(self) -> list[Event]:
        """Interfaces that changed since the last time, removals first: a name may have gone from one link to another."""
        changed = {index: self._interface(index) for index in self._touched}
        self._touched = set()
        removed: set[Name] = set()
        for index in changed:
            old = self._told.pop(index, None)
            if old is not None and (changed[index] is None or changed[index] != old):
                removed.add(old.name)
            elif old is not None:
                self._told[index] = old
                changed[index] = None
        puts = {index: interface for index, interface in changed.items() if interface is not None}
        self._told.update(puts)
        names = {interface.name for interface in self._told.values()}
        gone: list[Event] = [Removed(Ref(Kind.INTERFACE, name)) for name in sorted(removed - names)]
        return gone + [Put(interface) for interface in puts.values()]

    def disturbance(self) -> Disturbance:
        """What was disturbed since the last time."""
        found = Disturbance(frozenset(self._lost_keys), frozenset(self._lost_kinds))
        self._lost_keys, self._lost_kinds = set(), set()
        return found

    # -- keeping ------------------------------------------------------------------------------------------------------------

    def _take_in(self, told: Told) -> None:
        match told:
            case LinkSeen(link=index):
                self._links[index] = told
            case LinkGone(link=index):
                self._links.pop(index, None)
                self._addresses.pop(index, None)
            case AddressSeen(link=index, prefix=prefix):
                self._addresses.setdefault(index, set()).add(prefix)
            case AddressGone(link=index, prefix=prefix):
                self._addresses.get(index, set()).discard(prefix)
            case RouteGone() | RouteReplaced() | WaysChanged() | RuleGone() | EntryGone():
                return
        self._touched.add(told.link)

    def _interface(self, index: int) -> Interface | None:
        link = self._links.get(index)
        if link is None or is_tunnel(link.name):
            return None
        addresses = self._addresses.get(index, set())
        if (link.master or link.kind == "veth") and not any(_speaks_for_the_host(prefix) for prefix in addresses):
            return None
        kept = () if link.name in self._written else tuple(sorted(addresses, key=lambda prefix: (":" in prefix, prefix)))
        gateways = tuple(sorted(self._ways.get(index, ())))
        return Interface(Name("", link.name), index=index, kind=link.kind, up=link.up, mtu=link.mtu, addresses=kept, gateways=gateways)

    # -- disturbance ----------------------------------------------------------------------------------------------------------

    def _doubt_ways(self, prefix: str, table: int) -> None:
        self.ways_doubtful |= table == MAIN_TABLE and prefix.endswith("/0")

    def _flapped(self, link: LinkSeen) -> None:
        self.ways_doubtful |= link.link in self._ways
        if is_tunnel(link.name):
            self._lost_keys.add(TunnelKey(link.name))
        elif self._interface(link.link) is not None:
            self._lost_keys.add(LinkKey(link.name))
            self._lost_kinds.add(RouteKey)
            if link.name in self._written:
                self._lost_kinds.add(AddressKey)  # its local routes went, and come back without our source

    def _lost_link(self, index: int) -> None:
        self.ways_doubtful |= index in self._ways
        link = self._links.get(index)
        if link is not None and is_tunnel(link.name):
            self._lost_keys.add(TunnelKey(link.name))
        elif link is not None and self._interface(index) is not None:
            self._lost_keys.add(LinkKey(link.name))
            self._lost_keys.update(AddressKey(link.name, prefix) for prefix in self._addresses.get(index, ()))
            self._lost_kinds.add(RouteKey)

    def _lost_address(self, index: int, prefix: str) -> None:
        self.ways_doubtful |= index in self._ways
        link = self._links.get(index)
        if link is None:
            return
        if link.name in self._written:
            self._lost_keys.add(AddressKey(link.name, prefix))
        elif self._interface(index) is not None:
            # Local routes of VIPs name it as their source, which some kernels take off them without a word.
            self._lost_kinds |= {RouteKey, AddressKey}

    def _lost_entry(self, entry: EntryGone) -> None:
        link = self._links.get(entry.link)
        if link is not None and link.name == VXLAN_LINK:
            self._lost_keys.add(FdbKey(link.name, entry.mac) if entry.forwarding else NeighbourKey(link.name, entry.address))

    def _lost_route(self, route: RouteGone) -> None:
        self._doubt_ways(route.prefix, route.table)
        if route.protocol == ROUTE_PROTOCOL or route.table == OVERLAY_TABLE:
            self._lost_keys.add(RouteKey(route.prefix, route.table))
        link = self._links.get(route.link)
        if route.table == _TABLE_LOCAL and route.host and link is not None and link.name in self._written:
            self._lost_keys.add(AddressKey(link.name, route.prefix))


def _speaks_for_the_host(prefix: str) -> bool:
    return not prefix.startswith(("169.254.", "fe8", "fe9", "fea", "feb"))  # link-local: 169.254.0.0/16, fe80::/10
