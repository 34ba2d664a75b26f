"""Pods of this node whose address is in none of its ranges any more, since the ranges changed: nobody routes to them.

Nothing can be done for them but to make them anew, so each gets an Event. A controller of its own, that writes nothing: no network waits
for a list of pods.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.routing.stranded import stranded
from kube_router.model.objects import Kind, Name, Node, Pod, Ref
from kube_router.model.state import Key
from kube_router.plan import ownership


class StrandedController:
    """Items: the pods of this node."""

    name = ownership.STRANDED
    reads = frozenset({Kind.NODE, Kind.POD})
    writes: tuple[type[Key], ...] = ()

    def __init__(self, options: Options) -> None:
        self._families = options.families
        self._own = Name("", options.node_name)

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """A pod of this node touches itself; other ranges of this node touch all its pods."""
        for ref, before in changes.items():
            if ref.kind is Kind.POD:
                if any(isinstance(pod, Pod) and pod.node_name == self._own.name for pod in (before, view.pods.get(ref.name))):
                    yield ref
            elif ref.name == self._own:
                now = view.nodes.get(self._own)
                if not isinstance(before, Node) or now is None or before.pod_cidrs != now.pod_cidrs:
                    yield from (Ref(Kind.POD, pod.name) for pod in view.pods.each("node", self._own.name))

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/stranded.py."""
        assert isinstance(item, Ref)
        return stranded(view.pods.get(item.name), view.nodes.get(self._own), self._families)
