"""What people hear of annotations that were refused on their way in."""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.desired import Note
from kube_router.model.objects import Ref, Rejected


def rejections(about: Ref, rejected: Iterable[Rejected]) -> tuple[Note, ...]:
    """A note for each, with what is in force in its place."""
    return tuple(Note(about, "BadAnnotation", _words(fault)) for fault in rejected)


def _words(fault: Rejected) -> str:
    force = "the last good value stays in force" if fault.held else "it counts as absent"
    return f"annotation {fault.annotation}={fault.value}: {fault.reason}; {fault.advice}; until then {force}"
