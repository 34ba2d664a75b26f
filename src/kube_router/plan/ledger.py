"""What items want, what that comes to, and what the targets hold.

One ledger per controller. Several items may want the same key (two Services share a VIP, twenty pods are members of one
set): the key stays while one of them wants it. If they want different values, the lowest `(priority, item)` wins,
whatever the order in which they came; so the merged state depends on the items alone.

`held` is knowledge, not memory of intent: it is filled by observing a target and by changes that the target
acknowledged. A key is dirty while merged and held differ or while what is held is unknown. Nothing here reads a clock,
writes a log or knows what a key means.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from kube_router.model.state import Change, Key, Value

Item = Hashable
Priority = tuple[Any, ...]


class _Shared:
    """Items of a key that more than one wants, and the one whose value holds."""

    __slots__ = ("items", "winner")

    def __init__(self, winner: Item, items: set[Item]) -> None:
        self.winner = winner
        self.items = items


class Ledger:
    """State of one controller, per item and merged."""

    def __init__(self) -> None:
        self._wants: dict[Item, Mapping[Key, Value]] = {}
        self._priority: dict[Item, Priority] = {}  # where it is not (), which it nearly always is
        # A key's only item, or its `_Shared` items: nearly all keys have one, and a set each would double the memory.
        self._owners: dict[Key, Item | _Shared] = {}
        self._merged: dict[Key, Value] = {}
        self._held: dict[Key, Value] = {}
        self._dirty: set[Key] = set()
        self._distrusted: set[type[Key]] = set()

    # -- wanting ------------------------------------------------------------------------------------------------------

    def want(self, item: Item, state: Mapping[Key, Value], priority: Priority = ()) -> None:
        """Replace all that the item wants; an empty mapping forgets the item. Costs the size of the item."""
        before: Mapping[Key, Value] = self._wants.get(item, {})
        same_priority = self._priority.get(item, ()) == priority
        if before == state and same_priority:
            return
        if state:
            self._wants[item] = state
        else:
            self._wants.pop(item, None)
        if state and priority:
            self._priority[item] = priority
        else:
            self._priority.pop(item, None)
        for key in before.keys() - state.keys():
            self._release(key, item)
        for key, value in state.items():
            if key not in before:
                self._claim(key, item)
            elif not same_priority:
                self._reconsider(key)
            elif before[key] == value:
                continue
            self._merge(key)

    def items(self) -> Iterable[Item]:
        """Items that want anything."""
        return self._wants.keys()

    def owners(self, key: Key) -> tuple[Item, ...]:
        """Items that want the key, the winning one first."""
        owner = self._owners.get(key)
        if isinstance(owner, _Shared):
            return tuple(sorted(owner.items, key=self._rank))
        return () if owner is None else (owner,)

    def winner(self, key: Key) -> Item | None:
        """The item whose value holds for the key, None when nobody wants it. From any thread."""
        owner = self._owners.get(key)
        return owner.winner if isinstance(owner, _Shared) else owner

    def wants(self, item: Item) -> Mapping[Key, Value]:
        """All that the item wants now; never changed afterwards, but replaced. From any thread."""
        return self._wants.get(item, {})

    @property
    def merged(self) -> Mapping[Key, Value]:
        """The whole desired state."""
        return self._merged

    @property
    def held(self) -> Mapping[Key, Value]:
        """What the targets are known to hold, where they are trusted."""
        return self._held

    def _rank(self, item: Item) -> tuple[Priority, str]:
        return self._priority.get(item, ()), repr(item)

    def _claim(self, key: Key, item: Item) -> None:
        owner = self._owners.get(key)
        if owner is None:
            self._owners[key] = item
        elif isinstance(owner, _Shared):
            owner.items.add(item)
            if self._rank(item) < self._rank(owner.winner):
                owner.winner = item
        else:
            self._owners[key] = _Shared(min(owner, item, key=self._rank), {owner, item})

    def _release(self, key: Key, item: Item) -> None:
        owner = self._owners[key]
        if not isinstance(owner, _Shared):
            del self._owners[key]
        else:
            owner.items.discard(item)
            if len(owner.items) == 1:
                self._owners[key] = next(iter(owner.items))
            elif owner.winner == item:
                self._reconsider(key)
        self._merge(key)

    def _reconsider(self, key: Key) -> None:
        owner = self._owners[key]
        if isinstance(owner, _Shared):
            owner.winner = min(owner.items, key=self._rank)

    def _merge(self, key: Key) -> None:
        owner = self._owners.get(key)
        if owner is None:
            self._merged.pop(key, None)
        else:
            self._merged[key] = self._wants[owner.winner if isinstance(owner, _Shared) else owner][key]
        self._mark(key)

    def _mark(self, key: Key) -> None:
        if self._merged.get(key) == self._held.get(key):
            self._dirty.discard(key)
        else:
            self._dirty.add(key)

    # -- holding ------------------------------------------------------------------------------------------------------

    def pending(self) -> list[Change]:
        """Changes that would make the targets hold what is wanted; keys of distrusted kinds are left out."""
        held, merged = self._held, self._merged
        return [Change(key, held.get(key), merged.get(key)) for key in self._dirty if type(key) not in self._distrusted]

    def released(self) -> list[Key]:
        """Keys that are held although nobody wants them: what `pending` would delete."""
        merged, held = self._merged, self._held
        return [key for key in self._dirty if key not in merged and key in held and type(key) not in self._distrusted]

    def commit(self, done: Iterable[Change]) -> None:
        """These changes were acknowledged."""
        for change in done:
            if change.after is None:
                self._held.pop(change.key, None)
            else:
                self._held[change.key] = change.after
            self._mark(change.key)

    def distrust(self, kinds: Iterable[type[Key]]) -> None:
        """What the targets hold of these kinds is unknown until it is observed."""
        self._distrusted.update(kinds)

    @property
    def distrusted(self) -> frozenset[type[Key]]:
        """Kinds to observe before anything of them is written."""
        return frozenset(self._distrusted)

    def observe(self, kinds: Iterable[type[Key]], actual: Mapping[Key, Value]) -> list[Key]:
        """Take `actual` for all that is held of these kinds; returns the keys that had drifted from what was held.

        Kinds that were distrusted have no drift: nobody knew what they held.
        """
        of = frozenset(kinds)
        known = {key for key in self._held if type(key) in of}
        seen = known | actual.keys()
        drifted = [key for key in seen if type(key) not in self._distrusted and self._held.get(key) != actual.get(key)]
        for key in known:
            del self._held[key]
        self._held.update(actual)
        self._distrusted -= of
        seen.update(key for key in self._merged if type(key) in of)
        for key in seen:
            self._mark(key)
        return drifted
