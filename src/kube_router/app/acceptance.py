"""The gate of annotations over restarts: accepted texts are read before the first list and written down soon after they change.

A file that cannot be read or written costs one log line: the daemon then decides by what the objects say now.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from kube_router.apply.files import kept
from kube_router.codec.accepted import Gate
from kube_router.config.options import Options
from kube_router.model.objects import Name
from kube_router.telemetry.logging import get_logger

FILE: Final = "accepted-annotations.json"
_LOG = get_logger("annotations")
_PAUSE: Final = 1.0  # seconds between looks for changes, and so between writes
_RETRY: Final = 30.0  # seconds until a write that failed is tried again


class Acceptance:
    """The gate of this process and its file."""

    def __init__(self, options: Options) -> None:
        self._path = Path(options.state_dir) / FILE
        self.gate = Gate(Name("", options.node_name), hosts=can_listen)
        self._told = ""

    def load(self) -> None:
        """What an earlier run accepted, if it left anything that can be read."""
        try:
            data = kept.read(self._path)
            if data:
                self.gate.load(data)
        except (OSError, ValueError) as fault:
            _LOG.warning("annotations accepted before are unknown: each counts from its next good value", file=str(self._path), fault=fault)

    async def keep(self, call: Callable[..., Awaitable[object]] = asyncio.to_thread) -> None:
        """Writes what changes, for ever; ends by cancellation."""
        while True:
            await asyncio.sleep(_PAUSE)
            if self.gate.changed and not await self._write(call):
                await asyncio.sleep(_RETRY)

    def finish(self) -> None:
        """Writes what is not written yet: we stop."""
        if self.gate.changed:
            try:
                kept.write(self._path, self.gate.dump())
            except OSError as fault:
                self._tell(fault)

    async def _write(self, call: Callable[..., Awaitable[object]]) -> bool:
        self.gate.changed = False
        data = self.gate.dump()
        try:
            await call(kept.write, self._path, data)
        except OSError as fault:
            self.gate.changed = True
            self._tell(fault)
            return False
        self._told = ""
        return True

    def _tell(self, fault: OSError) -> None:
        if str(fault) != self._told:
            self._told = str(fault)
            _LOG.warning("accepted annotations are not kept over a restart", file=str(self._path), fault=fault)


def can_listen(address: str) -> bool:
    """Whether a TCP socket of this host can be bound to an address."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
