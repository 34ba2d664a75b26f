"""Permanent entries of the VXLAN link: where each node is (forwarding table), and which link-layer address its addresses have."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from socket import if_nametoindex
from typing import Final

from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkTarget
from kube_router.codec import neighbours as codec
from kube_router.codec.netlink import Message
from kube_router.kit.errors import Busy
from kube_router.kit.net import FAMILIES
from kube_router.model.names import VXLAN_LINK
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.tunnels import Fdb, FdbKey, Neighbour, NeighbourKey

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO})


class NeighbourTarget(NetlinkTarget):
    """Entries in the network namespace in which it was made."""

    kinds: tuple[type[Key], ...] = (FdbKey, NeighbourKey)

    def __init__(self) -> None:
        super().__init__(ROUTE)

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """All permanent entries of our link."""
        del wanted
        with self._lock:
            held: dict[Key, Value] = {}
            link = _number(VXLAN_LINK)
            for entry in self._entries(link) if link else ():
                if entry.forwarding:
                    held[FdbKey(VXLAN_LINK, entry.mac)] = Fdb(entry.address)
                else:
                    held[NeighbourKey(VXLAN_LINK, entry.address)] = Neighbour(entry.mac)
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make, replace, delete, in order."""
        refused: dict[Key, str] = {}
        with self._lock:
            sent: list[Change] = []
            messages: list[Message] = []
            for change in changes:
                link = _number(_link_of(change.key))
                if link:
                    sent.append(change)
                    messages.append(_message(change, link))
                elif change.after is not None:
                    refused[change.key] = "its link is not there"
            for n, fault in self._socket.send(messages).items():
                if sent[n].after is not None or fault.number not in _ABSENT:
                    refused[sent[n].key] = str(fault)
        return refused

    def _entries(self, link: int) -> Iterator[codec.Entry]:
        for family in (None, *FAMILIES):
            try:
                replies = self._socket.dump(codec.dump(link, family))
            except OSError as fault:
                if fault.errno in _ABSENT:
                    return
                raise Busy(f"cannot list entries of {VXLAN_LINK}: {fault}") from fault
            for reply in replies:
                entry = codec.parse(reply)
                if entry is not None and entry.link == link and entry.permanent and entry.address and entry.mac:
                    yield entry


def _message(change: Change, link: int) -> Message:
    match change.key, change.after or change.before:
        case FdbKey(mac=mac), Fdb(remote=remote):
            address, forwarding = remote, True
        case NeighbourKey(address=address), Neighbour(mac=mac):
            forwarding = False
        case _:
            raise AssertionError(f"{change.key} is no entry of a link")
    if change.after is None:
        return codec.delete(link, mac, address, forwarding=forwarding)
    return codec.put(link, mac, address, forwarding=forwarding)


def _link_of(key: Key) -> str:
    assert isinstance(key, FdbKey | NeighbourKey)
    return key.link


def _number(link: str) -> int:
    try:
        return if_nametoindex(link)
    except OSError:
        return 0
