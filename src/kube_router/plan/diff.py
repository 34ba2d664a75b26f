"""Difference of two mappings of state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from kube_router.model.state import Change, Key

K = TypeVar("K")
V = TypeVar("V")


class Delta(msgspec.Struct, Generic[K, V], frozen=True):
    """What to do so that `actual` becomes `desired`."""

    create: dict[K, V]
    update: dict[K, V]
    delete: frozenset[K]

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)


def diff(desired: Mapping[K, V], actual: Mapping[K, V]) -> Delta[K, V]:
    """Smallest delta that makes `actual` equal `desired`."""
    return Delta(
        create={k: v for k, v in desired.items() if k not in actual},
        update={k: v for k, v in desired.items() if k in actual and actual[k] != v},
        delete=frozenset(actual.keys() - desired.keys()),
    )


def changes(delta: Delta[Key, Any], actual: Mapping[Key, Any]) -> list[Change]:
    """The delta as single changes, in no order that matters."""
    return [
        *(Change(k, None, v) for k, v in delta.create.items()),
        *(Change(k, actual[k], v) for k, v in delta.update.items()),
        *(Change(k, actual[k], None) for k in delta.delete),
    ]
