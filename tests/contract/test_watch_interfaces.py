"""Links of a real network namespace: complete lists, notices, disturbances, storms."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkSocket
from kube_router.cache.cache import Cache
from kube_router.codec.netlink import Message, Reply
from kube_router.kit.errors import Stale
from kube_router.model.objects import Interface, Kind, Name
from kube_router.model.state.links import AddressKey, LinkKey, RouteKey
from kube_router.watch.events import Batch, Event, Replaced, write
from kube_router.watch.interfaces import BUFFER, Dumper, InterfaceWatch
from kube_router.watch.linktable import Disturbance, LinkTable

pytestmark = [pytest.mark.needs("root"), pytest.mark.usefixtures("netns")]


def ip(*lines: str) -> None:
    """Run lines of `ip -batch`."""
    subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(lines).encode(), check=True, timeout=30)


class Watched:
    """A running watch, the cache that it fills, and all that it told."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.events: list[Event] = []
        self.batches = 0
        self.disturbances: list[Disturbance] = []

    def sink(self, batch: Batch) -> None:
        self.batches += 1
        self.events += batch.events
        write(batch.events, self.cache)

    def notice(self, disturbance: Disturbance) -> None:
        self.disturbances.append(disturbance)

    def link(self, name: str) -> Interface | None:
        return self.cache.view.interfaces.get(Name("", name))

    @property
    def keys(self) -> set[object]:
        return {key for disturbance in self.disturbances for key in disturbance.keys}

    @property
    def kinds(self) -> set[type]:
        return {kind for disturbance in self.disturbances for kind in disturbance.kinds}

    def forget(self) -> None:
        self.events.clear()
        self.disturbances.clear()
        self.batches = 0

    async def until(self, condition: Callable[[], object], *, timeout: float = 10.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s: {dict(self.cache.view.interfaces)}"
            await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Everything that was said before has arrived."""
        await asyncio.sleep(0.1)


@asynccontextmanager
async def watching(dumper: Callable[[], Dumper] = lambda: NetlinkSocket(ROUTE), *, buffer: int = BUFFER) -> AsyncIterator[Watched]:
    watched = Watched()
    watch = InterfaceWatch(watched.sink, watched.notice, dumper=dumper, buffer=buffer)
    task = asyncio.create_task(watch.run())
    try:
        await watched.until(lambda: watched.cache.listed([Kind.INTERFACE]) or task.done())
        assert not task.done(), task.exception()
        assert (watch.status.listed, watch.status.error) == (True, "")
        yield watched
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def fresh() -> dict[Name, Interface]:
    """What a new list says now."""
    from kube_router.codec.notices import dump_addresses, dump_links, parse

    netlink = NetlinkSocket(ROUTE)
    found = netlink.dump(dump_links()) + netlink.dump(dump_addresses())
    netlink.close()
    table = LinkTable()
    table.replace(told for reply in found if (told := parse(reply.type, reply.payload)) is not None)
    return {link.name: link for link in table.complete().objects if isinstance(link, Interface)}


def test_links_and_their_addresses_are_listed_and_followed() -> None:
    async def story() -> None:
        ip("link set lo up", "link add up0 type veth peer name far0", "link set up0 up mtu 1400", "addr add 192.168.7.1/24 dev up0")
        async with watching() as watched:
            assert watched.link("lo") == Interface(Name("", "lo"), index=1, up=True, mtu=65536, addresses=("127.0.0.1/8", "::1/128"))
            uplink = watched.link("up0")
            assert uplink is not None
            assert (uplink.kind, uplink.up, uplink.mtu, uplink.addresses) == ("veth", True, 1400, ("192.168.7.1/24",))
            ip("addr add fd00::7/64 dev up0 nodad", "link set up0 mtu 1300")
            await watched.until(lambda: (now := watched.link("up0")) and now.mtu == 1300 and "fd00::7/64" in now.addresses)
            ip("link del up0")
            await watched.until(lambda: watched.link("up0") is None)

    asyncio.run(story())


def test_gateways_of_default_routes_come_and_go_with_them() -> None:
    def gateways(watched: Watched) -> tuple[str, ...]:
        link = watched.link("up0")
        return link.gateways if link is not None else ()

    async def story() -> None:
        ip(
            "link set lo up",
            "link add up0 type veth peer name far0",
            "link set up0 up",
            "link set far0 up",
            "addr add 192.168.7.1/24 dev up0",
        )
        ip("addr add fd00::7/64 dev up0 nodad", "route add default via 192.168.7.254")
        async with watching() as watched:
            assert gateways(watched) == ("192.168.7.254",)
            ip("route add default via fd00::1")
            await watched.until(lambda: gateways(watched) == ("192.168.7.254", "fd00::1"))
            ip("route replace default via 192.168.7.253")
            await watched.until(lambda: gateways(watched) == ("192.168.7.253", "fd00::1"))
            ip("route add default via 192.168.7.252 metric 9")
            await watched.until(lambda: gateways(watched) == ("192.168.7.252", "192.168.7.253", "fd00::1"))
            ip("route del default via 192.168.7.253", "route del default via fd00::1")
            await watched.until(lambda: gateways(watched) == ("192.168.7.252",))
            ip("link set up0 down")
            await watched.until(lambda: gateways(watched) == ())

    asyncio.run(story())


def test_a_burst_is_one_batch() -> None:
    async def story() -> None:
        async with watching() as watched:
            watched.forget()
            ip("link add br0 type bridge", "link set br0 up", *(f"addr add 10.9.0.{n}/32 dev br0" for n in range(1, 200)))
            await watched.until(lambda: (now := watched.link("br0")) and len(now.addresses) == 199)
            assert watched.batches <= 5

    asyncio.run(story())


def test_pods_come_and_go_without_news() -> None:
    async def story() -> None:
        ip("link add kube-bridge type bridge", "link set kube-bridge up")
        async with watching() as watched:
            ip("addr add 10.1.0.1/24 dev kube-bridge")
            await watched.until(lambda: (now := watched.link("kube-bridge")) and now.addresses)
            await watched.settled()
            watched.forget()
            for n in range(3):
                ip(f"link add veth{n} type veth peer name pod{n}", f"link set veth{n} master kube-bridge", f"link set veth{n} up")
                await asyncio.sleep(0.05)
                ip(f"link set veth{n} nomaster", f"link del veth{n}")
            await watched.settled()
            # The first port's address settles whether the bridge has a carrier, which gives it its own link-local address.
            assert {event.object.name.name for event in watched.events} <= {"kube-bridge"}  # type: ignore[union-attr]
            assert watched.disturbances == []

    asyncio.run(story())


def test_a_route_of_ours_that_somebody_deletes_is_told_by_key() -> None:
    async def story() -> None:
        ip("link add up0 type veth peer name far0", "link set up0 up", "link set far0 up", "addr add 192.168.7.1/24 dev up0")
        async with watching() as watched:
            ip("route add 10.2.0.0/24 via 192.168.7.2 proto 17", "route add 10.3.0.0/24 via 192.168.7.2 proto static")
            await watched.settled()
            assert watched.disturbances == []
            ip("route del 10.3.0.0/24", "route del 10.2.0.0/24")
            await watched.until(lambda: watched.disturbances)
            assert (watched.keys, watched.kinds) == ({RouteKey("10.2.0.0/24", 254)}, set())

    asyncio.run(story())


@pytest.mark.parametrize("line", ["link set up0 down", "addr del 192.168.7.1/24 dev up0", "link del up0"])
def test_routes_that_the_kernel_drops_without_a_word_are_told_by_kind(line: str) -> None:
    async def story() -> None:
        ip("link add up0 type veth peer name far0", "link set up0 up", "link set far0 up", "addr add 192.168.7.1/24 dev up0")
        ip("route add 10.2.0.0/24 via 192.168.7.2 proto 17")
        async with watching() as watched:
            ip(line)
            await watched.until(lambda: RouteKey in watched.kinds)
            assert b"10.2.0.0/24" not in subprocess.run(["ip", "route"], capture_output=True, check=True, timeout=10).stdout

    asyncio.run(story())


def test_an_address_of_ours_or_its_local_route_that_somebody_deletes_is_told_by_key() -> None:
    async def story() -> None:
        ip("link add kube-dummy-if type bridge", "link set kube-dummy-if up", "addr add 10.96.0.1/32 dev kube-dummy-if")
        ip("addr add 10.96.0.2/32 dev kube-dummy-if", "addr add fd00::96/128 dev kube-dummy-if nodad")
        async with watching() as watched:
            assert watched.link("kube-dummy-if") is not None
            watched.forget()
            ip("route del local 10.96.0.1 dev kube-dummy-if table local")
            await watched.until(lambda: AddressKey("kube-dummy-if", "10.96.0.1/32") in watched.keys)
            ip("addr del 10.96.0.2/32 dev kube-dummy-if", "addr del fd00::96/128 dev kube-dummy-if")
            await watched.until(lambda: AddressKey("kube-dummy-if", "fd00::96/128") in watched.keys)
            assert AddressKey("kube-dummy-if", "10.96.0.2/32") in watched.keys
            assert watched.kinds == set()
            assert watched.events == []
            ip("link del kube-dummy-if")
            await watched.until(lambda: LinkKey("kube-dummy-if") in watched.keys)

    asyncio.run(story())


def test_a_storm_that_outruns_the_socket_ends_in_the_truth() -> None:
    """Thousands of notices while the loop is held up: the socket overflows, and the list that follows repairs it."""

    async def story() -> None:
        ip("link add br0 type bridge", "link set br0 up")
        lines = [f"addr add 10.{n >> 8}.{n & 255}.1/32 dev br0" for n in range(500)]
        async with watching(buffer=32 * 1024) as watched:
            for _ in range(3):
                ip(*lines)
                ip("addr flush dev br0")
            ip("addr add 10.255.255.1/32 dev br0")
            time.sleep(0.1)  # the loop itself is held up, as by a long computation
            await watched.until(lambda: sum(isinstance(event, Replaced) for event in watched.events) >= 2, timeout=20)
            await watched.until(lambda: dict(watched.cache.view.interfaces) == fresh(), timeout=20)
            link = watched.link("br0")
            assert link is not None
            assert link.addresses == ("10.255.255.1/32",)
            assert {LinkKey, AddressKey, RouteKey} <= watched.kinds

    asyncio.run(story())


def test_the_truth_is_found_while_others_change_the_tables_all_the_time() -> None:
    async def story() -> None:
        ip("link add br0 type bridge", "link set br0 up")
        lines: list[str] = []
        for n in range(200):
            lines += [f"addr add 10.8.{n >> 8}.{n & 255}/32 dev br0", f"link add v{n} type veth peer name w{n}"]
            lines += [f"addr del 10.8.{n >> 8}.{n & 255}/32 dev br0"] if n % 2 else []
            lines += [f"link del v{n}"] if n % 3 else []
        storm = await asyncio.create_subprocess_exec("ip", "-force", "-batch", "-", stdin=asyncio.subprocess.PIPE)
        feeding = asyncio.create_task(storm.communicate("\n".join(lines).encode()))
        async with watching() as watched:
            await feeding
            await watched.until(lambda: dict(watched.cache.view.interfaces) == fresh())
            link = watched.link("br0")
            assert link is not None
            assert len([prefix for prefix in link.addresses if prefix.startswith("10.8.")]) == 100

    asyncio.run(story())


class Reluctant:
    """A dumper whose first dumps fail."""

    def __init__(self, failures: Iterable[Exception]) -> None:
        self._failures = list(failures)
        self._socket = NetlinkSocket(ROUTE)

    def dump(self, message: Message) -> list[Reply]:
        if self._failures:
            raise self._failures.pop(0)
        return self._socket.dump(message)


def test_a_dump_that_cannot_be_had_is_tried_again_and_nothing_is_told_before() -> None:
    async def story() -> None:
        async with watching(lambda: Reluctant([Stale("interrupted"), OSError(12, "no memory")])) as watched:
            assert isinstance(watched.events[0], Replaced)
            assert watched.link("lo") is not None

    asyncio.run(story())
