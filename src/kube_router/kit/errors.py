"""What can go wrong when we write to the world, named by what the caller should do about it."""

from __future__ import annotations


class TargetError(Exception):
    """A target could not do as asked; what it holds must be observed before it is trusted again."""


class Busy(TargetError):
    """Another writer holds it, or it is not there yet (a lock, a speaker that starts): try again soon."""


class Rejected(TargetError):
    """Our input as a whole is wrong, and the target cannot tell which item: log all of it, do not repeat it in a hurry."""


class Stale(TargetError):
    """The world moved under us: observe again and plan anew."""
