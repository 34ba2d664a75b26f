"""Routes of ours in the main table (protocol 17) and in the overlay's table, through batched rtnetlink messages.

A new route is made exclusively: where another's route to the same prefix stands, ours is refused, never laid over it. (A route
of another metric is another route to the kernel and to us: an administrator's fallback of higher metric may stand beside ours.)
A route of ours that changes is replaced in one message, so that no packet finds it missing; since the kernel's replacing does
not ask whose route it replaces, we look first whether it is still ours.

The overlay's table (77) bears our name: in it everything over a tunnel of ours is ours too, whatever its protocol, for the original
leaves that to the kernel. A route in it is replaced without a look.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from socket import if_indextoname, if_nametoindex
from typing import Final

from kube_router.apply.kernel.netlink_socket import ROUTE, Fault, NetlinkTarget
from kube_router.codec import routes as codec
from kube_router.codec.netlink import Message
from kube_router.kit.errors import Busy
from kube_router.kit.net import FAMILIES, Family, family_of
from kube_router.model.names import OVERLAY_TABLE, ROUTE_PROTOCOL, is_tunnel
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Hop, Route, RouteKey

TABLES: Final = (254, OVERLAY_TABLE)  # RT_TABLE_MAIN; the tables in which protocol 17 is ours

_ABSENT: Final = frozenset({errno.ESRCH, errno.ENOENT})
_WORDS: Final = {
    errno.ENETUNREACH: "no link of this node leads to its gateway",
    errno.EHOSTUNREACH: "no link of this node leads to its gateway",
    errno.ENETDOWN: "the link to its gateway is down",
    errno.ENODEV: "its link is not there",
    errno.EINVAL: "the kernel cannot use its gateway or source address",
}


class RouteTarget(NetlinkTarget):
    """Routes in the network namespace in which it was made."""

    kinds: tuple[type[Key], ...] = (RouteKey,)

    def __init__(self) -> None:
        super().__init__(ROUTE)

    @property
    def port(self) -> int:
        """Port id of its socket, which notices of its changes bear."""
        return self._socket.port

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our routes of both families; the link and source only where they are wanted of the route."""
        with self._lock:
            return {key: _as_wished(found, wanted.get(key)) for key, found in self._ours(FAMILIES).items()}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make, replace, delete, in order; refusals name the route that stands in the way or what the kernel said."""
        with self._lock:
            ours = self._still_ours(_of(change) for change in changes if change.before and change.after)
            faults = self._send((change, _of(change) in ours) for change in changes)
            refused = {change.key: _reason(change, fault) for change, fault in faults if fault.number != errno.EEXIST}
            refused |= self._adopt([change for change, fault in faults if fault.number == errno.EEXIST])
        return refused

    def _adopt(self, collided: Sequence[Change]) -> dict[Key, str]:
        """Routes that were to be new and exist: ours are made as wanted, others' stay and are named."""
        refused: dict[Key, str] = {}
        if not collided:
            return refused
        standing = self._standing(collided)
        links = _Links()
        again = []
        for change in collided:
            found = standing.get(_of(change))
            if found is None or _is_ours(found, links):
                if found is None or _as_wished(_route(found, links), change.after) != change.after:
                    again.append(change)
            else:
                refused[change.key] = f"another's route stands in the way: {_described(found, links)}"
        faults = self._send((change, _of(change) in standing) for change in again)
        return refused | {change.key: _reason(change, fault) for change, fault in faults}

    def _send(self, steps: Iterable[tuple[Change, bool]]) -> list[tuple[Change, Fault]]:
        """One batch; what failed, but for deletions of what is not there. The flag says whether to replace."""
        sent: list[Change] = []
        messages: list[Message] = []
        failed: list[tuple[Change, Fault]] = []
        for change, replace in steps:
            message = _message(change, replace=replace)
            if message is None:
                failed.append((change, Fault(errno.ENODEV)))
            else:
                sent.append(change)
                messages.append(message)
        for n, fault in sorted(self._socket.send(messages).items()):
            if sent[n].after is not None or fault.number not in _ABSENT:
                failed.append((sent[n], fault))
        return failed

    def _still_ours(self, keys: Iterable[RouteKey]) -> set[RouteKey]:
        """Those that a route of ours is found under at once; in the overlay's table all.

        Of the others some may be ours too (a longer prefix or a lower metric comes first for the same address): they are then made as
        if they were new, and what they collide with is looked at.
        """
        ours: set[RouteKey] = set()
        for key in keys:
            if key.table == OVERLAY_TABLE:
                ours.add(key)
                continue
            try:
                found = codec.parse_route(self._socket.ask(codec.look_up(key.prefix)))
            except OSError:
                continue
            if found is not None and found.protocol == ROUTE_PROTOCOL and _key(found) == key:
                ours.add(key)
        return ours

    def _ours(self, families: Iterable[Family]) -> dict[RouteKey, Route]:
        wanted = ((table, 0 if table == OVERLAY_TABLE else ROUTE_PROTOCOL) for table in TABLES)
        found = (route for table, protocol in wanted for family in families for route in self._dump(family, table, protocol))
        links = _Links()
        # Looked at again: a kernel that does not filter would have us take others' routes for ours.
        return {_key(route): _route(route, links) for route in found if _is_ours(route, links)}

    def _standing(self, changes: Iterable[Change]) -> dict[RouteKey, codec.Found]:
        """All routes, whoever's, of the families and tables of these changes."""
        where = {(_family(change), _of(change).table) for change in changes}
        return {_key(route): route for family, table in where for route in self._dump(family, table, 0)}

    def _dump(self, family: Family, table: int, protocol: int) -> Iterator[codec.Found]:
        try:
            replies = self._socket.dump(codec.dump_routes(family, table=table, protocol=protocol))
        except FileNotFoundError:
            return  # a table in which nobody has put anything yet
        except OSError as fault:
            raise Busy(f"cannot list routes: {fault}") from fault
        for reply in replies:
            route = codec.parse_route(reply)
            if route is not None and route.table == table:
                yield route


