"""Service addresses on our dummy link, each with a local route that gives the host the node's own address as source.

    packet to a VIP --> table local: local VIP dev kube-dummy-if src NODE --> INPUT --> IPVS

Without the source a process of the host would talk to a VIP from the VIP itself, and no other node could answer it.

- IPv4: our route takes the place of the one that the kernel makes for the address.
- IPv6: our route stands behind the kernel's own (metric 0), which has to go. The kernel makes it some milliseconds after the
  address, from a work queue; so we wait for it to come before we remove it.
- On removal the address goes first, then the route, which the kernel does not count as belonging to it.
- While the node's address is on no link the kernel accepts no route with it as source. So nothing is demanded then, and routes that
  have it are left as they are: VIPs are not taken down because the node's address flaps.
- UDP flows to an address from before it was here went past IPVS, and would for as long as their client sends: they end (flows.py).

It refuses to make the link (links.py), and to touch link-local addresses, which are the kernel's.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from socket import if_nametoindex
from typing import Final

from kube_router.apply.kernel.flows import Flows
from kube_router.apply.kernel.netlink_socket import ROUTE, Fault, NetlinkTarget
from kube_router.codec import addresses as codec
from kube_router.codec.conntrack import ANY_PORT, Flow
from kube_router.codec.netlink import Message, Reply
from kube_router.codec.routes import look_up
from kube_router.kit.errors import Stale
from kube_router.kit.net import FAMILIES, Family, family_of
from kube_router.model.names import DUMMY
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Address, AddressKey

_ROUTE_PATIENCE: Final = 10.0  # seconds until we give up waiting for the kernel's own routes
_ROUTE_PAUSE: Final = 0.002
_FEW: Final = 8  # up to so many addresses have their routes asked for one by one; for more all routes of the link are read
_NO_ADDRESS: Final = "none"  # scope of an address that is not there although its route is
_HOST_LENGTH: Final[dict[Family, int]] = {4: 32, 6: 128}
_LINK_LOCAL: Final = ("fe8", "fe9", "fea", "feb")  # fe80::/10

# A message with the error numbers that mean that the world is as it wants already.
_Step = tuple[Message, frozenset[int]]
_THERE: Final = frozenset({errno.EEXIST})
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV})


class AddressTarget(NetlinkTarget):
    """Addresses of one link, in the network namespace in which it was made. `flows` ends UDP flows; without it that is left to time."""

    kinds: tuple[type[Key], ...] = (AddressKey,)

    def __init__(self, link: str = DUMMY, *, flows: Flows | None = None) -> None:
        self._name = link
        self._flows = flows
        super().__init__(ROUTE)

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """All addresses of the link but link-local ones, and all leftover local routes over it (as addresses of scope "none")."""
        with self._lock:
            link = self._index()
            if link == 0:
                return {}
            found: dict[Key, Value] = {}
            for family in FAMILIES:
                sources = self._sources(family, link)
                for reply in self._dump(codec.dump_addresses(family, link=link)):
                    held = codec.parse_address(reply, link=link)
                    if held is None or _is_link_local(held.address):
                        continue
                    # The kernel chooses the scope of an IPv6 address: nothing to compare.
                    scope = held.scope if family == 4 else Address().scope
                    key = AddressKey(self._name, f"{held.address}/{held.length}")
                    found[key] = _demanded(Address(scope, sources.pop(held.address, "")), wanted.get(key))
                for address, source in sources.items():
                    if not _is_link_local(address):
                        found[AddressKey(self._name, f"{address}/{_HOST_LENGTH[family]}")] = Address(_NO_ADDRESS, source)
            return found

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make the changes in order. One that is refused half way is taken back whole. Stale when the link is missing."""
        with self._lock:
            link = self._index()
            if link == 0:
                if any(change.after is not None for change in changes):
                    raise Stale(f"link {self._name} is missing")
                return {}
            rejected, present = self._send([(change, step) for change in changes for step in _steps(change, link)])
            undone = [Change(change.key, None, None) for change in changes if change.key in rejected and change.after is not None]
            self._send([(change, step) for change in undone for step in _steps(change, link)])
            done = [change for change in changes if change.key not in rejected]
            self._leave_only_ours(done, link, present=present)
            return rejected | self._end_flows(done)

    def _send(self, steps: Sequence[tuple[Change, _Step]]) -> tuple[dict[Key, str], set[Key]]:
        """What was refused, and the addresses that were there already."""
        faults = self._socket.send([message for _, (message, _) in steps])
        rejected: dict[Key, str] = {}
        present: set[Key] = set()
        for n, fault in sorted(faults.items()):
            change, (message, settled) = steps[n]
            if fault.number not in settled:
                rejected.setdefault(change.key, _reason(change, message, fault))
            elif settled is _THERE:
                present.add(change.key)
        return rejected, present

    def _leave_only_ours(self, changes: Sequence[Change], link: int, *, present: set[Key]) -> None:
        """Remove the kernel's own routes of IPv6 addresses that got one of ours; of new addresses wait for them to appear."""
        sourced = {
            change.key.prefix.partition("/")[0]: change.key not in present
            for change in changes
            if isinstance(change.key, AddressKey) and family_of(change.key.prefix) == 6 and change.after is not None and change.after.source
        }
        until = time.monotonic() + _ROUTE_PATIENCE
        while sourced:
            routes = (codec.parse_local_route(reply, link=link) for reply in self._ask_for_routes(list(sourced), link))
            own = [r.address for r in routes if r is not None and r.metric == codec.KERNEL_METRIC and r.address in sourced]
            faults = self._socket.send([codec.delete_route(address, 6, link=link) for address in own])
            if any(fault.number not in _ABSENT for fault in faults.values()):
                raise Stale(f"the kernel's own routes of {self._name} cannot be removed: {next(iter(faults.values()))}")
            sourced = {address: is_new for address, is_new in sourced.items() if is_new and address not in own}
            if sourced and time.monotonic() > until:
                raise Stale(f"the kernel made no route for {len(sourced)} addresses of {self._name}")
            if sourced:
                time.sleep(_ROUTE_PAUSE)

    def _ask_for_routes(self, addresses: list[str], link: int) -> Iterable[Reply]:
        """Local routes of IPv6 addresses, the first of each at least."""
        if len(addresses) > _FEW:
            return self._dump(codec.dump_local_routes(6, link=link))
        found = []
        for address in addresses:
            with suppress(OSError):  # there is none yet
                found.append(self._socket.ask(look_up(f"{address}/{_HOST_LENGTH[6]}")))
        return found

    def _end_flows(self, changes: Sequence[Change]) -> dict[Key, str]:
        """UDP flows to new addresses that nobody but the address itself could have answered: none of them runs through IPVS."""
        new = {
            change.key: change.key.prefix.partition("/")[0]
            for change in changes
            if isinstance(change.key, AddressKey) and change.before is None and change.after is not None
        }
        flows = self._flows
        asked = (
            [] if flows is None else [Flow(address, ANY_PORT, address, ANY_PORT) for address in new.values() if address in flows.balanced]
        )
        if flows is None or not asked:
            return {}
        try:
            flows.end(asked)
        except OSError as fault:
            return dict.fromkeys(new, f"it is there, but UDP flows from before have not ended: {fault}")
        return {}

    def _index(self) -> int:
        try:
            return if_nametoindex(self._name)
        except OSError:
            return 0

    def _sources(self, family: Family, link: int) -> dict[str, str]:
        """Preferred source of each address's local route; of several the one that counts, which is that of least metric."""
        best: dict[str, codec.LocalRoute] = {}
        for reply in self._dump(codec.dump_local_routes(family, link=link)):
            route = codec.parse_local_route(reply, link=link)
            if route is not None and (route.address not in best or route.metric < best[route.address].metric):
                best[route.address] = route
        # The kernel's own IPv4 route names the address itself.
        return {address: "" if route.source == address else route.source for address, route in best.items()}

    def _dump(self, request: Message) -> list[Reply]:
        try:
            return self._socket.dump(request)
        except OSError as fault:
            raise Stale(f"addresses of {self._name} cannot be read: {fault}") from fault


