"""The whole watch, threads and sockets and all, against the lab's API server, with its faults."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kube_router.cache.cache import Cache
from kube_router.codec.objects_fault import Fault as ObjectFault
from kube_router.kit.apiserver import ApiClient
from kube_router.model.objects import Kind, Name
from kube_router.watch.api import ApiWatch
from kube_router.watch.events import Batch, Event, Removed, Replaced, write
from kube_router.watch.gate import Backoff
from kube_router.watch.stream import Timing
from lab.api.faults import Fault
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store

OWN = "node1"
QUICK = Timing(page=3, list_timeout=5.0, silence=5.0, backoff=Backoff(first=0.01, most=0.1), linger=0.2)
Test = Callable[[], Coroutine[Any, Any, None]]


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}


def service(name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}], **spec},
    }


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


class Server:
    """The lab's API server with our node in it, on one port for as long as it lives."""

    def __init__(self) -> None:
        self.port = _free_port()
        self.begin(Store())
        self.objects.create(node(OWN))

    def begin(self, store: Store) -> None:
        self.store = store
        self.objects = Objects(store)
        self.api = ApiServer(store, bookmark_every=0.2).start()
        self.api.listen(lambda: listening_socket(self.port))

    def seen(self, verb: str, plural: str) -> int:
        return sum(1 for one in tuple(self.api.seen) if (one.verb, one.plural) == (verb, plural))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.api.stop()


class Watched:
    """A watch that fills a cache, and all that it told."""

    def __init__(self, watch: ApiWatch) -> None:
        self.watch = watch
        self.cache = Cache()
        self.events: list[Event] = []
        self.faults: list[ObjectFault] = []
        self.bugs: list[Exception] = []

    def sink(self, batch: Batch) -> None:
        self.events += batch.events
        self.faults += batch.faults
        write(batch.events, self.cache)

    def names(self, kind: Kind) -> set[str]:
        return {name.name for name in self.cache.view.store(kind)}

    def removed(self) -> set[str]:
        return {event.ref.name.name for event in self.events if isinstance(event, Removed)}

    async def until(self, condition: Callable[[], object], *, timeout: float = 10.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s: {self.watch.status()} {self.events[-5:]} {self.bugs}"
            await asyncio.sleep(0.005)

    async def listed(self, *kinds: Kind) -> None:
        await self.until(lambda: self.cache.listed(kinds))


@asynccontextmanager
async def watching(urls: Iterable[str], *kinds: Kind, timing: Timing = QUICK, own: str = OWN) -> AsyncIterator[Watched]:
    client = ApiClient.load(servers=tuple(urls))
    watched = Watched(ApiWatch(client, kinds, own_node=own, timing=timing))
    watched.watch.start(asyncio.get_running_loop(), watched.sink, watched.bugs.append)
    try:
        yield watched
    finally:
        began = time.monotonic()
        watched.watch.stop()
        assert time.monotonic() - began < 1.5
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("watch ")] == []
        assert watched.bugs == []
        client.close()


def test_objects_arrive_in_pages_and_then_one_by_one(server: Server) -> None:
    async def story() -> None:
        for n in range(10):
            server.objects.create(namespace(f"n{n}"))
        async with watching([server.url], Kind.NAMESPACE, Kind.NODE) as watched:
            await watched.listed(Kind.NAMESPACE, Kind.NODE)
            assert {f"n{n}" for n in range(10)} < watched.names(Kind.NAMESPACE)
            assert sum(isinstance(event, Replaced) for event in watched.events) == 2
            assert server.seen("list", "namespaces") >= 4
            server.objects.create(namespace("late", team="x"))
            await watched.until(lambda: "late" in watched.names(Kind.NAMESPACE))
            assert watched.cache.view.namespaces[Name("", "late")].labels["team"] == "x"
            server.objects.delete("ns", "n3")
            await watched.until(lambda: "n3" not in watched.names(Kind.NAMESPACE))
            assert all(status.listed and not status.error for status in watched.watch.status().values())

    asyncio.run(story())


def test_only_services_that_concern_us_are_received_and_a_change_of_label_is_no_removal(server: Server) -> None:
    async def story() -> None:
        proxy = "service.kubernetes.io/service-proxy-name"
        server.objects.create(service("plain"))
        server.objects.create(service("ours", labels={proxy: "kube-router"}))
        server.objects.create(service("foreign", labels={proxy: "other"}))
        server.objects.create(service("headless", clusterIP="None"))
        server.objects.create(service("labelled", labels={"service.kubernetes.io/headless": ""}))
        async with watching([server.url], Kind.SERVICE) as watched:
            await watched.listed(Kind.SERVICE)
            assert watched.names(Kind.SERVICE) == {"plain", "ours"}
            server.objects.patch("svc", "plain", {"metadata": {"labels": {proxy: "kube-router"}}}, namespace="default")
            await watched.until(lambda: watched.cache.view.services[Name("default", "plain")].labels.get(proxy))
            server.objects.patch("svc", "ours", {"metadata": {"labels": {proxy: None}}}, namespace="default")
            await watched.until(lambda: not watched.cache.view.services[Name("default", "ours")].labels.get(proxy))
            await asyncio.sleep(2 * QUICK.linger)
            assert watched.removed() == set()
            server.objects.patch("svc", "plain", {"metadata": {"labels": {proxy: "other"}}}, namespace="default")
            server.objects.delete("svc", "ours", "default")
            await watched.until(lambda: watched.names(Kind.SERVICE) == set())
            assert watched.removed() == {"plain", "ours"}

    asyncio.run(story())


