"""The service proxy: Services through IPVS, and what the node needs for them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import partial

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.control.marks import MarkBook
from kube_router.control.proxy_direct import DirectReturn
from kube_router.control.proxy_shared import HAIRPIN, ClusterPods, Hairpins
from kube_router.desired import NOTHING, Desired, obstacles
from kube_router.desired.external_ips import ranges
from kube_router.desired.proxy import hairpin
from kube_router.desired.proxy.context import About, Context, Obstacle, Rivals
from kube_router.desired.proxy.dsr import Backing
from kube_router.desired.proxy.marks import MarkOf
from kube_router.desired.proxy.node import node
from kube_router.desired.proxy.service import backing, virtual_servers
from kube_router.desired.proxy.surroundings import Surroundings, surroundings
from kube_router.model.objects import Claim, EndpointSlice, Kind, Name, Object, Ref, Service
from kube_router.model.state import Key
from kube_router.model.state.direct import DeliveryKey, MarkRuleKey, PodPortKey, PodTunnelKey, PodVipKey
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import AddressKey, LinkKey, SysctlKey
from kube_router.model.state.listeners import HealthPortKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey, SetKey, SetMember
from kube_router.plan import ownership

_NODE = ("node",)
_SELF = ("self",)


class ProxyController:
    """Items: every Service (by its Ref), pods of this node that answer clients directly, the node, pods that reach themselves, and those of
    proxy_shared.py.

    `kernel`: version and patch level of the running kernel. `marks`: the book of marks that Services are known by.
    """

    name = ownership.PROXY
    reads = frozenset({Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.INTERFACE})
    writes: tuple[type[Key], ...] = (
        LinkKey,
        SysctlKey,
        SetKey,
        SetMember,
        ChainKey,
        JumpKey,
        LeftoverKey,
        VirtualServerKey,
        DestinationKey,
        IpvsTimeoutsKey,
        AddressKey,
        DeliveryKey,
        MarkRuleKey,
        PodTunnelKey,
        PodVipKey,
        PodPortKey,
        HealthPortKey,
    )

    def __init__(self, options: Options, *, kernel: tuple[int, int], marks: MarkBook | None = None) -> None:
        self._options = options
        self._kernel = kernel
        self._own = Name("", options.node_name)
        # Derived from the view and kept between passes: links are many, and Services come one by one.
        self._around: Surroundings | None = None
        self._allowed = ranges(options)
        self._direct = DirectReturn(MarkBook() if marks is None else marks)
        self._pods = ClusterPods(options)
        self._hairpins = Hairpins(options)
        self._lookups: tuple[View, Rivals, Obstacle, About, About] | None = None

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """A slice touches its Service, a Service itself and those that claim what it claims or claimed; the node's own
        addresses touch the node, and those Services that depend on them. Who touches a Service touches its pods here."""
        self._direct.reserve(changes, view)
        items = set(self._touched(changes, view))
        yield from self._pods.touched(changes, view)
        if self._hairpins.concerned(changes, items, view) or _NODE in items:
            yield HAIRPIN
        for item in items:
            yield item
            if isinstance(item, Ref) and item.kind is Kind.SERVICE and self._around is not None:
                yield from self._direct.backings(item.name, self._around, view)

    def _touched(self, changes: Changes, view: View) -> Iterator[Hashable]:
        if self._around is None or any(self._is_ours(ref) for ref in changes):
            yield from self._look_around(view)
        assert self._around is not None
        owners = [(ref, before) for ref, before in changes.items() if ref.kind in (Kind.NODE, Kind.INTERFACE)]
        yield from obstacles.concerned(((before, view.store(ref.kind).get(ref.name)) for ref, before in owners), view)
        yield from self._direct.concerned(changes, view)
        for ref, before in changes.items():
            if ref.kind is Kind.SERVICE:
                yield ref
                yield from _rivals(before, view.services.get(ref.name), self._around, view)
            elif ref.kind is Kind.ENDPOINT_SLICE:
                yield from _services_of(before, view.slices.get(ref.name))

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/proxy/."""
        assert self._around is not None, "touched() comes first"
        if isinstance(item, Ref | Backing):
            return self._of_service(item, view)
        if item == _NODE:
            return node(self._around, self._options, self._kernel)
        if item == _SELF:
            return Desired(hairpin.to_themselves(self._around))
        if item == HAIRPIN:
            return self._hairpins.want(view, self._context(view, self._direct.marks.asking()[0]))
        shared = self._pods.want(item, view)
        assert shared is not None, item
        return shared

    def _of_service(self, item: Ref | Backing, view: View) -> Desired:
        """What a Service comes to, or one pod behind it."""
        service = view.services.get(item.about.name if isinstance(item, Backing) else item.name)
        if service is None:
            self._direct.marks.use(item, set())
            return NOTHING
        mark_of, asked = self._direct.marks.asking()
        given = view.slices.by("service", service.name), self._context(view, mark_of)
        found = backing(service, item.address, *given) if isinstance(item, Backing) else virtual_servers(service, *given)
        self._direct.marks.use(item, asked)
        return found

    def claim_of(self, mark: int) -> Claim | None:
        """What clients ask for whose packets bear a mark. From any thread."""
        holder = self._direct.marks.holder(mark)
        return None if holder is None else holder.claim

    def _context(self, view: View, mark_of: MarkOf) -> Context:
        assert self._around is not None
        if self._lookups is None or self._lookups[0] is not view:
            self._lookups = (
                view,
                partial(view.services.each, "claim"),
                partial(obstacles.obstacle, own=self._own.name, view=view),
                partial(view.nodes.has, "address"),
                partial(view.services.has, "direct"),
            )
        _, rivals, obstacle, is_node, is_direct = self._lookups
        return Context(self._around, self._options, self._allowed, rivals, obstacle, mark_of, is_node, is_direct)

    def _is_ours(self, ref: Ref) -> bool:
        return ref.kind is Kind.INTERFACE or (ref.kind is Kind.NODE and ref.name == self._own)

    def _look_around(self, view: View) -> Iterator[Hashable]:
        before = self._around
        now = surroundings(
            self._own.name,
            view.nodes.get(self._own),
            view.interfaces.values(),
            self._options.families,
            everywhere=self._options.nodeport_bindon_all_ip,
        )
        self._around = now
        if now == before:
            return
        yield _NODE
        yield _SELF
        if before is None or _concern_all(before) != _concern_all(now):
            yield from (Ref(Kind.SERVICE, name) for name in view.services)
            return
        if before.mtu != now.mtu:
            yield from self._direct.all(view)
        moved = before.own ^ now.own
        for address in moved:
            yield from (Ref(Kind.SERVICE, service.name) for service in view.services.each("address", address))
        if moved:
            yield from _served_by(moved, view)


