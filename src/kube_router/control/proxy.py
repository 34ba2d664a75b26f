"""The service proxy: Services through IPVS, and what the node needs for them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import partial

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired
from kube_router.desired.proxy.node import node
from kube_router.desired.proxy.service import virtual_servers
from kube_router.desired.proxy.surroundings import Surroundings, surroundings
from kube_router.model.objects import EndpointSlice, Kind, Name, Object, Ref, Service
from kube_router.model.state import Key
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from kube_router.model.state.links import AddressKey, LinkKey, SysctlKey
from kube_router.model.state.listeners import HealthPortKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, SetKey, SetMember
from kube_router.plan import ownership

_NODE = ("node",)


class ProxyController:
    """Items: every Service (by its Ref), and the node. `kernel`: version and patch level of the running kernel."""

    name = ownership.PROXY
    reads = frozenset({Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.INTERFACE})
    writes: tuple[type[Key], ...] = (
        LinkKey,
        SysctlKey,
        SetKey,
        SetMember,
        ChainKey,
        JumpKey,
        VirtualServerKey,
        DestinationKey,
        AddressKey,
        HealthPortKey,
    )

    def __init__(self, options: Options, *, kernel: tuple[int, int]) -> None:
        self._options = options
        self._kernel = kernel
        self._own = Name("", options.node_name)
        # Derived from the view and kept between passes: links are many, and Services come one by one.
        self._around: Surroundings | None = None

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """A slice touches its Service, a Service itself and those that claim what it claims or claimed; the node's own
        addresses touch the node, and those Services that depend on them."""
        if self._around is None or any(self._is_ours(ref) for ref in changes):
            yield from self._look_around(view)
        for ref, before in changes.items():
            if ref.kind is Kind.SERVICE:
                yield ref
                yield from _rivals(before, view.services.get(ref.name), view)
            elif ref.kind is Kind.ENDPOINT_SLICE:
                yield from _services_of(before, view.slices.get(ref.name))

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/proxy/."""
        assert self._around is not None, "touched() comes first"
        if item == _NODE:
            return node(self._around, self._options, self._kernel)
        assert isinstance(item, Ref)
        service = view.services.get(item.name)
        if service is None:
            return NOTHING
        return virtual_servers(service, view.slices.by("service", item.name), self._around, partial(view.services.each, "claim"))

    def _is_ours(self, ref: Ref) -> bool:
        return ref.kind is Kind.INTERFACE or (ref.kind is Kind.NODE and ref.name == self._own)

    def _look_around(self, view: View) -> Iterator[Hashable]:
        before = self._around
        now = surroundings(self._own.name, view.nodes.get(self._own), view.interfaces.values(), self._options.families)
        self._around = now
        if now == before:
            return
        yield _NODE
        if before is None or (before.primary, before.sources) != (now.primary, now.sources):
            yield from (Ref(Kind.SERVICE, name) for name in view.services)
            return
        moved = before.local ^ now.local
        if moved:
            for service in view.services.values():
                if not moved.isdisjoint(service.cluster_ips):
                    yield Ref(Kind.SERVICE, service.name)


def _rivals(before: Object | None, now: Object | None, view: View) -> Iterator[Ref]:
    for service in (before, now):
        if isinstance(service, Service):
            for claim in service.claims():
                for rival in view.services.each("claim", claim):
                    if rival is not service:
                        yield Ref(Kind.SERVICE, rival.name)


def _services_of(*pieces: Object | None) -> Iterator[Ref]:
    for piece in pieces:
        if isinstance(piece, EndpointSlice):
            yield Ref(Kind.SERVICE, piece.service)
