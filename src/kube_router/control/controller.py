"""What a controller and a target are, for the loop that drives them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol

from kube_router.cache.cache import Changes, View
from kube_router.desired import Desired
from kube_router.model.objects import Kind
from kube_router.model.state import Change, Key, Value


class Controller(Protocol):
    """Knows which items a change touches and, through `desired`, what an item comes to."""

    @property
    def name(self) -> str:
        """Owner name, as in plan/ownership.py."""

    @property
    def reads(self) -> frozenset[Kind]:
        """Kinds that must have been listed before anything is written."""

    @property
    def writes(self) -> tuple[type[Key], ...]:
        """Kinds of key that it wants."""

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """Items whose answer these changes may alter; costs what the changes concern, not what exists."""

    def want(self, item: Hashable, view: View) -> Desired:
        """What the item comes to now; `NOTHING` for an item that is gone. Pure: the answer depends on the view alone."""


class Target(Protocol):
    """One kernel, speaker or file resource. Called from worker threads, by one controller at a time per instance lock."""

    @property
    def kinds(self) -> tuple[type[Key], ...]:
        """Kinds of key that it holds."""

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Everything it holds that is ours, in the vocabulary of desired state.

        `wanted` is what one controller wants of these kinds: for shared things (sysctls, files, the MTU of a link) it says
        what to look at, and a wanted value whose demands are met is returned as wanted. Raises Busy or Stale.
        """

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make all changes, in this order; returns those that were refused, with the reason. Raises Busy, Stale, Rejected.

        Applying twice changes nothing the second time; deleting the absent succeeds; creating the existing makes it equal.
        """
