"""Which faults of objects stand at present, so that each is told once: a relist repeats them all, people need not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kube_router.codec.objects import Decoded
from kube_router.codec.objects_fault import Fault
from kube_router.model.objects import Ref


class FaultBook:
    """Faults by source and object. Its methods return those that did not stand before."""

    def __init__(self) -> None:
        self._standing: dict[object, dict[Ref, tuple[Fault, ...]]] = {}

    def listed(self, source: object, items: Sequence[Decoded]) -> list[Fault]:
        """A complete list: faults of objects that are not in it are gone."""
        before = self._standing.get(source, {})
        self._standing[source] = {item.ref: item.faults for item in items if item.faults}
        return [fault for item in items for fault in item.faults if fault not in before.get(item.ref, ())]

    def heard(self, source: object, item: Decoded) -> list[Fault]:
        """One object, as it is now."""
        faults = self._standing.setdefault(source, {})
        before = faults.pop(item.ref, ())
        if item.faults:
            faults[item.ref] = item.faults
        return [fault for fault in item.faults if fault not in before]

    def gone(self, source: object, ref: Ref) -> None:
        """One object is no more."""
        self._standing.get(source, {}).pop(ref, None)

    def __iter__(self) -> Iterator[Fault]:
        for faults in self._standing.values():
            for found in faults.values():
                yield from found
