"""The book of marks: who has which, so that no two have the same and none changes while it is used.

A mark outlives a restart, for connections hang on it: what an earlier run or the original left is looked up once, before the first
mark is given. That is the one memory that the proxy has beside the objects. Who comes new gets the first free number of its own
sequence (desired/proxy/marks.py), and a number is free again when nobody wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from kube_router.desired.proxy.marks import MarkKind, MarkOf, candidates
from kube_router.model.objects import Claim


class Holder(NamedTuple):
    """Whose a mark is."""

    claim: Claim
    kind: MarkKind


class NoMark(Exception):
    """All 16,383 numbers are taken."""


class MarkBook:
    """`look` tells what an earlier run left; it is asked when the first mark is wanted, and again until it answers."""

    def __init__(self, look: Callable[[], Mapping[Holder, int]] = dict) -> None:
        self._look: Callable[[], Mapping[Holder, int]] | None = look
        self._mark: dict[Holder, int] = {}
        self._holder: dict[int, Holder] = {}
        self._users: dict[Holder, set[Hashable]] = {}
        self._used: dict[Hashable, frozenset[Holder]] = {}
        self._found: set[Holder] = set()  # by the look, not wanted by anybody yet

    def asking(self) -> tuple[MarkOf, set[Holder]]:
        """A function that gives marks, and what it was asked for; hand that to `use` when the item has been worked out."""
        asked: set[Holder] = set()

        def mark_of(claim: Claim, kind: MarkKind) -> int:
            holder = Holder(claim, kind)
            asked.add(holder)
            return self.mark(holder)

        return mark_of, asked

    def mark(self, holder: Holder) -> int:
        """The mark of a holder, a new one where it has none. Raises NoMark, and what `look` raises."""
        self._adopt()
        known = self._mark.get(holder)
        if known is not None:
            return known
        for mark in candidates(holder.claim, holder.kind):
            if mark not in self._holder:
                self._enter(holder, mark)
                return mark
        raise NoMark(f"no mark is free for {holder.claim.address} port {holder.claim.port}")

    def use(self, item: Hashable, asked: set[Holder]) -> None:
        """These are all the marks that the item wants now; those that nobody wants any more are free."""
        before = self._used.get(item, frozenset())
        if before == asked:
            return
        if asked:
            self._used[item] = frozenset(asked)
        else:
            del self._used[item]
        for holder in asked - before:
            self._users.setdefault(holder, set()).add(item)
            self._found.discard(holder)
        for holder in before - asked:
            users = self._users[holder]
            users.discard(item)
            if not users:
                del self._users[holder]
                self._strike(holder)

    def settle(self) -> None:
        """Everything that is there has been asked for once: what was found and is nobody's by now is free."""
        for holder in self._found:
            self._strike(holder)
        self._found = set()

    def holder(self, mark: int) -> Holder | None:
        """Whose a mark is. From any thread."""
        return self._holder.get(mark)

    def __len__(self) -> int:
        return len(self._mark)

    def _adopt(self) -> None:
        if self._look is None:
            return
        found = self._look()
        self._look = None
        for holder, mark in sorted(found.items()):
            if mark not in self._holder and holder not in self._mark:
                self._enter(holder, mark)
                self._found.add(holder)

    def _enter(self, holder: Holder, mark: int) -> None:
        self._mark[holder] = mark
        self._holder[mark] = holder

    def _strike(self, holder: Holder) -> None:
        mark = self._mark.pop(holder, 0)
        self._holder.pop(mark, None)
