"""What stands on which port: /healthz and /readyz on the one, the metrics on the other, as the flags say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from kube_router.config.faults import Fault, StartRefused
from kube_router.config.options import Options
from kube_router.kit.http import Handler, HttpServer, Response
from kube_router.telemetry.exposition import CONTENT_TYPE, render
from kube_router.telemetry.health import Health, Verdict
from kube_router.telemetry.metrics import Registry


class ListenError(StartRefused):
    """Addresses or ports of the flags cannot be listened on, perhaps only now."""

    status = 1


def health_routes(health: Health) -> dict[str, Handler]:
    """The probes: alive is 200 or 500 (the original's words), ready is 200 or 503; the reasons follow, a line each."""

    async def healthz() -> Response:
        return _verdict(health.live(), HTTPStatus.INTERNAL_SERVER_ERROR, "Unhealthy")

    async def readyz() -> Response:
        return _verdict(health.ready(), HTTPStatus.SERVICE_UNAVAILABLE, "Not ready")

    return {"/healthz": healthz, "/readyz": readyz}


def metrics_routes(metrics: Registry, path: str) -> dict[str, Handler]:
    """The scrape, read and rendered in a thread: it may ask the kernel for thousands of counters. Scrapes at once wait for each other,
    so that many who ask take no more of the node than one."""
    turn = asyncio.Lock()

    async def scrape() -> Response:
        async with turn:
            text = await asyncio.to_thread(lambda: render(metrics.collect()))
        return Response(HTTPStatus.OK, text, CONTENT_TYPE)

    return {path: scrape}


async def start(options: Options, *, health: Health, metrics: Registry) -> tuple[HttpServer, ...]:
    """Listen wherever the flags ask for it; stop each of the servers in the end. ListenError when one cannot."""
    servers: list[HttpServer] = []
    faults: list[Fault] = []
    for listener in _listeners(options, health, metrics):
        server = HttpServer(listener.routes)
        try:
            await server.start(listener.address.removeprefix("[").removesuffix("]"), listener.port)
        except OSError as error:
            faults.append(listener.fault(error))
        else:
            servers.append(server)
    if faults:
        for server in servers:
            await server.stop()
        raise ListenError(tuple(faults))
    return tuple(servers)


@dataclass(frozen=True, slots=True)
class _Listener:
    name: str  # of its flags: --NAME-port and --NAME-addr
    address: str
    port: int
    routes: dict[str, Handler]

    def fault(self, error: OSError) -> Fault:
        problem = f"cannot listen on {self.address or 'all addresses'}, port {self.port}: {error.strerror or error}"
        advice = f"free it, or give another --{self.name}-port or --{self.name}-addr"
        return Fault(f"--{self.name}-port", str(self.port), problem, advice)


def _listeners(options: Options, health: Health, metrics: Registry) -> Iterator[_Listener]:
    if options.health_port:
        yield _Listener("health", options.health_addr, options.health_port, health_routes(health))
    if options.metrics_enabled:
        routes = metrics_routes(metrics, options.metrics_path)
        yield _Listener("metrics", options.metrics_addr, options.metrics_port, routes)


def _verdict(verdict: Verdict, bad: HTTPStatus, word: str) -> Response:
    if verdict.good:
        return Response(HTTPStatus.OK, "OK\n")
    return Response(bad, "\n".join([word, *verdict.reasons, ""]))
