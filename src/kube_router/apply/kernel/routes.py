"""Routes of ours (protocol 17) in the main table, through rtnetlink (linux/rtnetlink.h).

A new route is made exclusively: where another's route to the same prefix stands, ours is refused, never laid over it. A route of
ours that changes is replaced in one message, so that no packet finds it missing.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kube_router.kit.errors import Busy, Stale
from kube_router.kit.net import FAMILIES, Family, family_of
from kube_router.model.names import ROUTE_PROTOCOL
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Route, RouteKey

AF: Final[dict[Family, int]] = {4: 2, 6: 10}  # AF_INET, AF_INET6
MAIN: Final = 254


class RouteTarget:
    """Routes in the network namespace in which the process runs. `messages` counts route messages sent."""

    kinds: tuple[type[Key], ...] = (RouteKey,)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._netlink: Any = None
        self.messages = 0

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our routes of both families; gateways sorted, the link only where it is wanted of the route."""
        with self._lock:
            held: dict[Key, Value] = {}
            for family in FAMILIES:
                for message in self._dump(family):
                    key, found = self._parse(message, family)
                    held[key] = _like(found, wanted.get(key))
            return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make, replace, delete; refusals name the route that stands in the way or what the kernel said."""
        refused: dict[Key, str] = {}
        with self._lock:
            for change in changes:
                assert isinstance(change.key, RouteKey)
                try:
                    self._do(change.key, change.before, change.after)
                except self._error as fault:
                    refused[change.key] = str(fault)
        return refused

    def _do(self, key: RouteKey, before: Route | None, after: Route | None) -> None:
        if after is None:
            self._delete(key)
            return
        try:
            self._send("add" if before is None else "replace", key, after)
        except self._error as fault:
            if getattr(fault, "code", None) != errno.EEXIST:
                raise
            if not self._is_ours(key):
                raise
            self._send("replace", key, after)

    def _delete(self, key: RouteKey) -> None:
        try:
            self._send("del", key, None)
        except self._error as fault:
            if getattr(fault, "code", None) not in (errno.ESRCH, errno.ENOENT):
                raise

    def _send(self, command: str, key: RouteKey, route: Route | None) -> None:
        # IPv6 has no replace across next-hop counts in one message on old kernels; those we run on (>= 5.10) do it.
        request: dict[str, Any] = {"dst": key.prefix, "table": key.table, "proto": ROUTE_PROTOCOL, "family": AF[family_of(key.prefix)]}
        if route is not None:
            if len(route.gateways) == 1:
                request["gateway"] = route.gateways[0]
            elif route.gateways:
                request["multipath"] = [{"gateway": gateway} for gateway in route.gateways]
            if route.link:
                request["oif"] = self._index(route.link)
            if route.source:
                request["prefsrc"] = route.source
        self.messages += 1
        self._ip.route(command, **request)

    def _is_ours(self, key: RouteKey) -> bool:
        return any(self._parse(message, family_of(key.prefix))[0] == key for message in self._dump(family_of(key.prefix)))

    def _index(self, link: str) -> int:
        found = self._ip.link_lookup(ifname=link)
        if not found:
            raise Stale(f"link {link} is not there")
        return int(found[0])

    def _parse(self, message: Any, family: Family) -> tuple[RouteKey, Route]:
        address = message.get("dst") or ("0.0.0.0" if family == 4 else "::")
        table = message.get("table") or message["table"]
        hops = message.get("multipath") or ()
        gateways = [hop.get("gateway") for hop in hops] or [message.get("gateway")]
        link = "" if message.get("gateway") or hops else self._name(message.get("oif"))
        found = Route(tuple(sorted(g for g in gateways if g)), link=link, source=message.get("prefsrc") or "")
        return RouteKey(f"{address}/{message['dst_len']}", table), found

    def _name(self, index: int | None) -> str:
        links = list(self._ip.get_links(index)) if index else []
        return str(links[0].get("ifname")) if links else ""

    def _dump(self, family: Family) -> list[Any]:
        try:
            found = self._ip.get_routes(family=AF[family], table=MAIN, proto=ROUTE_PROTOCOL)
            return [message for message in found if message["proto"] == ROUTE_PROTOCOL]
        except self._error as fault:
            raise Busy(f"cannot list routes: {fault}") from fault

    @property
    def _ip(self) -> Any:
        if self._netlink is None:
            from pyroute2 import IPRoute

            try:
                self._netlink = IPRoute()
            except OSError as fault:
                raise Busy(f"no rtnetlink socket: {fault}") from fault
        return self._netlink

    @property
    def _error(self) -> type[Exception]:
        from pyroute2 import NetlinkError

        error: type[Exception] = NetlinkError
        return error


def _like(found: Route, wish: Value | None) -> Route:
    """The found route as wanted where it meets what is wanted: a link or source that we leave open is not compared."""
    if not isinstance(wish, Route) or found.gateways != wish.gateways:
        return found
    return wish if wish.link in ("", found.link) and wish.source in ("", found.source) else found
