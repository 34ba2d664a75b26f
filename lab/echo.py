"""What runs in the lab's pods: servers that say who they are and whom they see. One thread serves all pods of all nodes.

Over TCP and SCTP a greeting comes at once, and then everything is echoed; over UDP every datagram gets one answer. Both are lines
of JSON: {"pod": "web-1", "to": "10.233.66.3:80", "from": "10.233.64.2:41234"}, for UDP with "got", the text that came.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PROTOCOLS = {"tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP), "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP)}
PROTOCOLS["sctp"] = (socket.SOCK_STREAM, getattr(socket, "IPPROTO_SCTP", 132))
IP_PKTINFO = 8  # <linux/in.h>; the socket module has only the IPv6 one


def place(address: tuple[object, ...]) -> str:
    """An address and a port as text: 10.0.0.1:80, [fd00::1]:80; an IPv4 address seen by IPv6 as itself."""
    host, port = str(address[0]).removeprefix("::ffff:"), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Listener:
    """One port of one server."""

    port: int
    protocol: str  # tcp, udp, sctp

    def open(self, families: Iterable[int]) -> list[socket.socket]:
        """Sockets in the calling thread's network namespace; an error for one closes the others."""
        kind, number = PROTOCOLS[self.protocol]
        with contextlib.ExitStack() as stack:
            sockets = []
            for family in families:
                made = stack.enter_context(socket.socket(family, kind, number))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if self.protocol == "udp":  # so that the answer comes from the address that was asked
                    level, name = (socket.IPPROTO_IP, IP_PKTINFO)
                    if family == socket.AF_INET6:
                        level, name = (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
                    made.setsockopt(level, name, 1)
                made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", self.port))
                made.setblocking(False)
                if self.protocol != "udp":
                    made.listen(64)
                sockets.append(made)
            stack.pop_all()
            return sockets


class Server:
    """The sockets of one pod; made by ``Echo.serve``."""

    def __init__(self, name: str, echo: Echo) -> None:
        self.name = name
        self._echo = echo
        self.sockets: set[socket.socket] = set()

    def close(self, *, flows: bool = True) -> None:
        """Stop listening and, with ``flows``, break established connections as the end of the process would."""
        self._echo.forget(self, flows=flows)


class Echo:
    """All servers of a lab."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._todo: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._running = True
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)
        self._thread.start()

    def serve(self, name: str, sockets: Iterable[socket.socket]) -> Server:
        """Serve on sockets that were opened elsewhere (``Listener.open``); they are closed with the server."""
        server = Server(name, self)
        for made in sockets:
            server.sockets.add(made)
            self._later(lambda made=made: self._watch(server, made))  # type: ignore[misc]
        return server

    def forget(self, server: Server, *, flows: bool) -> None:
        done = threading.Event()

        def close() -> None:
            for made in tuple(server.sockets):
                if flows or _is_listening(made):
                    self._drop(server, made)
            done.set()

        self._later(close)
        done.wait(timeout=30)

    def stop(self) -> None:
        self._running = False
        self._later(lambda: None)
        self._thread.join(timeout=10)
        for key in tuple(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._waker.close()

    # the thread

    def _later(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._todo.append(work)
        with contextlib.suppress(OSError):
            self._waker.send(b"x")

    def _woken(self) -> None:
        self._wake.recv(4096)
        with self._lock:
            todo, self._todo = self._todo, []
        for work in todo:
            work()

    def _run(self) -> None:
        while self._running:
            for key, _ in self._selector.select():
                key.data()

    def _watch(self, server: Server, made: socket.socket) -> None:
        if made.type == socket.SOCK_DGRAM:
            self._selector.register(made, selectors.EVENT_READ, lambda: self._datagram(server, made))
        else:
            self._selector.register(made, selectors.EVENT_READ, lambda: self._accept(server, made))

    def _drop(self, server: Server, made: socket.socket) -> None:
        server.sockets.discard(made)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(made)
        made.close()

    def _accept(self, server: Server, listener: socket.socket) -> None:
        try:
            flow, peer = listener.accept()
        except OSError:
            return
        flow.setblocking(False)
        server.sockets.add(flow)
        self._selector.register(flow, selectors.EVENT_READ, lambda: self._echo(server, flow))
        greeting = {"pod": server.name, "to": place(flow.getsockname()), "from": place(peer)}
        with contextlib.suppress(OSError):
            flow.send(json.dumps(greeting).encode() + b"\n")

    def _echo(self, server: Server, flow: socket.socket) -> None:
        try:
            data = flow.recv(65536)
            if data:
                flow.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(server, flow)

    def _datagram(self, server: Server, made: socket.socket) -> None:
        try:
            data, extra, _, peer = made.recvmsg(65536, 256)
            asked, answer_from = _asked_address(made, extra)
            said = {"pod": server.name, "to": asked, "from": place(peer), "got": data.decode(errors="replace")}
            made.sendmsg([json.dumps(said).encode() + b"\n"], answer_from, 0, peer)
        except OSError:
            return  # an ICMP error of an earlier answer, or no way back: the asker will notice


def _is_listening(made: socket.socket) -> bool:
    return made.type == socket.SOCK_DGRAM or bool(made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _asked_address(made: socket.socket, extra: list[tuple[int, int, bytes]]) -> tuple[str, list[tuple[int, int, bytes]]]:
    """The address that a datagram was sent to, and the control message that makes the answer come from it."""
    port = made.getsockname()[1]
    for level, name, data in extra:
        if level == socket.IPPROTO_IP and name == IP_PKTINFO:
            _, _, destination = struct.unpack("I4s4s", data)  # struct in_pktinfo
            answer = struct.pack("I4s4s", 0, destination, b"\0\0\0\0")
            return place((socket.inet_ntop(socket.AF_INET, destination), port)), [(level, name, answer)]
        if level == socket.IPPROTO_IPV6 and name == socket.IPV6_PKTINFO:
            destination = data[:16]  # struct in6_pktinfo
            return place((socket.inet_ntop(socket.AF_INET6, destination), port)), [(level, name, destination + b"\0" * 4)]
    return place(made.getsockname()), []