@pytest.mark.parametrize("action", ["cut", "gone"])
def test_a_watch_that_ends_early_loses_nothing(server: Server, action: Any) -> None:
    async def story() -> None:
        server.api.faults.add(Fault(action, verb="watch", plural="namespaces", times=3, keep=1))
        async with watching([server.url], Kind.NAMESPACE) as watched:
            await watched.listed(Kind.NAMESPACE)
            for n in range(12):
                server.objects.create(namespace(f"n{n}"))
                server.objects.delete("ns", f"n{n - 1}")
                await asyncio.sleep(0.01)
            await watched.until(lambda: watched.names(Kind.NAMESPACE) >= {"n11"} and "n10" not in watched.names(Kind.NAMESPACE))
            assert not {f"n{n}" for n in range(11)} & watched.names(Kind.NAMESPACE)

    asyncio.run(story())


def test_a_stale_version_is_listed_anew(server: Server) -> None:
    async def story() -> None:
        async with watching([server.url], Kind.NAMESPACE) as watched:
            await watched.listed(Kind.NAMESPACE)
            server.api.refuse()
            server.objects.create(namespace("meanwhile"))
            server.objects.delete("ns", "default")
            server.store.expire()
            server.api.accept()
            await watched.until(lambda: "meanwhile" in watched.names(Kind.NAMESPACE))
            assert "default" not in watched.names(Kind.NAMESPACE)
            assert server.seen("list", "namespaces") >= 2

    asyncio.run(story())


def test_an_outage_removes_nothing_says_why_and_ends_without_a_list(server: Server) -> None:
    async def story() -> None:
        async with watching([server.url], Kind.NAMESPACE, Kind.NODE) as watched:
            await watched.listed(Kind.NAMESPACE, Kind.NODE)
            before = {kind: watched.names(kind) for kind in (Kind.NAMESPACE, Kind.NODE)}
            told = len(watched.events)
            server.api.refuse()
            await watched.until(lambda: any(status.error for status in watched.watch.status().values()))
            await asyncio.sleep(0.3)
            assert "refused" in "".join(status.error for status in watched.watch.status().values())
            assert {kind: watched.names(kind) for kind in before} == before
            server.objects.create(namespace("meanwhile"))
            server.api.accept()
            await watched.until(lambda: "meanwhile" in watched.names(Kind.NAMESPACE))
            await watched.until(lambda: not any(status.error for status in watched.watch.status().values()))
            assert [event for event in watched.events[told:] if isinstance(event, Replaced | Removed)] == []

    asyncio.run(story())


@pytest.mark.parametrize("status", [403, 500, 503, 429])
def test_a_server_that_refuses_lists_is_told_about_at_once(server: Server, status: int) -> None:
    async def story() -> None:
        fault = server.api.faults.add(Fault("answer", plural="namespaces", status=status))
        async with watching([server.url], Kind.NAMESPACE, Kind.NODE) as watched:
            await watched.listed(Kind.NODE)
            await watched.until(lambda: watched.watch.status()[Kind.NAMESPACE].error, timeout=2.0)
            assert watched.watch.status()[Kind.NAMESPACE].error.startswith(str(status))
            assert not watched.cache.listed([Kind.NAMESPACE])
            server.api.faults.remove(fault)
            await watched.listed(Kind.NAMESPACE)
            await watched.until(lambda: watched.watch.status()[Kind.NAMESPACE].error == "")

    asyncio.run(story())


def test_a_server_that_comes_back_empty_empties_nothing(server: Server) -> None:
    async def story() -> None:
        for n in range(5):
            server.objects.create(service(f"s{n}"))
        async with watching([server.url], Kind.SERVICE, Kind.NODE, Kind.NAMESPACE) as watched:
            await watched.listed(Kind.SERVICE, Kind.NODE, Kind.NAMESPACE)
            before = {kind: watched.names(kind) for kind in (Kind.SERVICE, Kind.NODE, Kind.NAMESPACE)}
            filled = server.store
            server.api.stop()
            server.begin(Store())
            await watched.until(lambda: "does not know this node" in watched.watch.status()[Kind.SERVICE].error)
            await watched.until(lambda: "without this one" in watched.watch.status()[Kind.NODE].error)
            assert {kind: watched.names(kind) for kind in before} == before
            assert watched.removed() == set()
            server.api.stop()
            server.begin(filled)
            server.objects.create(service("new"))
            await watched.until(lambda: "new" in watched.names(Kind.SERVICE))
            assert watched.names(Kind.SERVICE) == before[Kind.SERVICE] | {"new"}
            await watched.until(lambda: not any(status.error for status in watched.watch.status().values()))

    asyncio.run(story())


