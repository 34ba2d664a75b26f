"""Services that are answered directly (desired/proxy/dsr.py): which items a change touches beside the Services themselves, and the book
of marks that they and others are known by.

Every pod of this node that is a backend of such a Service is an item of its own. A Service that asks for direct return decides for its
addresses how all Services are served there, so it touches them all.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, TypeGuard

from kube_router.cache.cache import Changes, View
from kube_router.codec import annotations as said
from kube_router.control.marks import Holder, MarkBook, NoMark
from kube_router.desired.proxy.dsr import Backing
from kube_router.desired.proxy.endpoints import is_here
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.kit.errors import TargetError
from kube_router.model.objects import Kind, Name, Node, Object, Ref, Service

_RESERVED: Final = "reserved"


class DirectReturn:
    """Items of one controller; what it remembers of the view is which pods there were items for."""

    def __init__(self, marks: MarkBook) -> None:
        self.marks = marks
        self._pods: dict[Name, frozenset[str]] = {}

    def concerned(self, changes: Changes, view: View) -> Iterator[Ref]:
        """Services that a change concerns because of direct return: those that share an address with one, and all of them where an
        endpoint may have become one in a node's own network, or ceased to be."""
        addresses: set[str] = set()
        for ref, before in changes.items():
            if ref.kind is Kind.SERVICE:
                for service in (before, view.services.get(ref.name)):
                    if _is_direct(service):
                        addresses.update(service.addresses())
        for address in addresses:
            yield from (Ref(Kind.SERVICE, service.name) for service in view.services.each("address", address))
        if any(_addresses(before) != _addresses(view.nodes.get(ref.name)) for ref, before in changes.items() if ref.kind is Kind.NODE):
            yield from self.all(view)

    def all(self, view: View) -> Iterator[Ref]:
        """All that ask for it."""
        return (Ref(Kind.SERVICE, service.name) for service in view.services.each("direct", True))

    def reserve(self, changes: Changes, view: View) -> None:
        """Marks for Services that changed, in an order that depends on nothing but the Services. What an earlier run left and nobody has
        asked for by now is free again."""
        self.marks.settle()
        for name in sorted(ref.name for ref in changes if ref.kind is Kind.SERVICE):
            service = view.services.get(name)
            holders = {Holder(claim, "direct") for claim in service.claims_outside()} if _is_direct(service) else set()
            try:
                for holder in sorted(holders):
                    self.marks.mark(holder)
            except (TargetError, NoMark):
                return  # what is found then cannot be found now: who asks for a mark hears of it, and asks again
            self.marks.use((_RESERVED, name), holders)

    def backings(self, name: Name, around: Surroundings, view: View) -> Iterator[Hashable]:
        """Items of the pods of a Service that is touched: those that are there, and those that were."""
        before = self._pods.get(name, frozenset())
        now = _pods(name, around, view) if _is_direct(view.services.get(name)) else frozenset()
        if now:
            self._pods[name] = now
        elif before:
            del self._pods[name]
        return (Backing(Ref(Kind.SERVICE, name), address) for address in before | now)


def _pods(name: Name, around: Surroundings, view: View) -> frozenset[str]:
    return frozenset(
        address
        for piece in view.slices.each("service", name)
        for endpoint in piece.endpoints
        if is_here(endpoint, around)
        for address in endpoint.addresses
    )


def _is_direct(service: Object | None) -> TypeGuard[Service]:
    return isinstance(service, Service) and said.is_direct(service.annotations)


def _addresses(node: Object | None) -> tuple[str, ...]:
    return node.addresses if isinstance(node, Node) else ()
