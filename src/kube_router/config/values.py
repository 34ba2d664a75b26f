"""One flag's text becomes its value, by the rules of Go's flag library and of its number, list and address parsers.

Deviations, both towards loudness: a list of strings that goes on after a line break is refused, where the original drops
the rest silently; and the text of a value never reaches a message here, since it may be a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final

from kube_router.config.duration import SECOND, parse_duration
from kube_router.config.flags import UNSIGNED_BITS, Flag, Kind

TRUE_WORDS: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE_WORDS: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_ANY_BASE: Final = re.compile(
    r"(?P<hex>0[xX](_?[0-9a-fA-F])+)|(?P<binary>0[bB](_?[01])+)|(?P<octal>0[oO]?(_?[0-7])+)|(?P<decimal>0|[1-9](_?[0-9])*)"
)
_BASES: Final = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
_BASE_TEN: Final = re.compile(r"[0-9]+")
_MOST_DIGITS: Final = 200  # far beyond 64 bits in any base; Python refuses to read absurdly long numbers
_FIELD: Final = re.compile(r'"((?:[^"]|"")*)"|([^",\n]*)')
_QUOTES: Final = str.maketrans("", "", "\"'`")


class BadValue(ValueError):
    """The text is no value of its kind: what is wrong with it, and what would be right (completes "give ...")."""

    def __init__(self, problem: str, wants: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.wants = wants


def parse_value(flag: Flag, text: str) -> Any:
    """The value that `text` stands for: seconds for a duration, a tuple for a list; BadValue when it is none."""
    return _PARSERS[flag.kind](text, flag.kind)


def is_boolean(text: str) -> bool:
    """Whether the text is one of Go's words for true and false."""
    return text in TRUE_WORDS or text in FALSE_WORDS


def _boolean(text: str, _kind: Kind) -> bool:
    if not is_boolean(text):
        raise BadValue("not true or false", "true or false")
    return text in TRUE_WORDS


def _string(text: str, _kind: Kind) -> str:
    return text


def _unsigned(text: str, kind: Kind) -> int:
    most = 2 ** UNSIGNED_BITS[kind] - 1
    match = _ANY_BASE.fullmatch(text)
    if match is None:
        raise BadValue("not a whole number", f"a number, 0..{most}")
    base = next(name for name in _BASES if match[name])
    number = int(text.replace("_", ""), _BASES[base]) if len(text) <= _MOST_DIGITS else most + 1
    if number > most:
        raise BadValue(f"does not fit into {UNSIGNED_BITS[kind]} bits", f"0..{most}")
    return number


def _unsigned_list(text: str, _kind: Kind) -> tuple[int, ...]:
    most = 2**64 - 1
    items = text.split(",")
    if not all(_BASE_TEN.fullmatch(item) for item in items):
        raise BadValue("not a list of numbers", "decimal numbers separated by commas, without blanks")
    if any(len(item) > _MOST_DIGITS or int(item) > most for item in items):
        raise BadValue("holds a number that does not fit into 64 bits", f"numbers of 0..{most}")
    return tuple(int(item) for item in items)


def _duration(text: str, _kind: Kind) -> float:
    try:
        return parse_duration(text) / SECOND
    except ValueError as error:
        raise BadValue(str(error), "numbers with units (ns us ms s m h), such as 1m30s") from error


def _strings(text: str, _kind: Kind) -> tuple[str, ...]:
    """Items of one CSV record (RFC 4180 quoting), nothing trimmed; no items in an empty text."""
    record = text.removesuffix("\n").removesuffix("\r")
    if not record:
        return ()
    items: list[str] = []
    position = 0
    while True:
        field = _FIELD.match(record, position)
        assert field is not None  # its second form matches nothing at all as well
        items.append(field[2] if field[1] is None else field[1].replace('""', '"'))
        position = field.end()
        if position == len(record):
            return tuple(items)
        if record[position] == "\n":
            raise BadValue("goes on after a line break", "one line of items separated by commas")
        if record[position] != ",":
            raise BadValue(
                "a double quote is not closed, or does not surround a whole item",
                'items separated by commas, such as a,b or "a,b",c',
            )
        position += 1


def _addresses(text: str, kind: Kind) -> tuple[str, ...]:
    return tuple(_address(item.strip()) for item in _strings(text.translate(_QUOTES), kind))


def _address(item: str) -> str:
    """Canonical text; IPv4 mapped into IPv6 is IPv4, as Go has it."""
    try:
        address = ipaddress.ip_address(item)
    except ValueError as error:
        raise BadValue("holds something that is not an IP address", "IP addresses separated by commas") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise BadValue("holds an address with a zone", "IP addresses without %zone")
        return str(address.ipv4_mapped or address)
    return str(address)


_PARSERS: Final[dict[Kind, Callable[[str, Kind], Any]]] = {
    "bool": _boolean,
    "string": _string,
    "strings": _strings,
    "ipSlice": _addresses,
    "uints": _unsigned_list,
    "uint": _unsigned,
    "uint8": _unsigned,
    "uint16": _unsigned,
    "uint32": _unsigned,
    "duration": _duration,
}
