"""The API server as a thread: an asyncio loop that serves a store on any number of listening sockets.

A socket belongs to the network namespace that it was made in, so one server can be reached from many: hand it a function
that makes the socket there. ``refuse`` closes them all, ``accept`` makes them anew.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from lab.api.control import Seen, control
from lab.api.faults import Fault, Faults
from lab.api.history import Change
from lab.api.pages import Page
from lab.api.problem import Problem, gone
from lab.api.routes import Routes, Target, list_answer, parse_path, problem_answer, verb_of
from lab.api.store import Store
from lab.api.watch import Refusal, Watch, WatchRequest
from lab.api.wire import Answer, Connection, Request, protocol_factory

SocketMaker = Callable[[], socket.socket]
_T = TypeVar("_T")


def listening_socket(port: int = 0, *, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket in the caller's network namespace; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named because asyncio turns off Nagle's algorithm only where it is
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port))
    listener.listen(512)
    listener.setblocking(False)
    return listener


class ApiServer:
    """Serves ``store`` until ``stop``. ``bookmark_every`` is in seconds; the real server sends one about every minute."""

    def __init__(self, store: Store, *, bookmark_every: float = 30.0) -> None:
        self.store = store
        self.faults = Faults()
        self.seen: deque[Seen] = deque(maxlen=50_000)
        self._bookmark_every = bookmark_every
        self._routes = Routes(store)
        self._connections: set[Connection] = set()
        self._watches: set[Watch] = set()
        self._makers: list[SocketMaker] = []
        self._servers: list[asyncio.Server] = []
        self._pump_due = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="api-server", daemon=True)
        self._unlisten = store.listen(self._changed)

    # from any thread

    def start(self) -> ApiServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the loop and every connection; the store stays."""
        self._unlisten()
        self._on_loop(self._close(listeners=True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def listen(self, make: SocketMaker) -> int:
        """Serve on the socket that ``make`` makes; its port is answered."""
        listener = make()
        port = int(listener.getsockname()[1])
        self._makers.append(make)
        self._on_loop(self._serve_on(listener))
        return port

    def refuse(self) -> None:
        """Be away: no listening socket, every connection broken off."""
        self._on_loop(self._close(listeners=True))

    def accept(self) -> None:
        """Be back on the same sockets; a maker with port 0 gets another port."""
        for make in self._makers:
            self._on_loop(self._serve_on(make()))

    def cut(self) -> None:
        """Break off every connection, watches among them, and go on serving."""
        self._on_loop(self._close(listeners=False))

    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    # on the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _serve_on(self, listener: socket.socket) -> None:
        factory = protocol_factory(self._serve, self._connections)
        self._servers.append(await self._loop.create_server(factory, sock=listener))

    async def _close(self, *, listeners: bool) -> None:
        if listeners:
            for server in self._servers:
                server.close()
            self._servers.clear()
        for connection in tuple(self._connections):
            connection.abort()

    def _changed(self, _: Change) -> None:
        """Called under the store's lock, in any thread: at most one wake-up waits at a time."""
        if not self._pump_due and not self._loop.is_closed():
            self._pump_due = True
            self._loop.call_soon_threadsafe(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        for watch in tuple(self._watches):
            watch.pump()

    def _serve(self, request: Request, connection: Connection) -> None:
        target = parse_path(request.path)
        verb, plural = verb_of(request, target), target.kind.plural if target else ""
        if request.path.startswith("/lab/"):
            connection.answer(self._control(request))
            return
        agent = request.headers.get("user-agent", "")
        self.seen.append(Seen(time.monotonic(), request.client, verb, plural, request.path, dict(request.query), agent))
        fault = self.faults.take(verb=verb, plural=plural, path=request.path, client=request.client)
        if fault is None:
            self._fulfil(request, target, connection)
        elif fault.action == "delay":
            self._loop.call_later(fault.seconds, self._fulfil, request, target, connection)
        else:
            self._spoil(fault, request, target, connection)

    def _fulfil(self, request: Request, target: Target | None, connection: Connection) -> None:
        answer = self._routes.answer(request, target)
        if isinstance(answer, Answer):
            connection.answer(answer)
        else:
            self._open(answer, connection)

    def _open(self, wanted: WatchRequest, connection: Connection, fault: Fault | None = None) -> None:
        try:
            watch = Watch(self.store, wanted, bookmark_every=self._bookmark_every, closed=self._watches.discard)
        except Problem as problem:
            connection.stream(Refusal(problem))
            return
        if fault is not None:
            watch.stalled = fault.action == "stall"
            watch.events_left = fault.keep if fault.action == "cut" else None
        self._watches.add(watch)
        connection.stream(watch)

    def _spoil(self, fault: Fault, request: Request, target: Target | None, connection: Connection) -> None:
        """Carry out a fault, except for a delay."""
        if fault.action == "answer":
            problem = Problem(fault.status, f"the server answers {fault.status} because it was told to")
            connection.answer(problem_answer(problem, retry_after=fault.seconds))
            return
        answer = self._routes.answer(request, target)
        watched = isinstance(answer, WatchRequest)
        if fault.action == "gone":
            problem = gone(0, self.store.version)
            if watched:
                connection.stream(Refusal(problem))
            else:
                connection.answer(problem_answer(problem))
        elif isinstance(answer, WatchRequest):
            self._open(answer, connection, fault)
        elif fault.action == "cut":
            connection.cut(answer)
        elif fault.action == "short":
            connection.answer(self._short(fault.keep, request, target) or answer)
        # "stall": the connection stays open without an answer

    def _short(self, keep: int, request: Request, target: Target | None) -> Answer | None:
        if target is None or verb_of(request, target) != "list":
            return None
        page = self._routes.page(request, target)
        return list_answer(target.kind, Page(page.version, page.entries[:keep]))

    def _control(self, request: Request) -> Answer:
        """The switches over HTTP, for a server in a process of its own: see ``lab.api.control``."""
        return control(request, faults=self.faults, store=self.store, seen=self.seen)
