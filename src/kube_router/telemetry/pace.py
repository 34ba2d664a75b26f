"""Long work in a thread beside the loops that serve the node, at a pace that these do not feel.

A thread that computes keeps the interpreter for 5 ms at a time while others wait. A scrape of thousands of Services takes some tenths of
a second, and each step of a pass would wait for it; so it offers the interpreter to others every few hundred microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

EVERY: Final = 128  # items between two offers


def paced(items: Iterable[T]) -> Iterator[T]:
    """The items; between them others get their turn."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % EVERY:
            time.sleep(0)
