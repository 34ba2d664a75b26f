"""Which selectors pick a pod, without asking every selector.

A selection (pods by labels, in one namespace or in namespaces by labels) is filed under one word of its pod selector and
one of its namespace scope, each a condition that a pod must meet to be picked: "app is web", "there is a label app", or
nothing. A pod looks only under the words that it and its namespace bear, so that a cluster of thousands of selections that
name different labels costs a pod a handful of comparisons. The answer never depends on where a selection was filed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from kube_router.model.objects import Selector

K = TypeVar("K", bound=Hashable)
Labels = Mapping[str, str]
Word = tuple[str, ...]  # (key, value): the label has the value; (key,): the label exists; (): no condition

_ANY: Final[Word] = ()
_OWN: Final = ""  # as a key: the name of the namespace, where label keys cannot be empty
_ID_LENGTH: Final = 16


class Selection(msgspec.Struct, frozen=True, order=True):
    """Pods picked by `pods` in `namespace`, or, where `namespaces` is given, in every namespace whose labels that picks."""

    namespace: str
    namespaces: Selector | None = None
    pods: Selector = Selector()

    def matches(self, namespace: str, namespace_labels: Labels | None, labels: Labels) -> bool:
        """Whether it picks a pod with these labels there; `namespace_labels` None: nothing is known of the namespace."""
        return self.reaches(namespace, namespace_labels) and self.pods.matches(labels)

    def reaches(self, namespace: str, namespace_labels: Labels | None) -> bool:
        """Whether it picks pods of the namespace at all; a namespace of which nothing is known is in no selector."""
        if self.namespaces is None:
            return namespace == self.namespace
        return namespace_labels is not None and self.namespaces.matches(namespace_labels)


def identity(*parts: str) -> str:
    """A short name for what the parts say together: 80 bits in 16 characters of base32. Parts must not hold a NUL."""
    return base64.b32encode(hashlib.sha256("\0".join(parts).encode()).digest())[:_ID_LENGTH].decode()


def selection_id(selection: Selection) -> str:
    """Identity of what a selection picks: equal for policies whose peers say the same."""
    return identity("pods", msgspec.json.encode(selection).decode())


class SelectorIndex(Generic[K]):
    """Selections by key, found by the pods that they pick."""

    def __init__(self) -> None:
        self._selections: dict[K, Selection] = {}
        self._tables: dict[Word, dict[Word, set[K]]] = {}  # word of the scope -> word of the pod selector -> keys
        self._filed: dict[K, list[tuple[Word, Word]]] = {}

    def __len__(self) -> int:
        return len(self._selections)

    def __contains__(self, key: K) -> bool:
        return key in self._selections

    def __getitem__(self, key: K) -> Selection:
        return self._selections[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._selections)

    def put(self, key: K, selection: Selection) -> None:
        """File a selection; what the key stood for before is forgotten."""
        if self._selections.get(key) == selection:
            return
        self.remove(key)
        self._selections[key] = selection
        scopes = _scope_words(selection)
        pods = self._best(selection.pods, scopes)
        self._filed[key] = [(scope, word) for scope in scopes for word in pods]
        for scope, word in self._filed[key]:
            self._tables.setdefault(scope, {}).setdefault(word, set()).add(key)

    def remove(self, key: K) -> None:
        """Forget a key; forgetting the unknown changes nothing."""
        self._selections.pop(key, None)
        for scope, word in self._filed.pop(key, ()):
            table = self._tables[scope]
            table[word].discard(key)
            if not table[word]:
                del table[word]
            if not table:
                del self._tables[scope]

    def matching(self, namespace: str, namespace_labels: Labels | None, labels: Labels) -> list[K]:
        """Keys whose selections pick a pod, in no order."""
        found: list[K] = []
        if not self._selections:
            return found
        words = [_ANY, *((key,) for key in labels), *labels.items()]
        for scope in _words_of_namespace(namespace, namespace_labels):
            table = self._tables.get(scope)
            if table is None:
                continue
            for word in words:
                keys = table.get(word)
                if keys is not None:
                    found += [key for key in keys if self._selections[key].matches(namespace, namespace_labels, labels)]
        return found

    def reaching(self, namespace: str, namespace_labels: Labels | None) -> set[K]:
        """Keys whose selections pick pods of the namespace, whatever their labels."""
        return {
            key
            for scope in _words_of_namespace(namespace, namespace_labels)
            for keys in self._tables.get(scope, {}).values()
            for key in keys
            if self._selections[key].reaches(namespace, namespace_labels)
        }

    def _best(self, selector: Selector, scopes: Iterable[Word]) -> list[Word]:
        """The words to file under: those of the requirement under which fewest selections stand already."""
        tables = [table for scope in scopes if (table := self._tables.get(scope)) is not None]

        def crowd(words: list[Word]) -> int:
            return len(words) + sum(len(table.get(word, ())) for table in tables for word in words)

        choices = _choices(selector)
        return min(choices, key=crowd) if choices else [_ANY]


def _choices(selector: Selector) -> list[list[Word]]:
    """For each requirement that asks for a label, the words of which a pod must bear exactly one."""
    values: list[list[Word]] = [[(r.key, value) for value in set(r.values)] for r in selector.requirements if r.operator == "In"]
    return values or [[(r.key,)] for r in selector.requirements if r.operator == "Exists"]


def _scope_words(selection: Selection) -> list[Word]:
    if selection.namespaces is None:
        return [(_OWN, selection.namespace)]
    choices = _choices(selection.namespaces)
    return min(choices, key=len) if choices else [_ANY]


def _words_of_namespace(namespace: str, labels: Labels | None) -> list[Word]:
    if labels is None:
        return [(_OWN, namespace)]
    return [_ANY, (_OWN, namespace), *((key,) for key in labels), *labels.items()]
