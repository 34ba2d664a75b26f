"""Sysctls below /proc/sys: written when they differ, never given back, since the admin may rely on them by then.

One that does not exist (a module or link that is not there) is refused with its name; nothing else waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Sysctl, SysctlKey


class SysctlTarget:
    """`root` is /proc/sys but in tests."""

    kinds: tuple[type[Key], ...] = (SysctlKey,)

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root
        self._lock = threading.Lock()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Only what is wanted is looked at: as wanted where it is met, with its value where not, left out where there is none."""
        held: dict[Key, Value] = {}
        for key, wish in wanted.items():
            if not isinstance(key, SysctlKey) or not isinstance(wish, Sysctl):
                continue
            present = self._read(key.path)
            if present is not None:
                held[key] = wish if _met(present, wish) else Sysctl(present)
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Write what differs."""
        refused: dict[Key, str] = {}
        with self._lock:
            for change in changes:
                assert isinstance(change.key, SysctlKey)
                if change.after is not None:
                    reason = self._put(change.key.path, change.after)
                    if reason:
                        refused[change.key] = reason
        return refused

    def _put(self, path: str, wish: Sysctl) -> str:
        present = self._read(path)
        if present is None:
            return f"/proc/sys/{path} does not exist: its kernel module or link is missing"
        if _met(present, wish):
            return ""
        try:
            (self._root / path).write_text(wish.value)
        except OSError as fault:
            return f"/proc/sys/{path} cannot be set to {wish.value}: {fault.strerror}"
        return ""

    def _read(self, path: str) -> str | None:
        try:
            return " ".join((self._root / path).read_text().split())
        except OSError:
            return None


def _met(present: str, wish: Sysctl) -> bool:
    return present == wish.value or bool(wish.only_if and present not in wish.only_if)
