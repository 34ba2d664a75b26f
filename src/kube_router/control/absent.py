"""A controller that is switched off: it wants nothing, so one pass of it removes what an earlier run left.

The same pass, over every controller, is the cleanup. It reads nothing from the API server.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from kube_router.cache.cache import Changes, View
from kube_router.desired import NOTHING, Desired
from kube_router.model.objects import Kind
from kube_router.model.state import Key


class Absent:
    """Stands in for the controller of this name; `spare` names kinds of key that stay where they are."""

    def __init__(self, name: str, writes: tuple[type[Key], ...], *, spare: tuple[type[Key], ...] = ()) -> None:
        self.name = name
        self.writes = tuple(kind for kind in writes if kind not in spare)
        self.reads: frozenset[Kind] = frozenset()

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """Nothing ever is."""
        del changes, view
        return ()

    def want(self, item: Hashable, view: View) -> Desired:
        """Nothing."""
        del item, view
        return NOTHING
