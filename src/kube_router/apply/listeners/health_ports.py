"""Health check node ports: load balancers ask here whether this node has ready endpoints of a Service.

Each port answers for one Service, on all addresses of the node, whatever the path. The answer has kube-proxy's body and headers, so that
what was set up for it works here: 200 where there is an endpoint and the proxy is at work, else 503.

    GET / HTTP/1.1  -->  200, X-Load-Balancing-Endpoint-Weight: 2, {"service": {...}, "localEndpoints": 2, "serviceProxyHealthy": true}

The ports are served by a thread of their own, which starts with the first of them: a control loop that hangs is answered as such instead of
not at all. A port that somebody else listens on is refused by itself, and asked for again until it is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from kube_router.kit.errors import Busy
from kube_router.kit.http import HttpServer, Response
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.listeners import HealthPort, HealthPortKey

_PATIENCE: Final = 10.0  # seconds until we take our own thread for stuck
_PATIENCE_AT_END: Final = 2.0  # a process that is told to stop waits for no more than its last answers


@dataclass(slots=True)
class _Open:
    """A port that is listened on, and what it answers now."""

    server: HttpServer
    says: HealthPort


class HealthPortTarget:
    """Ports that this process listens on. `is_alive` tells whether the proxy's loop turns."""

    kinds: tuple[type[Key], ...] = (HealthPortKey,)

    def __init__(self, is_alive: Callable[[], bool], *, address: str = "") -> None:
        self._is_alive = is_alive
        self._address = address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread
        self._open: dict[HealthPortKey, _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Ports that are open, with what they answer."""
        del wanted
        with self._lock:
            return {key: port.says for key, port in self._open.items()}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Open, change and close ports in this order. Busy when our thread does not work them off."""
        with self._lock:
            if self._loop is None and all(change.after is None for change in changes):
                return {}
            done = asyncio.run_coroutine_threadsafe(self._apply(changes), self._running())
            try:
                return done.result(_PATIENCE)
            except TimeoutError as fault:
                done.cancel()
                raise Busy("the thread of the health check ports does not answer") from fault

    def close(self) -> None:
        """Stop listening, and end the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                with contextlib.suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(self._close_all(), loop).result(_PATIENCE_AT_END)
                loop.call_soon_threadsafe(loop.stop)
                self._thread.join(_PATIENCE_AT_END)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(loop,), name="health ports", daemon=True)
            self._thread.start()
        return self._loop

    async def _apply(self, changes: Sequence[Change]) -> dict[Key, str]:
        rejected: dict[Key, str] = {}
        for change in changes:
            key, after = change.key, change.after
            assert isinstance(key, HealthPortKey)
            if after is None:
                await self._stop(key)
            elif key in self._open:
                self._open[key].says = after
            else:
                try:
                    self._open[key] = await self._listen(key.port, after)
                except OSError as error:
                    rejected[key] = f"{error.strerror or error}: stop what listens on port {key.port} of this node, and this goes on"
        return rejected

    async def _listen(self, port: int, says: HealthPort) -> _Open:
        async def answer() -> Response:
            return response(opened.says, alive=self._is_alive())

        opened = _Open(HttpServer({}, other=answer), says)
        await opened.server.start(self._address, port)
        return opened

    async def _stop(self, key: HealthPortKey) -> None:
        port = self._open.pop(key, None)
        if port is None:
            return
        # It stops listening in its first step; answers under way are nothing that a pass should wait for.
        task = asyncio.get_running_loop().create_task(port.server.stop())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.sleep(0)

    async def _close_all(self) -> None:
        for key in tuple(self._open):
            await self._stop(key)
        await asyncio.gather(*self._closing)


def response(port: HealthPort, *, alive: bool) -> Response:
    """What is answered for a Service (kube-proxy: pkg/proxy/healthcheck)."""
    said = {
        "service": {"namespace": port.namespace, "name": port.name},
        "localEndpoints": port.local,
        "serviceProxyHealthy": alive,
    }
    return Response(
        HTTPStatus.OK if port.local and alive else HTTPStatus.SERVICE_UNAVAILABLE,
        json.dumps(said, indent="\t"),
        "application/json",
        (("X-Content-Type-Options", "nosniff"), ("X-Load-Balancing-Endpoint-Weight", str(port.local))),
    )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
