"""Routes and overlay of a running controller on a real kernel: what somebody disturbs is put right at once, with a sync period of an
hour; and whatever the speaker tells, the kernel's routes are a function of it."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from kube_router.app.inbox import Inbox
from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.fou import FouTarget
from kube_router.apply.kernel.neighbours import NeighbourTarget
from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkSocket
from kube_router.apply.kernel.policy_rules import RuleTarget
from kube_router.apply.kernel.routes import RouteTarget
from kube_router.apply.kernel.tunnels import TunnelTarget
from kube_router.cache.cache import Cache
from kube_router.codec.accepted import Gate
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle
from kube_router.control.fib import FibController
from kube_router.control.runner import Runner
from kube_router.control.schedule import Schedule
from kube_router.model.objects import BestPath, Kind, Name, Node, Ref
from kube_router.watch.events import Batch, Event, Put, Removed, Replaced
from kube_router.watch.interfaces import InterfaceWatch
from tests.engine import Recorder

pytestmark = [pytest.mark.needs("root", "netns", "veth", "vxlan"), pytest.mark.usefixtures("uplink")]

OWN = Node(Name("", "n1"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"), addresses=("192.168.50.50", "fd00:50::50"))
FAR = Node(Name("", "n3"), pod_cidrs=("10.233.65.0/24",), addresses=("192.168.60.52", "fd00:60::52"))
NEAR_HOPS = {4: "192.168.50.51", 6: "fd00:50::51"}
PREFIXES = {4: "10.233.66.0/24", 6: "fd00:66::/64"}
PATHS = {PREFIXES[family]: (NEAR_HOPS[family],) for family in (4, 6)}


@pytest.fixture
def uplink(netns: object) -> None:
    ip(
        "link set lo up",
        "link add up0 type veth peer name up1",
        "link set up0 up",
        "link set up1 up",
        "addr add 192.168.50.50/24 dev up0",
        "addr add fd00:50::50/64 dev up0 nodad",
    )


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)


def ours(*, table: str = "main") -> dict[str, Any]:
    """Routes of protocol 17 as `ip` tells them: prefix -> gateways or links."""
    found = {}
    for family in ("-4", "-6"):
        text = subprocess.run(
            ["ip", "-j", family, "route", "show", "table", table, "proto", "17"], text=True, capture_output=True, check=False
        )
        for one in json.loads(text.stdout or "[]"):
            hops = one.get("nexthops", [one])
            found[one["dst"]] = tuple(sorted(hop.get("gateway", hop["dev"]) for hop in hops))
    return found


class Live:
    """A controller that runs, with the watch of this host's links. `drifts` counts repairs by kind."""

    def __init__(self, **flags: Any) -> None:
        options = defaults(node_name="n1", enable_ipv6=True, **flags)
        self.report, self.cache = Recorder(), Cache()
        self.tunnels = TunnelTarget()
        self.routes = RouteTarget()
        targets = [self.tunnels, self.routes, NeighbourTarget(), RuleTarget(), FouTarget(Commands(), lambda: (options.overlay_encap_port,))]
        controller = FibController(options)
        self.inbox = Inbox(self.cache, gate=Gate(OWN.name), fault=lambda fault: None, seen=lambda kind, n: None)
        cycle = Cycle(controller, feed=self.cache.feed(controller.reads), view=self.cache.view, targets=targets, report=self.report)
        self.passes = 0
        self.runner = Runner(
            cycle,
            Schedule(time.monotonic(), kinds=controller.writes, max_gap=3600.0),
            ready=lambda: not self.cache.unlisted(controller.reads),
            done=self._done,
        )
        self.inbox.serve(self.runner)
        self.watch = InterfaceWatch(self.inbox, self.inbox.disturbed, dumper=lambda: NetlinkSocket(ROUTE), own=self.routes.port)

    def _done(self, outcome: object, seconds: float) -> None:
        del outcome, seconds
        self.passes += 1

    @property
    def drifts(self) -> set[str]:
        return {type(key).__name__ for key in self.report.drifts}

    def tell(self, *events: Event) -> None:
        self.inbox(Batch(events))

    async def until(self, condition: Callable[[], object], *, seconds: float = 2.0) -> None:
        """True within the time that a repair may take."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {ours()}, {self.report.rejections}"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def living(paths: dict[str, tuple[str, ...]], **flags: Any) -> AsyncIterator[Live]:
    live = Live(**flags)
    live.tell(Replaced(Kind.NODE, (OWN, FAR)), Replaced(Kind.BEST_PATH, tuple(BestPath(Name("", p), hops) for p, hops in paths.items())))
    tasks = [asyncio.create_task(live.watch.run()), asyncio.create_task(live.runner.run())]
    try:
        await live.until(lambda: ours().keys() == paths.keys(), seconds=10)
        live.report.drifts.clear()
        yield live
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def play(story: Callable[[Live], Awaitable[None]], paths: dict[str, tuple[str, ...]] = PATHS, **flags: Any) -> None:
    async def run() -> None:
        async with living(paths, **flags) as live:
            await story(live)

    asyncio.run(run())


def test_u058_routes_come_back_after_the_uplink_flapped() -> None:
    async def story(live: Live) -> None:
        ip("link set up0 down")
        await live.until(lambda: ours() == {})
        ip("link set up0 up", "addr replace fd00:50::50/64 dev up0 nodad")
        await live.until(lambda: ours() == PATHS)

    play(story)


def test_u058_routes_come_back_where_the_kernel_says_nothing_of_what_it_drops() -> None:
    """Without IPv6 a link that goes down loses routes, and no address with them that would be told of."""
    paths = {PREFIXES[4]: PATHS[PREFIXES[4]]}

    async def story(live: Live) -> None:
        ip("link set up0 down", "link set up0 up")
        await live.until(lambda: live.report.drifts and ours() == paths)

    ip("link set up0 addrgenmode none", "addr flush dev up0", "addr add 192.168.50.50/24 dev up0")
    play(story, paths)


@pytest.mark.parametrize("family", [4, 6])
def test_u058_a_deleted_route_comes_back_and_counts_as_drift(family: int) -> None:
    async def story(live: Live) -> None:
        ip(f"route del {PREFIXES[family]} proto 17")
        await live.until(lambda: ours() == PATHS)
        assert live.drifts == {"RouteKey"}

    play(story)


@pytest.mark.parametrize("family", [4, 6])
def test_u058_another_gateway_laid_over_ours_is_put_right(family: int) -> None:
    async def story(live: Live) -> None:
        other = NEAR_HOPS[family].replace("51", "77")
        ip(f"route replace {PREFIXES[family]} via {other} proto 17")
        await live.until(lambda: live.report.drifts and ours() == PATHS)
        assert live.drifts == {"RouteKey"}

    play(story)


@pytest.mark.parametrize("family", [4, 6])
def test_r19_a_route_of_another_protocol_that_took_our_place_stays_and_is_named_at_once(family: int) -> None:
    async def story(live: Live) -> None:
        other = NEAR_HOPS[family].replace("51", "77")
        ip(f"route replace {PREFIXES[family]} via {other} proto static")
        await live.until(lambda: live.report.rejections)
        key, reason = live.report.rejections[0]
        assert PREFIXES[family] in str(key)
        assert "another's route stands in the way" in reason
        assert f"via {other} proto static" in reason
        ip(f"route del {PREFIXES[family]} via {other}")
        await live.until(lambda: ours() == PATHS)

    play(story)


def test_u058_an_address_that_comes_back_with_another_length_moves_the_networks_that_are_ours() -> None:
    paths = {"10.233.66.0/24": ("192.168.50.51",), "10.233.67.0/24": ("192.168.51.51",)}

    async def story(live: Live) -> None:
        ip("addr del 192.168.50.50/24 dev up0", "addr add 192.168.50.50/16 dev up0")
        await live.until(lambda: ours() == paths)
        ip("addr del 192.168.50.50/16 dev up0", "addr add 192.168.50.50/24 dev up0")
        await live.until(lambda: ours() == {"10.233.66.0/24": ("192.168.50.51",)})

    async def run() -> None:
        near = {"10.233.66.0/24": ("192.168.50.51",)}
        async with living(near, enable_overlay=False) as live:
            live.tell(Put(BestPath(Name("", "10.233.67.0/24"), ("192.168.51.51",))))
            await story(live)

    asyncio.run(run())


def test_our_own_replacements_are_no_news() -> None:
    async def story(live: Live) -> None:
        for turn in range(5):
            hop = f"192.168.50.{60 + turn}"
            live.tell(Put(BestPath(Name("", PREFIXES[4]), (hop,))))
            await live.until(lambda hop=hop: ours()[PREFIXES[4]] == (hop,))
        await asyncio.sleep(0.6)  # an audit would have come by now
        passes = live.passes
        await asyncio.sleep(0.6)
        assert live.passes == passes
        assert passes <= 8

    play(story)


def test_r15_a_path_costs_its_own_messages_however_many_links_the_node_has() -> None:
    veths = [f"link add veth{n} type veth peer name pod{n}" for n in range(200)]
    ip("link add kube-bridge type bridge", *veths, *(f"link set veth{n} master kube-bridge" for n in range(200)))

    async def story(live: Live) -> None:
        await asyncio.sleep(0.6)
        sent = []
        for prefix, hop in (("10.233.67.0/24", "192.168.50.52"), ("10.233.67.0/24", "192.168.50.53"), ("10.233.65.0/24", "192.168.60.52")):
            before = live.routes.sent, live.tunnels.sent
            live.tell(Put(BestPath(Name("", prefix), (hop,))))
            await live.until(lambda prefix=prefix, hop=hop: ours().get(prefix) == (hop,))
            await asyncio.sleep(0.1)
            sent.append((live.routes.sent - before[0], live.tunnels.sent - before[1]))
        # Made; looked at and replaced; made together with the way to the node itself.
        assert sent == [(1, 0), (2, 0), (2, 0)]

    play(story, overlay_encap="vxlan")


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("link del kube-vxlan", {"TunnelKey", "RouteKey", "FdbKey", "NeighbourKey"}),
        ("link set kube-vxlan down", {"TunnelKey", "RouteKey"}),
        ("rule del from 10.233.64.0/24 table 77", {"RuleKey"}),
        ("route flush table 77", {"RouteKey"}),
        ("neigh del 192.168.60.52 dev kube-vxlan", {"NeighbourKey"}),
        ("bridge fdb del {mac} dev kube-vxlan dst 192.168.60.52", {"FdbKey"}),
    ],
)
def test_what_is_taken_from_the_overlay_comes_back_and_counts_as_drift(line: str, kinds: set[str]) -> None:
    paths = {"10.233.65.0/24": ("192.168.60.52",)}

    def picture() -> list[str]:
        commands = ("ip rule", "ip route show table all", "bridge fdb show dev kube-vxlan", "ip -4 neigh show dev kube-vxlan nud permanent")
        return [subprocess.run(command.split(), text=True, capture_output=True, check=False).stdout for command in commands]

    async def story(live: Live) -> None:
        before = picture()
        if line.startswith("bridge"):
            mac = before[2].split()[0]
            subprocess.run(line.format(mac=mac).split(), check=True)
        else:
            ip(line)
        await live.until(lambda: live.report.drifts and picture() == before)
        assert kinds <= live.drifts

    play(story, paths, overlay_encap="vxlan")


def test_u065_the_connected_route_stands_whatever_the_speaker_tells() -> None:
    connected = {4: "192.168.50.0/24", 6: "fd00:50::/64"}

    async def story(live: Live) -> None:
        monitor = subprocess.Popen(["ip", "monitor", "route"], stdout=subprocess.PIPE, text=True)
        await asyncio.sleep(0.3)
        for family in (4, 6):
            name = Name("", connected[family])
            for hops in ((NEAR_HOPS[family],), (FAR.addresses[family == 6],)):
                live.tell(Put(BestPath(name, hops)))
                await asyncio.sleep(0.1)
            live.tell(gone(name))
            await asyncio.sleep(0.1)
        monitor.terminate()
        told, _ = monitor.communicate(timeout=10)
        assert "table 77" in told, "it hears what happens"
        assert not any(f"Deleted {prefix}" in told for prefix in connected.values())
        shown = subprocess.run(["ip", "route"], text=True, capture_output=True, check=True).stdout
        assert "192.168.50.0/24 dev up0 proto kernel scope link src 192.168.50.50" in shown
        assert live.report.rejections == []

    play(story, overlay_encap="vxlan")


def gone(name: Name) -> Event:
    return Removed(Ref(Kind.BEST_PATH, name))


@pytest.mark.parametrize("flags", [{"enable_overlay": False}, {"overlay_encap": "vxlan"}], ids=["without overlay", "vxlan"])
def test_u057_after_any_sequence_of_paths_the_kernels_routes_are_a_function_of_the_table(flags: dict[str, Any]) -> None:
    chance = random.Random(57)
    prefixes = ["203.0.113.70/32", "203.0.113.71/32", "10.233.65.0/24"]
    near, far = "192.168.50.51", "192.168.60.52"
    choices = [(near,), (far,), (near, far), ("192.168.50.52",), None]

    def routed(hops: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(hop for hop in hops if hop != far or flags.get("overlay_encap")))

    async def story(live: Live) -> None:
        for _ in range(50):
            table: dict[str, tuple[str, ...]] = {}
            for _ in range(chance.randint(1, 6)):
                prefix, hops = chance.choice(prefixes), chance.choice(choices)
                table.pop(prefix, None)
                if hops is None:
                    live.tell(gone(Name("", prefix)))
                else:
                    table[prefix] = hops
                    live.tell(Put(BestPath(Name("", prefix), hops)))
                await asyncio.sleep(chance.choice((0, 0, 0.01)))
            for name in tuple(live.cache.view.paths):
                if name.name not in table:
                    live.tell(gone(name))
            wanted = {prefix.removesuffix("/32"): routed(hops) for prefix, hops in table.items() if routed(hops)}
            await live.until(lambda wanted=wanted: ours() == wanted)

    play(story, {PREFIXES[4]: (near,)}, **flags)
