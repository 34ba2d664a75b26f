"""The little HTTP server, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import pytest

from kube_router.kit.http import LARGEST_HEAD, MOST_CONNECTIONS, PIECE, HttpServer, Response

LARGE = "".join(f"line {n} ä\n" for n in range(200_000))
Talk = Callable[[HttpServer], Awaitable[None]]


def serving(talk: Talk, *, host: str = "127.0.0.1", read_timeout: float = 5.0) -> None:
    async def slow() -> Response:
        await asyncio.sleep(0.5)
        return Response(HTTPStatus.OK, "late\n")

    async def stuck() -> Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async def broken() -> Response:
        raise RuntimeError("broken")

    async def healthz() -> Response:
        return Response(HTTPStatus.OK, "OK\n")

    async def large() -> Response:
        return Response(HTTPStatus.OK, LARGE, headers=(("X-Size", "large"),))

    async def run() -> None:
        routes = {"/healthz": healthz, "/slow": slow, "/stuck": stuck, "/broken": broken, "/large": large}
        server = HttpServer(routes, read_timeout=read_timeout)
        await server.start(host, 0)
        try:
            await asyncio.wait_for(talk(server), 20)
        finally:
            await server.stop()

    asyncio.run(run())


async def exchange(port: int, request: bytes, *, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def test_an_answer_has_status_length_type_and_body_and_ends_the_connection() -> None:
    async def talk(server: HttpServer) -> None:
        head, _, body = (await exchange(server.port, get("/healthz"))).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 200 OK"
        assert lines[1].startswith("Date: ")
        assert lines[2:] == ["Content-Type: text/plain; charset=utf-8", "Content-Length: 3", "Connection: close"]
        assert body == b"OK\n"

    serving(talk)


def test_a_large_answer_arrives_whole_in_pieces_with_its_length_in_octets() -> None:
    async def talk(server: HttpServer) -> None:
        head, _, body = (await exchange(server.port, get("/large"))).partition(b"\r\n\r\n")
        assert body.decode() == LARGE
        assert f"Content-Length: {len(body)}" in head.decode()
        assert "X-Size: large" in head.decode()
        assert len(body) > 10 * PIECE

    serving(talk)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (get("/healthz", "POST"), 200, b"OK\n"),
        (get("/healthz", "HEAD"), 200, b""),
        (get("/healthz?verbose=1"), 200, b"OK\n"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200, b"OK\n"),
        (get("/"), 404, b"Not Found\n"),
        (get("/healthz/"), 404, b"Not Found\n"),
        (b"GET /healthz\r\n\r\n", 400, b"Bad Request\n"),
        (b"GET /healthz HTTP/2\r\n\r\n", 400, b"Bad Request\n"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, b"Bad Request\n"),
        (b"GET /" + b"a" * (2 * LARGEST_HEAD), 431, b"Request Header Fields Too Large\n"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * LARGEST_HEAD + b"\r\n\r\n", 431, b"Request Header Fields Too Large\n"),
    ],
)
def test_any_method_is_answered_and_anything_else_refused(request_: bytes, status: int, body: bytes) -> None:
    async def talk(server: HttpServer) -> None:
        answer = await exchange(server.port, request_)
        assert int(answer.split(b" ")[1]) == status
        assert answer.partition(b"\r\n\r\n")[2] == body

    serving(talk)


def test_who_never_finishes_asking_is_told_so_and_holds_up_nobody() -> None:
    async def talk(server: HttpServer) -> None:
        slow = asyncio.create_task(exchange(server.port, b"GET /healthz HT"))
        assert (await exchange(server.port, get("/healthz"))).endswith(b"OK\n")
        assert (await slow).startswith(b"HTTP/1.1 408 ")

    serving(talk, read_timeout=0.3)


def test_a_client_that_goes_away_is_no_trouble() -> None:
    async def talk(server: HttpServer) -> None:
        for request in (b"", b"GET", get("/slow")):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)
            await writer.drain()
            writer.transport.abort()
        await asyncio.sleep(0.4)
        assert (await exchange(server.port, get("/healthz"))).endswith(b"OK\n")

    serving(talk)


def test_who_holds_connections_open_cannot_keep_others_out() -> None:
    async def talk(server: HttpServer) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MOST_CONNECTIONS)]
        await asyncio.sleep(0.1)
        assert (await exchange(server.port, get("/healthz"))).startswith(b"HTTP/1.1 200 ")
        assert await idle[0][0].read() == b""
        idle[1][1].write(get("/healthz"))
        assert (await idle[1][0].read()).endswith(b"OK\n")
        for _, writer in idle:
            writer.close()

    serving(talk)


def test_when_all_are_being_answered_a_newcomer_is_turned_away() -> None:
    async def talk(server: HttpServer) -> None:
        busy = [asyncio.create_task(exchange(server.port, get("/slow"))) for _ in range(MOST_CONNECTIONS)]
        await asyncio.sleep(0.1)
        with contextlib.suppress(ConnectionResetError):
            assert await exchange(server.port, get("/healthz")) == b""
        answers = await asyncio.gather(*busy)
        assert all(answer.endswith(b"late\n") for answer in answers)

    serving(talk)


def test_a_handler_that_fails_is_answered_and_reported() -> None:
    reported: list[str] = []

    async def talk(server: HttpServer) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: reported.append(repr(context.get("exception"))))
        assert (await exchange(server.port, get("/broken"))).startswith(b"HTTP/1.1 500 ")
        await asyncio.sleep(0.05)
        gc.collect()

    serving(talk)
    assert reported == ["RuntimeError('broken')"]


def test_stopping_lets_an_answer_under_way_finish_and_takes_no_more() -> None:
    async def talk(server: HttpServer) -> None:
        port = server.port
        late = asyncio.create_task(exchange(port, get("/slow")))
        await asyncio.sleep(0.05)
        await server.stop()
        assert (await late).endswith(b"late\n")
        with pytest.raises(ConnectionRefusedError):
            await exchange(port, get("/healthz"))
        await server.stop()

    serving(talk)


def test_stopping_does_not_wait_for_an_answer_that_never_comes() -> None:
    async def talk(server: HttpServer) -> None:
        stuck = asyncio.create_task(exchange(server.port, get("/stuck")))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(server.stop(), 3)
        assert await stuck == b""

    serving(talk)


def test_an_empty_host_means_all_addresses_of_both_families() -> None:
    async def talk(server: HttpServer) -> None:
        assert (await exchange(server.port, get("/healthz"))).endswith(b"OK\n")
        assert (await exchange(server.port, get("/healthz"), host="::1")).endswith(b"OK\n")

    serving(talk, host="")


def test_a_port_in_use_is_an_error() -> None:
    async def run(port: int) -> None:
        with pytest.raises(OSError, match="in use"):
            await HttpServer({}).start("127.0.0.1", port)
        with pytest.raises(OSError, match="in use"):
            await HttpServer({}).start("", port)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(run(taken.getsockname()[1]))
