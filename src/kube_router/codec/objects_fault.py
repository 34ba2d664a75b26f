"""What is wrong with an object, and the collector that drops the wrong value and keeps the rest.

Bad input costs nothing else: a value that does not parse is left out and named; its neighbours in the same object stay.
Where leaving a value out would allow more than was asked for (a rule whose last peer is dropped would mean "everyone"),
the caller drops the next larger thing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from kube_router.kit.net import canonical_address, canonical_network
from kube_router.model.objects import Ref

PROTOCOLS: Final = ("TCP", "UDP", "SCTP")
LONGEST_SHOWN: Final = 120


class Fault(msgspec.Struct, frozen=True):
    """One wrong value of one object. `field` is its path in the object ("spec.podCIDRs[1]"), `value` its JSON text, cut when long."""

    ref: Ref
    field: str
    value: str
    message: str

    def __str__(self) -> str:
        return f"{self.ref}: {self.field} = {self.value}: {self.message}"


class Malformed(ValueError):
    """A whole body or line is not what the API server sends; nothing in it can be trusted."""


def shown(value: object) -> str:
    """JSON text of a decoded value, cut when long."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


class Faults:
    """Collects the faults of one object; each method returns what is right and drops the rest."""

    def __init__(self, ref: Ref) -> None:
        self.ref = ref
        self._found: list[Fault] = []

    @property
    def found(self) -> tuple[Fault, ...]:
        """Everything that was wrong, in the order in which it was met."""
        return tuple(self._found)

    def add(self, field: str, value: object, message: str) -> None:
        """Name a wrong value."""
        self._found.append(Fault(self.ref, field, shown(value), message))

    def address(self, field: str, text: str) -> str:
        """Canonical address, "" when it is none."""
        try:
            return canonical_address(text)
        except ValueError:
            self.add(field, text, "not an IP address; left out")
            return ""

    def addresses(self, field: str, texts: Iterable[str]) -> tuple[str, ...]:
        """Canonical addresses in order, each once."""
        return self._each(field, texts, self.address)

    def network(self, field: str, text: str) -> str:
        """Canonical CIDR, "" when it is none. The API ignores space around it, and so do we."""
        try:
            return canonical_network(text.strip())
        except ValueError:
            self.add(field, text, "not a CIDR; left out")
            return ""

    def networks(self, field: str, texts: Iterable[str]) -> tuple[str, ...]:
        """Canonical CIDRs in order, each once."""
        return self._each(field, texts, self.network)

    def port(self, field: str, number: int) -> int:
        """The port, 0 when it is none."""
        if 1 <= number <= 65535:
            return number
        self.add(field, number, "not a port, which is 1 to 65535; left out")
        return 0

    def protocol(self, field: str, text: str | None) -> str:
        """TCP, UDP or SCTP; TCP is the API's default. "" when it is none of them."""
        protocol = (text or "TCP").upper()
        if protocol in PROTOCOLS:
            return protocol
        self.add(field, text, "not one of TCP, UDP, SCTP; left out")
        return ""

    def choice(self, field: str, text: str | None, *, allowed: tuple[str, ...], default: str) -> str:
        """One of the allowed words; the default when absent or wrong."""
        if not text:
            return default
        if text in allowed:
            return text
        self.add(field, text, f"not one of {', '.join(allowed)}; taken as {default}")
        return default

    def _each(self, field: str, texts: Iterable[str], parse: Callable[[str, str], str]) -> tuple[str, ...]:
        parsed = [parse(f"{field}[{n}]", text) for n, text in enumerate(texts)]
        return tuple(dict.fromkeys(value for value in parsed if value))
