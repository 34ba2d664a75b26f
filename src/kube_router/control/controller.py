"""What a controller and a target are, for the loop that drives them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kube_router.cache.cache import Changes, View
from kube_router.desired import Desired
from kube_router.model.objects import Kind
from kube_router.model.state import Change, Key, Value
from kube_router.plan.ledger import Ledger

Call = Callable[..., Awaitable[Any]]  # calls a function that blocks somewhere where it may


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


class Keeper(Protocol):
    """Keeps some of what no item wants any more for a while: it is asked before anything is removed.

    What it keeps it wants by items of its own in the ledger, with a priority behind all others; so who wants a key again simply has it.
    """

    async def look(self, call: Call) -> None:
        """Read what its decisions need, at its own pace. Nothing that it cannot read may fail a pass."""

    def keep(self, ledger: Ledger) -> None:
        """Adjust what its items want. What is held is known by now; what is pending to be removed is not wanted by anybody else."""

    def again(self) -> float | None:
        """Seconds until it wants to be asked again; None when it keeps nothing."""