def _steps(change: Change, link: int) -> Iterator[_Step]:
    assert isinstance(change.key, AddressKey)
    address, _, length = change.key.prefix.partition("/")
    family = family_of(address)
    before, after = change.before, change.after
    # Nothing but a new start gives an address another scope.
    renew = isinstance(before, Address) and isinstance(after, Address) and before.scope != after.scope
    if after is None or renew:
        yield codec.delete_address(address, family, length=int(length), link=link), _ABSENT
        yield codec.delete_route(address, family, link=link), _ABSENT
    if after is None:
        return
    assert isinstance(after, Address)
    yield codec.new_address(address, family, link=link, scope=after.scope), _THERE
    if after.source:
        yield codec.new_route(address, family, link=link, source=after.source), frozenset()


def _demanded(held: Address, wanted: Value | None) -> Address:
    """What is held, as far as anything is demanded: equal to what is wanted if that is met."""
    return Address(held.scope) if isinstance(wanted, Address) and not wanted.source else held


def _reason(change: Change, message: Message, fault: Fault) -> str:
    if codec.is_route(message) and isinstance(change.after, Address):
        return f"no local route with source {change.after.source}, which has to be an address of this node ({fault})"
    return str(fault)


def _is_link_local(address: str) -> bool:
    return address.startswith(_LINK_LOCAL)