def _concern_all(around: Surroundings) -> tuple[object, ...]:
    return around.primary, around.sources, around.node_ports, around.zone


def _served_by(addresses: frozenset[str], view: View) -> Iterator[Ref]:
    """Services with endpoints of which only the address says on which node they are."""
    for piece in view.slices.values():
        if any(not endpoint.node_name and not addresses.isdisjoint(endpoint.addresses) for endpoint in piece.endpoints):
            yield Ref(Kind.SERVICE, piece.service)


def _rivals(before: Object | None, now: Object | None, around: Surroundings, view: View) -> Iterator[Ref]:
    at_node = [address for addresses in around.node_ports.values() for address in addresses]
    for service in (before, now):
        if isinstance(service, Service):
            for claim in service.claims():
                claims = [claim]
                if not claim.address:
                    claims += (claim._replace(address=address) for address in at_node)
                elif claim.address in at_node:
                    claims.append(claim._replace(address=""))
                for rival in (rival for one in claims for rival in view.services.each("claim", one)):
                    if rival is not service:
                        yield Ref(Kind.SERVICE, rival.name)


def _services_of(*pieces: Object | None) -> Iterator[Ref]:
    for piece in pieces:
        if isinstance(piece, EndpointSlice):
            yield Ref(Kind.SERVICE, piece.service)
