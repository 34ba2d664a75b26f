"""A small HTTP/1.1 server for probes and scrapes, on the event loop that starts it.

One request a connection, answered by the path alone (or the same whatever the path); any method will do, as with the original. Slow,
oversized and malformed requests are turned away; when too many connections are open, the one that has been asking for longest makes room,
so that nobody can keep the kubelet's probe out by holding connections. It refuses everything else: bodies, TLS, keep-alive, compression.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

LARGEST_HEAD: Final = 8192  # bytes of request line and headers
PIECE: Final = 64 * 1024  # characters of a body that are sent at a time
MOST_CONNECTIONS: Final = 64
READ_TIMEOUT: Final = 5.0  # seconds for the request to arrive
ANSWER_TIMEOUT: Final = 30.0  # seconds for the answer to be made and taken
STOP_TIMEOUT: Final = 1.0  # seconds that answers under way get when we stop
NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back: status, body and its type, and headers beyond those that every answer has."""

    status: HTTPStatus
    body: str
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[], Awaitable[Response]]


class HttpServer:
    """Serves a fixed table of paths from `start` to `stop`; `other` answers for all paths that are not in it."""

    def __init__(self, routes: Mapping[str, Handler], *, other: Handler | None = None, read_timeout: float = READ_TIMEOUT) -> None:
        self._routes = dict(routes)
        self._other = other
        self._read_timeout = read_timeout
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._asking: dict[asyncio.Task[None], None] = {}  # those whose request is not complete, oldest first

    async def start(self, host: str, port: int) -> None:
        """Listen on that address and port; an empty host means all addresses of both families. OSError if we cannot."""
        if host:
            self._server = await asyncio.start_server(self._accept, host, port, limit=LARGEST_HEAD)
        else:
            self._server = await asyncio.start_server(self._accept, sock=_everywhere(port), limit=LARGEST_HEAD)

    @property
    def port(self) -> int:
        """The port listened on, of use where 0 was asked for; 0 when not listening."""
        if self._server is None or not self._server.sockets:
            return 0
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening, let answers under way finish for a moment, then end what is left."""
        if self._server is None:
            return
        self._server.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=STOP_TIMEOUT)
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            if not self._asking:
                writer.transport.abort()
                return
            next(iter(self._asking)).cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        self._asking[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._asking.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A client that goes away is no event of ours.
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(self._read_timeout + ANSWER_TIMEOUT):
                    method, response = await self._answer(reader)
                    if response is not None:
                        for piece in _encoded(response, with_body=method != "HEAD"):
                            writer.write(piece)
                            await writer.drain()
        except Exception:
            writer.writelines(_encoded(_plain(HTTPStatus.INTERNAL_SERVER_ERROR), with_body=True))
            raise
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Response | None]:
        """The request's method and what to say; nothing to somebody who never finished asking."""
        try:
            async with asyncio.timeout(self._read_timeout):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "", _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except asyncio.IncompleteReadError:
            return "", None
        except TimeoutError:
            return "", _plain(HTTPStatus.REQUEST_TIMEOUT)
        finally:
            self._no_longer_asking()
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", _plain(HTTPStatus.BAD_REQUEST)
        handler = self._routes.get(words[1].partition("?")[0], self._other)
        return words[0], _plain(HTTPStatus.NOT_FOUND) if handler is None else await handler()

    def _no_longer_asking(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # every connection is served by a task
        self._asking.pop(task, None)


def _everywhere(port: int) -> socket.socket:
    """A socket for all addresses of both families, or of IPv4 alone where the node has IPv6 switched off."""
    try:
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise
        return socket.create_server(("0.0.0.0", port))


def _plain(status: HTTPStatus) -> Response:
    return Response(status, f"{status.phrase}\n")


def _encoded(response: Response, *, with_body: bool) -> Iterator[bytes]:
    """Head and body in pieces: a scrape of thousands of Services has megabytes, which need not be held several times over."""
    body = response.body
    more = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(body) if body.isascii() else len(body.encode())}\r\n"
        f"{more}"
        "Connection: close\r\n\r\n"
    )
    yield head.encode("latin-1") + (body[:PIECE].encode() if with_body else b"")
    if with_body:
        for start in range(PIECE, len(body), PIECE):
            yield body[start : start + PIECE].encode()
