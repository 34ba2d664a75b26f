"""Durations as Go writes and reads them (its time.ParseDuration and Duration.String), in whole nanoseconds."""

from __future__ import annotations

import re
from typing import Final

SECOND: Final = 1_000_000_000
_UNITS: Final[dict[str, int]] = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_TERM: Final = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")
_LONGEST: Final = 2**63 - 1
_MOST_DIGITS: Final = 19


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as "1m30s", "-1.5h" or "0"; ValueError says what is wrong with it."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    if not rest:
        raise ValueError("not a duration")
    total = 0
    while rest:
        term = _TERM.match(rest)
        if term is None or not (term[1] or len(term[2] or "") > 1):
            raise ValueError("not a duration")
        if not term[3]:
            raise ValueError("a duration without a unit")
        if term[3] not in _UNITS:
            raise ValueError(f"a duration with an unknown unit {term[3]!r}")
        total += _nanoseconds(term[1], (term[2] or "")[1:], _UNITS[term[3]])
        rest = rest[term.end() :]
    if total > _LONGEST + (sign < 0):
        raise ValueError("a duration that is too long")
    return sign * total


def _nanoseconds(whole: str, fraction: str, unit: int) -> int:
    if len(whole.lstrip("0")) > _MOST_DIGITS:
        raise ValueError("a duration that is too long")
    digits = fraction[: _MOST_DIGITS - 1]  # more cannot matter: a nanosecond of an hour is the 13th digit
    return int(whole or "0") * unit + (int(digits) * unit // 10 ** len(digits) if digits else 0)


def format_duration(nanoseconds: int) -> str:
    """The canonical form: "0s", "1.5ms", "1m30s", "5m0s", "1h0m0.5s"."""
    if nanoseconds == 0:
        return "0s"
    sign, size = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if size < SECOND:
        unit = "ns" if size < 1_000 else "\u00b5s" if size < 1_000_000 else "ms"
        return f"{sign}{_decimal(size, _UNITS[unit])}{unit}"
    minutes, rest = divmod(size, 60 * SECOND)
    seconds = f"{_decimal(rest, SECOND)}s"
    if not minutes:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    fraction = str(rest).zfill(len(str(unit)) - 1).rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
