"""What a cycle tells the world: log lines, metrics and Events, behind one small interface."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from kube_router.desired import Note
from kube_router.kit.errors import TargetError
from kube_router.model.state import Change, Key


class Report(Protocol):
    """Called by every cycle; must return at once and never raise."""

    def note(self, controller: str, note: Note) -> None:
        """Something new that the owner of an object should know."""

    def faulty(self, controller: str, item: Hashable, fault: Exception) -> None:
        """Desired state of an item could not be computed; its last good one stays in force."""

    def failed(self, controller: str, failure: TargetError) -> None:
        """A target failed as a whole; the pass ended and is tried again."""

    def rejected(self, controller: str, key: Key, owners: tuple[Hashable, ...], reason: str) -> None:
        """A target refused one change."""

    def drift(self, controller: str, key: Key) -> None:
        """A key was not as we left it, and is being repaired."""

    def wrote(self, controller: str, target: object, changes: Sequence[Change]) -> None:
        """These changes were acknowledged by a target."""
