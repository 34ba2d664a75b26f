"""What a flag is: a row of data. The rows stand in `flag_table.py`; this module refuses to know any of them.

A row's `default` is the parsed value (seconds for a duration, a tuple for a list), so the table alone fixes what a
program gets that was started without arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["bool", "string", "strings", "ipSlice", "uints", "uint", "uint8", "uint16", "uint32", "duration"]
"""Types of values, by the names that Go's flag library prints in its help."""

Owner = Literal["core", "router", "proxy", "firewall", "loadbalancer"]
"""Who reads a flag: the program itself, or one of the controllers."""

LIST_KINDS: Final[frozenset[Kind]] = frozenset({"strings", "ipSlice", "uints"})
UNSIGNED_BITS: Final[dict[Kind, int]] = {"uint": 64, "uint8": 8, "uint16": 16, "uint32": 32}


@dataclass(frozen=True, slots=True)
class Check:
    """A rule for one value: `wants` completes the sentence "give ...", `accepts` tells whether the value keeps it."""

    wants: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: `ours` marks those the Go original does not know, `secret` those whose value is never shown."""

    name: str
    kind: Kind
    default: Any
    owners: tuple[Owner, ...]
    help: str
    check: Check | None = None
    short: str = ""
    ours: bool = False
    secret: bool = False

    @property
    def attribute(self) -> str:
        """Name of the attribute of `Options` that holds the value."""
        return self.name.replace("-", "_")

    @property
    def is_list(self) -> bool:
        """Whether the flag may be repeated, each use after the first adding to the value."""
        return self.kind in LIST_KINDS
