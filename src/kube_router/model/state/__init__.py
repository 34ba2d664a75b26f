"""The vocabulary of desired state: every piece of kernel, speaker and file state is one `Key` with one `Value`.

Keys and values are frozen structs; equality is meaning. A controller's desired state is a mapping of them, what a target
observes is another, and everything between (ledger, diff, order) works on mappings without knowing what they describe.

They hold text, numbers, and tuples and keys of those, so they can never be part of a cycle: the garbage collector is
spared from following tens of thousands of them (gc=False).
"""

from __future__ import annotations

from typing import Any

import msgspec


class Key(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identity of one piece of state. Subclasses add fields; two keys are equal when class and fields are."""

    def __str__(self) -> str:
        fields = ", ".join(str(getattr(self, name)) for name in self.__struct_fields__)
        return f"{type(self).__name__.removesuffix('Key')}({fields})"


class Value(msgspec.Struct, frozen=True, gc=False):
    """All of a key's attributes that we set. What we leave to the kernel is not in it."""


State = dict[Key, Value]


class Change(msgspec.Struct, frozen=True, gc=False):
    """One step: `before` None creates, `after` None deletes, both set change. `before` is what the target held."""

    key: Key
    before: Any  # Value | None; Any spares every target a cast it has already made by the key's class
    after: Any
