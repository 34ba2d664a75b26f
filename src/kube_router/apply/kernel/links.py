"""Links of ours: bridge and dummy, through rtnetlink (linux/if_link.h).

It makes a link, sets it up, and keeps the attributes that `Link` names; every other attribute belongs to whoever set it. A link
of our name and another kind is replaced. Addresses are not made here, only taken off a bridge whose ranges no longer hold them
(the CNI bridge plugin refuses a new range while an old address is there).
"""

from __future__ import annotations

import errno
import ipaddress
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kube_router.kit.errors import Busy
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Link, LinkKey
from kube_router.plan import ownership

_SCOPE_LINK: Final = 253  # RT_SCOPE_LINK: link-local IPv6 addresses belong to the kernel
_CALL: Final = ("br_nf_call_iptables", "br_nf_call_ip6tables")


class LinkTarget:
    """Links by name, in the network namespace in which the process runs."""

    kinds: tuple[type[Key], ...] = (LinkKey,)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._netlink: Any = None

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our links that exist. One that meets what is wanted of it is returned as wanted."""
        with self._lock:
            held: dict[Key, Value] = {}
            for name in ownership.LINKS:
                message = self._find(name)
                if message is not None:
                    key = LinkKey(name)
                    wish = wanted.get(key)
                    found = self._describe(message)
                    met = isinstance(wish, Link) and self._meets(message, wish)
                    held[key] = wish if met and isinstance(wish, Link) else found
            return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make, adapt or delete links; a refusal of one does not stop the others."""
        refused: dict[Key, str] = {}
        with self._lock:
            for change in changes:
                assert isinstance(change.key, LinkKey)
                try:
                    if change.after is None:
                        self._delete(change.key.name)
                    else:
                        self._put(change.key.name, change.after)
                except self._error as fault:
                    refused[change.key] = f"{fault}"
        return refused

    # -- netlink ------------------------------------------------------------------------------------------------------

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

    def _find(self, name: str) -> Any | None:
        try:
            return next(iter(self._ip.get_links(ifname=name)), None)
        except self._error as fault:
            if getattr(fault, "code", None) == errno.ENODEV:
                return None
            raise Busy(f"cannot look up link {name}: {fault}") from fault

    def _describe(self, message: Any) -> Link:
        kind = message.get(("linkinfo", "kind")) or ""
        calls = all(message.get(("linkinfo", "data", attribute)) for attribute in _CALL) if kind == "bridge" else False
        return Link(kind, mtu=message.get("mtu") or 0, filtered=calls)

    def _meets(self, message: Any, wish: Link) -> bool:
        found = self._describe(message)
        return (
            found.kind == wish.kind
            and bool(message["flags"] & 1)  # IFF_UP
            and wish.mtu in (0, found.mtu)
            and (found.filtered or not wish.filtered)
            and not (wish.only_in and self._strays(message["index"], wish.only_in))
        )

    def _strays(self, index: int, only_in: tuple[str, ...]) -> list[tuple[str, int]]:
        networks = [ipaddress.ip_network(cidr) for cidr in only_in]
        strays = []
        for message in self._ip.get_addr(index=index):
            if message["scope"] == _SCOPE_LINK:
                continue
            address = ipaddress.ip_address(message.get("address"))
            if not any(address in network for network in networks):
                strays.append((str(address), message["prefixlen"]))
        return strays

    def _put(self, name: str, wish: Link) -> None:
        message = self._find(name)
        if message is not None and self._describe(message).kind != wish.kind:
            self._ip.link("del", index=message["index"])
            message = None
        if message is None:
            self._ip.link("add", ifname=name, kind=wish.kind)
            message = self._find(name)
            if message is None:
                raise Busy(f"link {name} was made and went at once")
        index = message["index"]
        if wish.filtered and not self._describe(message).filtered:
            self._ip.link("set", index=index, kind=wish.kind, **dict.fromkeys(_CALL, 1))
        # The MTU only when it differs: writing it pins a bridge to it for all later ports.
        extra = {"mtu": wish.mtu} if wish.mtu not in (0, message.get("mtu")) else {}
        self._ip.link("set", index=index, state="up", **extra)
        for address, length in self._strays(index, wish.only_in) if wish.only_in else ():
            self._ip.addr("del", index=index, address=address, prefixlen=length)

    def _delete(self, name: str) -> None:
        message = self._find(name)
        if message is not None:
            self._ip.link("del", index=message["index"])
