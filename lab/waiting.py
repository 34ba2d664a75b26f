"""Waiting for what will be true soon, without a busy loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# How much more patience this machine needs than a native one. LAB_KERNEL is set inside the emulated kernel.
SLOWNESS = float(os.environ.get("LAB_SLOWNESS") or (8 if "LAB_KERNEL" in os.environ else 1))


class NotYet(Exception):
    """What was waited for did not come true; the message says what it was and how far it came."""


def wait_for(
    what: str,
    condition: Callable[[], _T],
    *,
    seconds: float = 10.0,
    every: float = 0.05,
    so_far: Callable[[], object] | None = None,
) -> _T:
    """Ask ``condition`` until it answers something true, and hand that back; NotYet after ``seconds`` (times slowness).

    An exception counts as "not yet", and is shown when the time is over.
    """
    end = time.monotonic() + seconds * SLOWNESS
    while True:
        problem: object = ""
        try:
            if answer := condition():
                return answer
        except Exception as error:  # noqa: BLE001  shown below
            problem = repr(error)
        if time.monotonic() >= end:
            seen = f"; so far: {_asked(so_far)}" if so_far else ""
            raise NotYet(f"{what}: not after {seconds * SLOWNESS:g} s{seen} {problem}".rstrip())
        time.sleep(every * SLOWNESS)


def _asked(so_far: Callable[[], object]) -> object:
    """What there is instead; trouble in asking must not hide what was waited for."""
    try:
        return so_far()
    except Exception as error:  # noqa: BLE001  shown
        return repr(error)
