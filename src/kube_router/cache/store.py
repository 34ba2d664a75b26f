"""One kind of object, with indexes.

An index maps a word of the object (its node, its Service, one of its addresses) to the names of the objects that bear it,
and is kept up with every change, so that a lookup costs the size of its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from kube_router.model.objects import Name

T = TypeVar("T")
IndexFunction = Callable[[T], Iterable[Hashable]]


class Store(Mapping[Name, T], Generic[T]):
    """Read-only mapping of names to objects for everyone but the cache that fills it."""

    def __init__(self, **indexes: IndexFunction[T]) -> None:
        self._objects: dict[Name, T] = {}
        self._functions = indexes
        self._indexes: dict[str, dict[Hashable, set[Name]]] = {name: {} for name in indexes}

    def __getitem__(self, name: Name) -> T:
        return self._objects[name]

    def __iter__(self) -> Iterator[Name]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def by(self, index: str, word: Hashable) -> list[T]:
        """Objects that bear the word in the index, sorted by name."""
        return [self._objects[name] for name in sorted(self._indexes[index].get(word, ()))]

    def each(self, index: str, word: Hashable) -> Iterator[T]:
        """The same in no order, for callers whose answer does not depend on one: sorting is most of what `by` costs."""
        return (self._objects[name] for name in self._indexes[index].get(word, ()))

    def has(self, index: str, word: Hashable) -> bool:
        """Whether any object bears the word in the index."""
        return word in self._indexes[index]

    def words(self, index: str) -> Iterable[Hashable]:
        """All words that some object bears in the index."""
        return self._indexes[index].keys()

    def put(self, name: Name, value: T) -> T | None:
        """Store; returns what was there before."""
        before = self._objects.get(name)
        self._reindex(name, before, value)
        self._objects[name] = value
        return before

    def remove(self, name: Name) -> T | None:
        """Forget; returns what was there, None if nothing."""
        before = self._objects.pop(name, None)
        self._reindex(name, before, None)
        return before

    def _reindex(self, name: Name, before: T | None, after: T | None) -> None:
        for index, words in self._functions.items():
            table = self._indexes[index]
            old = set(words(before)) if before is not None else set()
            new = set(words(after)) if after is not None else set()
            if old == new:
                continue
            for word in old - new:
                names = table[word]
                names.discard(name)
                if not names:
                    del table[word]
            for word in new - old:
                table.setdefault(word, set()).add(name)
