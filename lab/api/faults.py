"""Faults on demand: which requests they hit, how often, and what happens to them. Data only; the server carries them out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Action = Literal["answer", "delay", "stall", "cut", "short", "gone"]
ACTIONS: tuple[str, ...] = get_args(Action)


@dataclass(slots=True)
class Fault:
    """One fault. Empty ``verb``, ``plural``, ``path`` and ``client`` match everything; ``times`` None means until removed.

    answer   the HTTP ``status`` instead of what was asked; 429 and 503 carry Retry-After when ``seconds`` is not 0
    delay    the right answer, ``seconds`` later
    stall    no answer at all; a watch opens and stays silent
    cut      half of the answer, then the connection breaks; a watch breaks after ``keep`` events
    short    a list that holds the first ``keep`` objects only (0: an empty list), as if that were all
    gone     "410 Gone": as an HTTP status for a list, as an error event for a watch
    """

    action: Action
    verb: str = ""  # list, watch, get, create, update, patch, delete, deletecollection
    plural: str = ""  # "pods"
    path: str = ""  # how the path begins
    client: str = ""  # how the client's address begins: "192.168.50.51" is node2
    times: int | None = None
    seconds: float = 0.0
    status: int = 500
    keep: int = 0
    hits: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"a fault is one of {', '.join(ACTIONS)}, not {self.action!r}")

    def matches(self, *, verb: str, plural: str, path: str, client: str) -> bool:
        return self.verb in ("", verb) and self.plural in ("", plural) and path.startswith(self.path) and client.startswith(self.client)


class Faults:
    """The faults in force. A request is hit by the first that matches; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Put a fault in force; it is handed back to be removed or asked for its hits."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Take a fault back; one that is not in force any more is no error."""
        with self._lock:
            self._faults = [other for other in self._faults if other is not fault]

    def clear(self) -> None:
        with self._lock:
            self._faults = []

    def all(self) -> Sequence[Fault]:
        with self._lock:
            return tuple(self._faults)

    def take(self, *, verb: str, plural: str, path: str, client: str) -> Fault | None:
        """The fault that hits this request, counted; None for a request that is served well."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(verb=verb, plural=plural, path=path, client=client):
                    fault.hits += 1
                    if fault.times is not None and fault.hits >= fault.times:
                        self._faults = [other for other in self._faults if other is not fault]
                    return fault
        return None
