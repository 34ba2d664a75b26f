"""What this node tells the others about itself: the addresses that pod traffic reaches it by, as an annotation on its own Node.

A controller of its own, for it writes to the API server: while that is away nothing else must wait for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.routing.datapath import publication
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state import Key
from kube_router.model.state.cluster import AnnotationKey
from kube_router.plan import ownership


class DatapathController:
    """One item: our own Node."""

    name = ownership.DATAPATH
    reads = frozenset({Kind.NODE, Kind.INTERFACE})
    writes: tuple[type[Key], ...] = (AnnotationKey,)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._own = Ref(Kind.NODE, Name("", options.node_name))

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """Our own Node and our links."""
        del view
        if not changes or any(ref == self._own or ref.kind is Kind.INTERFACE for ref in changes):
            yield self._own

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/datapath.py."""
        assert item == self._own
        return publication(view.nodes.get(self._own.name), tuple(view.interfaces.values()), self._options)
