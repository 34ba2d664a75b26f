"""Tunnels of the overlay, through batched rtnetlink messages; the attributes are codec/tunnels.py's.

What can be changed in a tunnel that stands is changed there, so that no packet finds it missing. Where the kernel wants a new link
for it (another kind, a VXLAN port), old link, new link and everything that was over the old one go as one batch: the new link
bears the old one's number, so that what it is told of routes and entries is what the kernel said of them before.

The kernel allows one tunnel between two addresses. One of ours under another name makes room; another's stays, and is named.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from socket import if_nametoindex
from typing import Final

from kube_router.apply.kernel.netlink_socket import ROUTE, Fault, NetlinkTarget
from kube_router.codec import neighbours
from kube_router.codec import routes as route_codec
from kube_router.codec import tunnels as codec
from kube_router.codec.netlink import CREATE, REPLACE, REQUEST, Message, Reply
from kube_router.codec.rtnetlink import NEW_ROUTE
from kube_router.kit.errors import Busy, Stale
from kube_router.kit.net import FAMILIES
from kube_router.model.names import OVERLAY_TABLE, VXLAN_LINK, is_tunnel
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.tunnels import Tunnel, TunnelKey

_TABLES: Final = (254, OVERLAY_TABLE)
_ABSENT: Final = frozenset({errno.ENODEV, errno.ENXIO})
# The kernel makes no such change to a link that stands.
_UNCHANGEABLE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY, errno.ERANGE})
_WORDS: Final = {
    errno.EOPNOTSUPP: "this kernel has no such tunnels",
    errno.EAFNOSUPPORT: "this kernel has no such tunnels",
    errno.EINVAL: "the kernel cannot make such a tunnel; for --overlay-encap=fou it needs the modules fou and fou6",
}


class TunnelTarget(NetlinkTarget):
    """Tunnels in the network namespace in which it was made."""

    kinds: tuple[type[Key], ...] = (TunnelKey,)

    def __init__(self) -> None:
        super().__init__(ROUTE)

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our tunnels, and links of other kinds that stand where one is wanted. An MTU is told as wanted where none is."""
        with self._lock:
            held: dict[Key, Value] = {}
            for link in self._links().values():
                key = TunnelKey(link.name)
                if _is_ours(link):
                    held[key] = _as_wished(link.tunnel, wanted.get(key))
                elif key in wanted:
                    held[key] = Tunnel(link.kind, local="")
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Change what stands first, so that addresses are free for what is new; refusals say what the kernel said."""
        with self._lock:
            standing = {change.key: number for change in changes if (number := _number(change))}
            changed = [change for change in changes if change.after is not None and change.key in standing]
            gone = [change for change in changes if change.after is None and change.key in standing]
            new = [change for change in changes if change.after is not None and change.key not in standing]
            refused: dict[Key, str] = {}
            self._change(changed, standing, refused)
            self._make(new, refused)
            faults = self._socket.send([codec.delete_link(standing[change.key]) for change in gone])
            refused |= {gone[n].key: str(fault) for n, fault in faults.items() if fault.number not in _ABSENT}
        return refused

    def _change(self, changes: Sequence[Change], standing: Mapping[Key, int], refused: dict[Key, str]) -> None:
        faults = self._socket.send([codec.change_tunnel(standing[change.key], change.after) for change in changes])
        for n, fault in faults.items():
            change = changes[n]
            if fault.number in _ABSENT:
                raise Stale(f"tunnel {_name(change)} went meanwhile")
            if fault.number == errno.EEXIST:
                self._make_room(change, refused)
            elif fault.number in _UNCHANGEABLE:
                self._renew(change, standing[change.key], refused)
            else:
                refused[change.key] = _reason(fault)
        done = [change for n, change in enumerate(changes) if n not in faults and change.after.kind == "ip6tnl" and change.after.mtu]
        self._socket.send([message for change in done for message in codec.tell_mtu(standing[change.key], change.after.mtu)])

    def _make(self, changes: Sequence[Change], refused: dict[Key, str]) -> None:
        faults = self._socket.send([codec.new_tunnel(_name(change), change.after) for change in changes])
        for n, fault in faults.items():
            if fault.number == errno.EEXIST:
                self._make_room(changes[n], refused)
            else:
                refused[changes[n].key] = _reason(fault)

    def _make_room(self, change: Change, refused: dict[Key, str]) -> None:
        """A tunnel between these addresses stands already, under this name (somebody was quicker) or another."""
        links = self._links()
        if _name(change) in links and links[_name(change)].tunnel is None:
            raise Stale(f"a link {_name(change)} came meanwhile")
        wish: Tunnel = change.after
        rivals = [link for link in links.values() if link.name != _name(change) and link.tunnel and _ends(link.tunnel) == _ends(wish)]
        if not rivals:
            raise Stale(f"tunnel {_name(change)} came or changed meanwhile")
        others = [link.name for link in rivals if not _is_ours(link)]
        if others:
            refused[change.key] = f"another's link {others[0]} is the tunnel from {wish.local} to {wish.remote or 'all'} already"
            return
        own = links.get(_name(change))
        away = [codec.delete_link(link.number) for link in rivals]
        put = codec.change_tunnel(own.number, wish) if own else codec.new_tunnel(_name(change), wish)
        self._all_or_reason([*away, put], change, refused)

    def _renew(self, change: Change, number: int, refused: dict[Key, str]) -> None:
        over = self._over(number)
        messages = [codec.delete_link(number), codec.new_tunnel(_name(change), change.after, index=number), *over]
        faults = self._socket.send(messages)
        if 1 in faults:
            refused[change.key] = _reason(faults[1])

    def _all_or_reason(self, messages: Sequence[Message], change: Change, refused: dict[Key, str]) -> None:
        faults = self._socket.send(messages)
        for fault in faults.values():
            refused[change.key] = _reason(fault)

    def _over(self, number: int) -> list[Message]:
        """Messages that make anew what is over a link: routes, and entries of a VXLAN link. The kernel's own come by themselves."""
        return [*self._routes_over(number), *self._entries_on(number)]

    def _routes_over(self, number: int) -> Iterator[Message]:
        for family in FAMILIES:
            for table in _TABLES:
                for reply in self._dump(route_codec.dump_routes(family, table=table)):
                    route = route_codec.parse_route(reply)
                    if route and route.table == table and route.protocol != _KERNEL and any(hop.link == number for hop in route.hops):
                        yield Message(NEW_ROUTE, REQUEST | CREATE | REPLACE, bytes(reply.payload))

    def _entries_on(self, number: int) -> Iterator[Message]:
        for family in (None, *FAMILIES):
            for reply in self._dump(neighbours.dump(number, family)):
                entry = neighbours.parse(reply)
                if entry and entry.link == number and entry.permanent and entry.address:
                    yield neighbours.put(number, entry.mac, entry.address, forwarding=entry.forwarding)

    def _links(self) -> dict[str, codec.FoundLink]:
        return {link.name: link for link in map(codec.parse_link, self._dump(codec.dump_links()))}

    def _dump(self, request: Message) -> list[Reply]:
        try:
            return self._socket.dump(request)
        except FileNotFoundError:
            return []  # a table in which nobody has put anything yet
        except OSError as fault:
            raise Busy(f"cannot list links: {fault}") from fault


_KERNEL: Final = 2  # RTPROT_KERNEL


def _number(change: Change) -> int:
    try:
        return if_nametoindex(_name(change))
    except OSError:
        return 0


def _name(change: Change) -> str:
    assert isinstance(change.key, TunnelKey)
    return change.key.name


def _is_ours(link: codec.FoundLink) -> bool:
    return is_tunnel(link.name) and link.tunnel is not None and (link.kind == "vxlan") == (link.name == VXLAN_LINK)


def _ends(tunnel: Tunnel) -> tuple[object, ...]:
    """What the kernel allows once: the ends of a tunnel; a VXLAN network's identifier and port."""
    return ("vxlan", tunnel.port) if tunnel.kind == "vxlan" else (tunnel.kind, tunnel.local, tunnel.remote)


def _as_wished(found: Tunnel | None, wish: Value | None) -> Value:
    assert found is not None
    if isinstance(wish, Tunnel) and wish.mtu == 0 and found.mtu:
        found = Tunnel(found.kind, found.local, found.remote, found.port, 0, found.mac, found.up, found.odd)
    return found


def _reason(fault: Fault) -> str:
    words = _WORDS.get(fault.number)
    return f"{words} ({fault})" if words else str(fault)
