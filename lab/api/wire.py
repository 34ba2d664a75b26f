"""HTTP/1.1 as a protocol of asyncio: requests in, answers and endless streams out, one request at a time per connection.

A client may send its next request before the answer; it waits its turn. Refused: TLS, HTTP/2, upgrades.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
WRITE_HIGH = 1024 * 1024  # bytes waiting for a slow client before its stream pauses

PHRASES = {200: "OK", 201: "Created", 400: "Bad Request", 404: "Not Found", 409: "Conflict", 410: "Gone", 500: "Internal"}


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request. Header names are in lower case; of a repeated query name the last value counts."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


@dataclass(slots=True)
class Answer:
    """A whole answer; ``parts`` are sent one behind the other without being copied together."""

    status: int
    parts: list[bytes]
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(status: int, thing: Any, **headers: str) -> Answer:
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, [msgspec.json.encode(thing)], headers=extra)


class Stream(Protocol):
    """An answer without an end: told when it may write (again), and when the client is gone."""

    def open(self, connection: Connection) -> None: ...
    def pump(self) -> None: ...
    def lost(self) -> None: ...


Serve = Callable[[Request, "Connection"], None]
"""Answers a request, now or later, by calling ``answer`` or ``stream`` of the connection, once."""


class Connection(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport

    def __init__(self, serve: Serve, open_connections: set[Connection]) -> None:
        self._serve = serve
        self._open = open_connections
        self._received = bytearray()
        self._busy = False
        self._close_after = False
        self._chunked = False
        self._stream: Stream | None = None
        self.writable = True
        self.client = ""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.client = (transport.get_extra_info("peername") or ("",))[0]
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._open.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._open.discard(self)
        if self._stream is not None:
            self._stream.lost()
            self._stream = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._busy:
            self._take()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._stream is not None:
            self._stream.pump()

    # the server's side

    def answer(self, answer: Answer) -> None:
        """Send a whole answer and turn to the next request."""
        if self.transport.is_closing():
            return
        length = sum(map(len, answer.parts))
        head = self._head(answer.status, answer.content_type, {**answer.headers, "Content-Length": str(length)})
        self.transport.writelines([head, *answer.parts])
        self._next()

    def cut(self, answer: Answer) -> None:
        """Promise the whole answer, send half of it, and break off."""
        whole = b"".join(answer.parts)
        head = self._head(answer.status, answer.content_type, {"Content-Length": str(len(whole))})
        self.transport.write(head + whole[: len(whole) // 2])
        self.transport.close()

    def stream(self, stream: Stream) -> None:
        """Start an answer whose end is not known; ``write`` and ``finish`` follow."""
        if self.transport.is_closing():
            stream.lost()
            return
        headers = {"Transfer-Encoding": "chunked"} if self._chunked else {}
        self.transport.write(self._head(200, "application/json", headers))
        self._stream = stream
        stream.open(self)

    def write(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """End the stream properly; the connection stays usable."""
        stream, self._stream = self._stream, None
        if stream is not None and not self.transport.is_closing():
            stream.lost()
            self.transport.write(b"0\r\n\r\n" if self._chunked else b"")
            self._next()

    def abort(self) -> None:
        """Break the connection off in the middle of whatever it was."""
        self.transport.abort()

    # inside

    def _head(self, status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {PHRASES.get(status, 'Status')}", f"Content-Type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self._close_after:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode()

    def _next(self) -> None:
        self._busy = False
        if self._close_after:
            self.transport.close()
        elif self._received:
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        if self._busy or self.transport.is_closing():
            return
        try:
            request = self._parse()
        except ValueError as error:
            self._close_after = True
            self.answer(Answer(400, [f"{error}\n".encode()], "text/plain"))
            return
        if request is not None:
            self._busy = True
            self._serve(request, self)

    def _parse(self) -> Request | None:
        """Take one request off what was received; None when it is not whole yet, ValueError when it never will be."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > MAX_HEAD:
                raise ValueError("the head of the request is too long")
            return None
        first, *rest = self._received[:end].decode("latin-1").split("\r\n")
        try:
            method, target, protocol = first.split(" ")
        except ValueError:
            raise ValueError("not an HTTP request") from None
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        body = self._body(headers, end + 4)
        if body is None:
            return None
        self._chunked = protocol != "HTTP/1.0"  # which ends a stream by closing only
        self._close_after = not self._chunked or headers.get("connection", "").lower() == "close"
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return Request(method, unquote(parts.path), query, headers, body, self.client)

    def _body(self, headers: Mapping[str, str], start: int) -> bytes | None:
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = int(headers.get("content-length", "0"))
        if length > MAX_BODY or length < 0:
            raise ValueError("the body of the request is too long")
        taken = self._chunks(start) if chunked else (bytes(self._received[start : start + length]), start + length)
        if taken is None or taken[1] > len(self._received):
            if headers.get("expect", "").lower() == "100-continue" and len(self._received) == start:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body, used = taken
        del self._received[:used]
        return body

    def _chunks(self, start: int) -> tuple[bytes, int] | None:
        body = bytearray()
        while (line := self._received.find(b"\r\n", start)) >= 0:
            size = int(self._received[start:line].split(b";")[0], 16)
            start = line + 2 + size + 2
            if start > len(self._received):
                return None
            if size == 0:
                return bytes(body), start
            body += self._received[line + 2 : line + 2 + size]
        return None


def protocol_factory(serve: Serve, open_connections: set[Connection]) -> Callable[[], Connection]:
    return partial(Connection, serve, open_connections)
