"""A report that keeps nothing: what a bench wants of cycles is their outcome."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from kube_router.desired import Note
from kube_router.kit.errors import TargetError
from kube_router.model.state import Change, Key


class Quiet:
    """Takes everything, says nothing."""

    def note(self, controller: str, note: Note) -> None:
        """Nothing."""

    def faulty(self, controller: str, item: Hashable, fault: Exception) -> None:
        """A bug in what is measured: the figure would be worth nothing."""
        raise RuntimeError(f"{controller} cannot work out {item}") from fault

    def failed(self, controller: str, failure: TargetError) -> None:
        """Nothing: the outcome says it."""

    def rejected(self, controller: str, key: Key, owners: tuple[Hashable, ...], reason: str) -> None:
        """Named, since the outcome only counts it."""
        raise RuntimeError(f"{controller}: {key}, wanted by {owners}, was refused: {reason}")

    def drift(self, controller: str, key: Key) -> None:
        """Nothing."""

    def wrote(self, controller: str, target: object, changes: Sequence[Change]) -> None:
        """Nothing."""