def _message(change: Change, *, replace: bool) -> Message | None:
    """The message that makes the change; None when the route's link is not there."""
    key, wish = _of(change), change.after
    if wish is None:
        protocol = 0 if key.table == OVERLAY_TABLE else ROUTE_PROTOCOL
        return codec.delete_route(key.prefix, table=key.table, protocol=protocol, metric=key.metric)
    assert isinstance(wish, Route)
    try:
        hops = [codec.NextHop(hop.gateway, if_nametoindex(hop.link) if hop.link else 0, hop.onlink) for hop in wish.hops]
    except OSError:
        return None
    return codec.new_route(
        key.prefix,
        table=key.table,
        protocol=ROUTE_PROTOCOL,
        metric=key.metric,
        hops=hops,
        source=wish.source,
        replace=replace,
    )


def _of(change: Change) -> RouteKey:
    assert isinstance(change.key, RouteKey)
    return change.key


def _family(change: Change) -> Family:
    return family_of(_of(change).prefix)


def _key(route: codec.Found) -> RouteKey:
    return RouteKey(route.prefix, route.table, route.metric)


class _Links(dict[int, str]):
    """Names of links by number, each asked for once; "" for none and for one that is gone."""

    def __missing__(self, index: int) -> str:
        try:
            self[index] = if_indextoname(index) if index else ""
        except OSError:
            self[index] = ""
        return self[index]


def _is_ours(route: codec.Found, links: _Links) -> bool:
    if route.protocol == ROUTE_PROTOCOL:
        return True
    return route.table == OVERLAY_TABLE and any(is_tunnel(links[hop.link]) for hop in route.hops)


def _route(route: codec.Found, links: _Links) -> Route:
    hops = sorted(Hop(hop.gateway, links[hop.link], hop.onlink) for hop in route.hops)
    return Route(tuple(hops), source=route.source)


def _as_wished(found: Route, wish: Value | None) -> Route:
    """The found route as wanted where it meets what is wanted: a link or source that we leave open is not compared."""
    if not isinstance(wish, Route) or len(found.hops) != len(wish.hops) or wish.source not in ("", found.source):
        return found
    return wish if all(_meets(*pair) for pair in zip(found.hops, wish.hops, strict=True)) else found


def _meets(found: Hop, wish: Hop) -> bool:
    """A link that is left open is whichever leads to the gateway, but never one that the route itself says it is on."""
    return found.gateway == wish.gateway and wish.link in ("", found.link) and found.onlink == wish.onlink


def _described(route: codec.Found, links: _Links) -> str:
    whose = codec.PROTOCOL_NAMES.get(route.protocol, str(route.protocol))
    way = [f"via {hop.gateway}" if hop.gateway else f"dev {links[hop.link]}" for hop in route.hops]
    return " ".join((route.prefix, *way, "proto", whose))


def _reason(change: Change, fault: Fault) -> str:
    words = _WORDS.get(fault.number)
    return str(fault) if change.after is None or words is None else f"{words} ({fault})"
