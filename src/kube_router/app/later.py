"""A target that is opened when it is first needed: what it lacks (a kernel module, a tool) is one controller's trouble.

While it cannot be opened every use fails like a failing target, so the controller reports it, is not ready, and tries again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from kube_router.control.controller import Target
from kube_router.model.state import Change, Key, Value


class Later:
    """`make` opens the real target; it may raise Busy or Rejected, and is asked again at the next use."""

    def __init__(self, kinds: tuple[type[Key], ...], make: Callable[[], Target]) -> None:
        self.kinds = kinds
        self._make = make
        self._target: Target | None = None
        self._lock = threading.Lock()

    @property
    def opened(self) -> Target | None:
        """The real target; None while nobody needed it or it could not be opened."""
        return self._target

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """As the real target does."""
        return self._open().observe(wanted)

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """As the real target does."""
        return self._open().apply(changes)

    def _open(self) -> Target:
        with self._lock:
            if self._target is None:
                self._target = self._make()
            return self._target
