"""Items of the service proxy that are about many Services at once, and when they are touched.

The chain of hairpin rules is one item, since rules of one chain are one key: it costs the Services with backends on this node, of which
there are no more than there are pods. The pods of every other node are an item each, wanted as long as any Service has a traffic policy
of Local, by which clients inside the cluster are told from those outside.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Final

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired
from kube_router.desired.proxy import hairpin, marked
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.frontends import policies
from kube_router.desired.proxy.service import bindings, is_served
from kube_router.model.objects import Kind, Name, Ref, Service

HAIRPIN: Final = ("hairpin",)
_PODS: Final = "pods"


class Hairpins:
    """The chain of hairpin rules with the pods that it is for: one item."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._here: dict[Name, Name] = {}  # slices with endpoints on this node, and their Services; of the view as it was last seen

    def concerned(self, changes: Changes, touched: Iterable[Hashable], view: View) -> bool:
        """Whether the item may have changed with these changes and the items that they touch."""
        for ref in changes:
            if ref.kind is Kind.ENDPOINT_SLICE:
                piece = view.slices.get(ref.name)
                if piece is not None and any(endpoint.node_name == self._options.node_name for endpoint in piece.endpoints):
                    self._here[ref.name] = piece.service
                else:
                    self._here.pop(ref.name, None)
        now = (view.services.get(item.name) for item in touched if isinstance(item, Ref))
        before = (value for ref, value in changes.items() if ref.kind is Kind.SERVICE)
        return any(isinstance(service, Service) and hairpin.asks(service, self._options) for some in (now, before) for service in some)

    def want(self, view: View, context: Context) -> Desired:
        """All Services with backends on this node that ask for it."""
        found = (service for name in set(self._here.values()) if (service := view.services.get(name)) is not None)
        asking = [service for service in found if is_served(service) and hairpin.asks(service, self._options)]
        every = (one for service in asking for one, _ in bindings(service, view.slices.by("service", service.name), context, []))
        return Desired(hairpin.chains(every, self._options))


class ClusterPods:
    """Pods of all nodes, an item a node."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._local: set[Name] = set()  # Services with a policy of Local, of the view as it was last seen

    def touched(self, changes: Changes, view: View) -> Iterator[Hashable]:
        """Nodes that changed; all of them with the first Service that needs them, and the last."""
        needed = bool(self._local)
        for ref in changes:
            if ref.kind is Kind.SERVICE:
                service = view.services.get(ref.name)
                if service is not None and is_served(service) and policies(service)[1] == "Local":
                    self._local.add(ref.name)
                else:
                    self._local.discard(ref.name)
        if bool(self._local) != needed:
            yield from ((_PODS, name) for name in view.nodes)
        if self._local:
            yield from ((_PODS, ref.name) for ref in changes if ref.kind is Kind.NODE)

    def want(self, item: Hashable, view: View) -> Desired | None:
        """What an item comes to; None when it is not one of these."""
        match item:
            case (kind, Name() as name) if kind == _PODS:
                node = view.nodes.get(name)
                return NOTHING if node is None or not self._local else Desired(marked.pods_of(node, self._options.families))
        return None
