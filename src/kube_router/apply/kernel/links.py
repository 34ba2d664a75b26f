"""Links of ours: bridge and dummy, through rtnetlink (linux/if_link.h).

It makes a link, sets it up, and keeps the attributes that `Link` names; every other attribute belongs to whoever set it. A link
of our name and another kind is replaced. Addresses are not made here, only taken off a bridge whose ranges no longer hold them
(the CNI bridge plugin refuses a new range while an old address is there).

Links are few and go through pyroute2, in a session for each call, since a session belongs to the thread that opened it. Addresses
are asked for by hand-packed messages: the kernel then answers for the one link, where the library reads those of the whole node.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kube_router.apply.kernel import bridge_filter
from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkSocket
from kube_router.codec import addresses as codec
from kube_router.codec import bridge_ports
from kube_router.kit.errors import Busy, Stale
from kube_router.kit.net import FAMILIES, contains, family_of
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Link, LinkKey
from kube_router.plan import ownership

_CALL: Final = ("br_nf_call_iptables", "br_nf_call_ip6tables")
_UP: Final = 1  # IFF_UP
# Somebody made or removed the link between our look and our message.
_MOVED: Final = frozenset({errno.ENODEV, errno.EEXIST, errno.ENXIO})


class LinkTarget:
    """Links by name, in the network namespace in which the process runs."""

    kinds: tuple[type[Key], ...] = (LinkKey,)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses = NetlinkSocket(ROUTE)

    def close(self) -> None:
        """Give the socket back."""
        self._addresses.close()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our links that exist. One that meets what is wanted of it is returned as wanted."""
        if any(isinstance(wish, Link) and wish.filtered for wish in wanted.values()):
            bridge_filter.load()
        held: dict[Key, Value] = {}
        with self._lock, _session() as rtnl:
            for name in ownership.LINKS:
                message = _find(rtnl, name)
                if message is not None:
                    key = LinkKey(name)
                    wish = wanted.get(key)
                    met = isinstance(wish, Link) and self._meets(message, wish)
                    held[key] = wish if met and isinstance(wish, Link) else _describe(message)
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make, adapt or delete links; a refusal of one does not stop the others. Stale when one comes or goes meanwhile."""
        from pyroute2 import NetlinkError

        refused: dict[Key, str] = {}
        with self._lock, _session() as rtnl:
            for change in changes:
                assert isinstance(change.key, LinkKey)
                try:
                    reason = _delete(rtnl, change.key.name) if change.after is None else self._put(rtnl, change.key.name, change.after)
                except NetlinkError as fault:
                    if fault.code in _MOVED:
                        raise Stale(f"link {change.key.name} changed under us: {fault}") from fault
                    reason = str(fault)
                if reason:
                    refused[change.key] = reason
        return refused

    def _meets(self, message: Any, wish: Link) -> bool:
        found = _describe(message)
        return (
            found.kind == wish.kind
            and found.up
            and wish.mtu in (0, found.mtu)
            and (found.filtered or not wish.filtered)
            and not (wish.hairpin and self._without_hairpin(message["index"]))
            and not self._strays(message["index"], wish.only_in)
        )

    def _put(self, rtnl: Any, name: str, wish: Link) -> str:
        """Make the link as wished; the reason where an address cannot be taken off."""
        message = _find(rtnl, name)
        if message is not None and _describe(message).kind != wish.kind:
            rtnl.link("del", index=message["index"])
            message = None
        if message is None:
            rtnl.link("add", ifname=name, kind=wish.kind)
            message = _find(rtnl, name)
            if message is None:
                raise Stale(f"link {name} was made and went at once")
        found, index = _describe(message), message["index"]
        if wish.filtered and not found.filtered:
            rtnl.link("set", index=index, kind=wish.kind, **dict.fromkeys(_CALL, 1))
        # Nothing but what differs: an MTU that is written pins a bridge to it for all later ports.
        attributes: dict[str, Any] = {} if wish.mtu in (0, found.mtu) else {"mtu": wish.mtu}
        if not found.up:
            attributes["state"] = "up"
        if attributes:
            rtnl.link("set", index=index, **attributes)
        if wish.hairpin:
            # A port that is gone by now needs nothing; one that cannot be changed is seen by the next look.
            self._addresses.send([bridge_ports.turn_on(port) for port in self._without_hairpin(index)])
        return self._take_off(index, self._strays(index, wish.only_in))

    def _without_hairpin(self, index: int) -> list[int]:
        """Ports of the bridge that keep frames from where they came."""
        try:
            ports = [bridge_ports.parse(reply) for reply in self._addresses.dump(bridge_ports.dump())]
        except OSError as fault:
            raise Stale(f"ports of bridges cannot be read: {fault}") from fault
        return [port.link for port in ports if port is not None and port.bridge == index and not port.hairpin]

    def _strays(self, index: int, only_in: tuple[str, ...]) -> list[codec.Held]:
        """Addresses of the link outside the CIDRs, but for those of link scope, which are the kernel's; none when no CIDR is named."""
        strays = []
        for family in FAMILIES if only_in else ():
            try:
                replies = self._addresses.dump(codec.dump_addresses(family, link=index))
            except OSError as fault:
                raise Stale(f"addresses of link {index} cannot be read: {fault}") from fault
            for reply in replies:
                held = codec.parse_address(reply, link=index)
                if held and held.scope != codec.SCOPE_NAMES[253] and not any(contains(cidr, held.address) for cidr in only_in):
                    strays.append(held)
        return strays

    def _take_off(self, index: int, strays: Sequence[codec.Held]) -> str:
        messages = [codec.delete_address(held.address, family_of(held.address), length=held.length, link=index) for held in strays]
        faults = self._addresses.send(messages)
        for n, fault in faults.items():
            # Taking off a primary address takes its secondary ones along (net.ipv4.conf.*.promote_secondaries = 0).
            if fault.number != errno.EADDRNOTAVAIL:
                return f"address {strays[n].address} cannot be taken off: {fault}"
        return ""


@contextmanager
def _session() -> Iterator[Any]:
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as rtnl:
            yield rtnl
    except NetlinkError as fault:
        raise Stale(f"links cannot be read: {fault}") from fault
    except OSError as fault:
        raise Busy(f"no rtnetlink socket: {fault}") from fault


def _find(rtnl: Any, name: str) -> Any | None:
    """The kernel's message about one link; asked for by name, since a node has hundreds."""
    from pyroute2 import NetlinkError

    try:
        return next(iter(rtnl.link("get", ifname=name)), None)
    except NetlinkError as fault:
        if fault.code == errno.ENODEV:
            return None
        raise


def _describe(message: Any) -> Link:
    kind = message.get(("linkinfo", "kind")) or ""
    calls = kind == "bridge" and all(message.get(("linkinfo", "data", attribute)) for attribute in _CALL)
    return Link(kind, mtu=message.get("mtu") or 0, filtered=calls, up=bool(message["flags"] & _UP))


def _delete(rtnl: Any, name: str) -> str:
    message = _find(rtnl, name)
    if message is not None:
        rtnl.link("del", index=message["index"])
    return ""
