"""A value that must not be seen, such as a BGP password: hidden by its type wherever it is printed, not by care.

Text, representation, formatting, JSON and log lines and the text of exceptions all show the same word; only `reveal()`
gives the value, at the one place that hands it to the speaker. It refuses to be pickled.
"""

from __future__ import annotations

from typing import Final, NoReturn

REDACTED: Final = "(redacted)"


class Secret:
    """Holds a text; equal to a Secret of the same text, and hashable, so that it can be part of desired state."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The text itself."""
        return self.__value

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self.__value == other.__value

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __str__(self) -> str:
        return REDACTED

    def __repr__(self) -> str:
        return REDACTED

    def __format__(self, _spec: str) -> str:
        return REDACTED

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not written anywhere: it cannot be pickled")