def test_a_valid_empty_list_is_ready(server: Server) -> None:
    async def story() -> None:
        async with watching([server.url], Kind.POD, Kind.SERVICE, Kind.NETWORK_POLICY, Kind.ENDPOINT_SLICE) as watched:
            await watched.listed(Kind.POD, Kind.SERVICE, Kind.NETWORK_POLICY, Kind.ENDPOINT_SLICE)
            await watched.until(lambda: all(status.listed and not status.error for status in watched.watch.status().values()))

    asyncio.run(story())


def test_a_short_list_of_nothing_is_questioned_and_the_true_one_counts(server: Server) -> None:
    async def story() -> None:
        server.objects.create(service("s"))
        server.api.faults.add(Fault("short", verb="list", plural="nodes", times=2, keep=0))
        async with watching([server.url], Kind.NODE) as watched:
            await watched.listed(Kind.NODE)
            assert watched.names(Kind.NODE) == {OWN}
            assert server.seen("list", "nodes") == 3

    asyncio.run(story())


def test_a_silent_watch_is_opened_again(server: Server) -> None:
    async def story() -> None:
        server.api.faults.add(Fault("stall", verb="watch", plural="namespaces", times=1))
        async with watching([server.url], Kind.NAMESPACE, timing=Timing(silence=0.5, backoff=QUICK.backoff)) as watched:
            await watched.listed(Kind.NAMESPACE)
            server.objects.create(namespace("late"))
            await watched.until(lambda: "late" in watched.names(Kind.NAMESPACE))
            assert server.seen("watch", "namespaces") >= 2

    asyncio.run(story())


def test_bookmarks_keep_a_quiet_watch_open(server: Server) -> None:
    async def story() -> None:
        async with watching([server.url], Kind.NAMESPACE, timing=Timing(silence=0.6, backoff=QUICK.backoff)) as watched:
            await watched.listed(Kind.NAMESPACE)
            await asyncio.sleep(1.5)
            assert server.seen("watch", "namespaces") == 1

    asyncio.run(story())


def test_another_server_is_asked_when_the_first_is_away(server: Server) -> None:
    async def story() -> None:
        async with watching([f"http://127.0.0.1:{_free_port()}", server.url], Kind.NAMESPACE) as watched:
            await watched.listed(Kind.NAMESPACE)
            assert watched.watch.status()[Kind.NAMESPACE].error == ""

    asyncio.run(story())


def test_a_bad_object_is_named_once_and_its_neighbours_are_there(server: Server) -> None:
    async def story() -> None:
        broken = node("odd")
        broken["spec"] = {"podCIDRs": ["10.1.0.0/99"], "podCIDR": "10.1.0.0/99"}
        server.objects.create(broken)
        async with watching([server.url], Kind.NODE) as watched:
            await watched.listed(Kind.NODE)
            assert watched.names(Kind.NODE) == {OWN, "odd"}
            assert [(str(fault.ref), fault.field) for fault in watched.faults] == [("Node odd", "spec.podCIDRs[0]")]
            server.store.expire()
            server.api.cut()
            server.objects.create(node("late"))
            await watched.until(lambda: "late" in watched.names(Kind.NODE))
            assert len(watched.faults) == 1
            assert watched.watch.faults() == watched.faults

    asyncio.run(story())


def test_a_server_that_never_answers_does_not_hold_up_the_end(server: Server) -> None:
    async def story() -> None:
        server.api.faults.add(Fault("stall"))
        watch = ApiWatch(ApiClient.load(servers=[server.url]), [Kind.NODE, Kind.POD], own_node=OWN, timing=QUICK)
        told: list[Batch] = []
        watch.start(asyncio.get_running_loop(), told.append, _raise)
        await asyncio.sleep(0.2)
        assert server.seen("list", "pods") == 1
        began = time.monotonic()
        watch.stop()
        assert time.monotonic() - began < 1.5
        server.api.cut()  # the threads outlived it, waiting for an answer; they end with their connections and tell nothing
        for thread in [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]:
            assert thread.daemon
            thread.join(5)
            assert not thread.is_alive()
        await asyncio.sleep(0)
        assert told == []

    asyncio.run(story())


def _raise(bug: Exception) -> None:
    raise bug
