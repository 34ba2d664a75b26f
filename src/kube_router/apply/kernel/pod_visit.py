"""Tunnel link and addresses in one pod, seen from inside it: to be used in a thread that is in the pod's network namespace.

The link is the original's, so that one that it made is simply kept: IP in IP, or an IPv6 tunnel, from the pod's address to anybody. Its
reverse path filter must not be strict, for clients are reached over eth0; loose is enough, and nothing else in the pod need change.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import Final

from kube_router.apply.kernel.netlink_socket import ROUTE, Fault, NetlinkSocket
from kube_router.codec import addresses, tunnels
from kube_router.kit.net import FAMILIES, Family, family_of
from kube_router.model.names import POD_TUNNELS
from kube_router.model.state import Change, State
from kube_router.model.state.direct import PodTunnel, PodTunnelKey, PodVip, PodVipKey
from kube_router.model.state.tunnels import Tunnel

_KINDS: Final[dict[Family, str]] = {4: "ipip", 6: "ip6tnl"}
_GONE: Final = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO})
_STRICT, _LOOSE = "1", "2"  # rp_filter
_NO_TUNNELS: Final = {
    4: "this kernel has no IP-in-IP tunnels (module ipip)",
    6: "this kernel has no IPv6 tunnels (module ip6_tunnel)",
}


class Visit:
    """One look and some work, with a socket of the namespace. Raises OSError and what the socket raises."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(ROUTE)
        self._links: dict[str, tunnels.FoundLink] | None = None

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def held(self) -> State:
        """Tunnels that do what they are for, and addresses of Services on them."""
        state: State = {}
        for family in FAMILIES:
            link = self._find(family)
            pod = link.tunnel.local if link is not None and link.tunnel is not None else ""
            if link is None or not pod:
                continue
            if self._serves(link, pod):
                state[PodTunnelKey(pod)] = PodTunnel()
            for reply in self._socket.dump(addresses.dump_addresses(family, link=link.number)):
                address = addresses.parse_address(reply, link=link.number)
                if address is not None and not address.address.startswith("fe80:"):
                    state[PodVipKey(pod, address.address)] = PodVip()
        return state

    def make(self, change: Change) -> str:
        """Make one change; the reason where it cannot be made."""
        if isinstance(change.key, PodTunnelKey):
            return self._remove(change.key.pod) if change.after is None else self._put(change.key.pod)
        assert isinstance(change.key, PodVipKey)
        return self._address(change.key, there=change.after is not None)

    def _put(self, pod: str) -> str:
        family = family_of(pod)
        name, link = POD_TUNNELS[family], self._find(family)
        if link is not None and not self._serves(link, pod):
            self._socket.send([tunnels.delete_link(link.number)])
            link = self._links = None
        if link is None:
            faults = self._socket.send([tunnels.new_tunnel(name, Tunnel(_KINDS[family], pod))])
            self._links = None
            if faults:
                return _words(faults[0], family)
        return _loosen(name) if family == 4 else ""

    def _remove(self, pod: str) -> str:
        link = self._find(family_of(pod))
        if link is None or link.tunnel is None or link.tunnel.local != pod:
            return ""
        faults = self._socket.send([tunnels.delete_link(link.number)])
        self._links = None
        return "".join(str(fault) for fault in faults.values() if fault.number not in _GONE)

    def _address(self, key: PodVipKey, *, there: bool) -> str:
        family = family_of(key.vip)
        link = self._find(family)
        if link is None:
            return "the pod has no tunnel for it" if there else ""
        length = 32 if family == 4 else 128
        if there:
            message = addresses.new_address(key.vip, family, link=link.number, scope="link")
        else:
            message = addresses.delete_address(key.vip, family, length=length, link=link.number)
        faults = self._socket.send([message])
        settled = {errno.EEXIST} if there else _GONE
        return "".join(str(fault) for fault in faults.values() if fault.number not in settled)

    def _find(self, family: Family) -> tunnels.FoundLink | None:
        if self._links is None:
            self._links = {link.name: link for link in map(tunnels.parse_link, self._socket.dump(tunnels.dump_links()))}
        return self._links.get(POD_TUNNELS[family])

    def _serves(self, link: tunnels.FoundLink, pod: str) -> bool:
        found, family = link.tunnel, family_of(pod)
        if found is None or (found.kind, found.local, found.remote, found.port) != (_KINDS[family], pod, "", 0) or not found.up:
            return False
        return family == 6 or not _is_strict(link.name)


def _is_strict(link: str) -> bool:
    """Whether the kernel drops on this link what it would not answer over it: the stricter of its own setting and that of all links."""
    return max(_filter("all"), _filter(link)) == _STRICT


def _loosen(link: str) -> str:
    if not _is_strict(link):
        return ""
    try:
        _path(link).write_text(_LOOSE)
    except OSError as fault:
        return f"rp_filter of {link} in the pod cannot be set to {_LOOSE}: {fault.strerror}"
    return ""


def _filter(link: str) -> str:
    with suppress(OSError):
        return _path(link).read_text().strip()
    return "0"


def _path(link: str) -> Path:
    return Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter")


def _words(fault: Fault, family: Family) -> str:
    if fault.number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOTSUP):
        return f"{_NO_TUNNELS[family]} ({fault})"
    return str(fault)
