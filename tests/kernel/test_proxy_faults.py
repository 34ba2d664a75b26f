"""Every call to the kernel fails once, while Services change: what they do not concern stays, and all is well in the end.

The sets and their tool are real everywhere; IPVS, addresses and rules where the kernel has them, and fakes that fail in the same
ways where it has not.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable, Sequence

import msgspec
import pytest

from kube_router.apply.kernel.ipset import SetTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.controller import Target
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.proxy import ProxyController
from kube_router.kit.net import FAMILIES
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Object, Service, ServicePort
from kube_router.model.state import Key
from kube_router.model.state.netfilter import SetKey, SetMember
from kube_router.plan.ownership import adopted_services
from lab.kernel_netns import Netns
from tests.engine import TARGETS, Event, Recorder
from tests.fakes import FakeTarget, World
from tests.kernel.failing import WAYS, FailingCommands, Failure, Watched, over_netlink

ADDRESSES = ("192.168.50.50", "fd00:50::50")
OPTIONS = defaults(
    node_name="node1",
    enable_ipv6=True,
    service_cluster_ip_range=("10.233.0.0/18", "fd00:233::/112"),
    service_external_ip_range=("203.0.113.0/24", "fd00:203::/64"),
)
NODE: tuple[Object, ...] = (
    Node(Name("", "node1"), addresses=ADDRESSES, pod_cidrs=("10.233.64.0/24", "fd00:64::/64")),
    Interface(Name("", "up0"), addresses=("192.168.50.50/24", "fd00:50::50/64")),
    Interface(Name("", "lo"), addresses=("127.0.0.1/8", "::1/128")),
)
PORTS = (ServicePort("web", "TCP", 80), ServicePort("dns", "UDP", 53))


def service(name: str, number: int, *, external: bool = False) -> Service:
    return Service(
        Name("shop", name),
        created="2024",
        cluster_ips=(f"10.233.0.{number}", f"fd00:233::{number}"),
        external_ips=(f"203.0.113.{number}", f"fd00:203::{number}") if external else (),
        ports=PORTS,
    )


def slices(of: str, *numbers: int) -> list[EndpointSlice]:
    """Endpoints with these numbers, in both families."""
    ports = (EndpointPort("web", "TCP", 8080), EndpointPort("dns", "UDP", 5353))
    return [
        EndpointSlice(
            Name("shop", f"{of}-{family}"),
            Name("shop", of),
            tuple(Endpoint((f"10.1.0.{number}" if family == 4 else f"fd00:1::{number}",), node_name="node2") for number in numbers),
            ports,
        )
        for family in FAMILIES
    ]


STAYS: tuple[Event, ...] = (service("stays", 1, external=True), *slices("stays", 1, 2))
BEFORE: tuple[Event, ...] = (
    *(service("changes", 2), *slices("changes", 3, 4)),
    *(service("goes", 3), *slices("goes", 5)),
    *((Kind.SERVICE, Name("shop", "comes")), *((Kind.ENDPOINT_SLICE, Name("shop", f"comes-{family}")) for family in FAMILIES)),
)
AFTER: tuple[Event, ...] = (
    *(service("changes", 2, external=True), *slices("changes", 3, 6)),
    *(service("comes", 4), *slices("comes", 7)),
    *((Kind.SERVICE, Name("shop", "goes")), *((Kind.ENDPOINT_SLICE, Name("shop", f"goes-{family}")) for family in FAMILIES)),
)


Make = Callable[[Failure, list[Key]], Sequence[Target]]
Look = Callable[[], Sequence[str]]


class Rig:
    """The proxy's cycle over targets that fail when told to; the kernel and the API's objects outlive a `restart`.

    `removed`: all that targets were told to remove, by whichever run.
    """

    def __init__(self, targets: Make, look: Look, *, narrow: Callable[[Object], Object] = lambda value: value) -> None:
        self.failure = Failure()
        self.removed: list[Key] = []
        self.look = look
        self.cache = Cache()
        self._make = targets
        self._narrow = narrow
        self.feed(*NODE, *STAYS)
        self.restart()

    def restart(self) -> None:
        """The process ends and another begins, without memory."""
        controller = ProxyController(OPTIONS, kernel=(6, 1))
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=self._make(self.failure, self.removed),
            report=Recorder(),
            call=asyncio.to_thread,  # pyroute2 has a loop of its own
        )

    def feed(self, *events: Event) -> None:
        for event in events:
            if isinstance(event, tuple) and not hasattr(event, "__struct_fields__"):
                self.cache.remove(*event)
            else:
                self.cache.put(self._narrow(event))  # type: ignore[arg-type]

    def sync(self) -> Outcome:
        return asyncio.run(self.cycle.sync())

    def settle(self) -> None:
        """Passes until nothing is left to do."""
        for _ in range(6):
            outcome = self.sync()
            if outcome.good and not outcome.written:
                return
        raise AssertionError(f"not settled: {outcome}")

    def reach(self, events: Iterable[Event]) -> int:
        """Settle after these events, and nothing fails; in how many calls it came about."""
        self.feed(*events)
        self.failure.plan(0, self.failure.way)
        self.sync()
        calls = self.failure.calls
        self.settle()
        return calls


def change(rig: Rig, way: str, *, crash: bool = False) -> int:
    """There and back, as often as there are calls, each time with another one failing; how many did.

    With `crash` the process ends after the pass in which a call failed, else it tries again.
    """
    rig.settle()
    alone, unrelated = set(rig.look()), set(rig.cycle.ledger.merged)
    rig.failure.way = way
    rig.reach(BEFORE)
    before = list(rig.look())
    there = rig.reach(AFTER)
    after = list(rig.look())
    back = rig.reach(BEFORE)
    tried = 0
    for calls, start, events, end in ((there, BEFORE, AFTER, after), (back, AFTER, BEFORE, before)):
        for at in range(1, calls + 1):
            rig.reach(start)
            rig.feed(*events)
            rig.failure.plan(at, way)
            rig.sync()
            failed = rig.failure.what  # "" where this time fewer calls were needed: the kernel makes IPv6 routes in its own time
            tried += bool(failed)
            assert alone - set(rig.look()) == set(), f"{failed}: what stays is there"
            if crash:
                rig.restart()
            rig.settle()
            assert unrelated.isdisjoint(rig.removed), f"{failed}: nobody ever took away what stays"
            assert list(rig.look()) == end, f"{failed}: all is well in the end"
    return tried


def start(rig: Rig, way: str, *, clear: Callable[[], object] = lambda: None) -> int:
    """A process that starts, as often as it makes calls, each time with another one failing; how many did.

    It starts over what the one before it left, or over what `clear` left of that.
    """
    rig.failure.way = way
    rig.reach(AFTER)
    end = list(rig.look())
    clear()
    bare = set(rig.look())
    rig.restart()
    rig.removed.clear()
    calls = rig.reach(())
    tried = 0
    for at in range(1, calls + 1):
        clear()
        rig.restart()
        rig.failure.plan(at, way)
        rig.sync()
        failed = rig.failure.what
        tried += bool(failed)
        assert bare - set(rig.look()) == set(), f"{failed}: what was there is there"
        rig.settle()
        assert rig.removed == [], f"{failed}: nothing is in the way"
        assert list(rig.look()) == end, f"{failed}: all is well in the end"
    return tried


# With real sets


def fakes(failure: Failure, removed: list[Key], world: World) -> list[Target]:
    """Everything but the sets, which are real."""
    grouped = [kind for kinds in TARGETS for kind in kinds]
    groups = [*TARGETS, *((kind,) for kind in ProxyController.writes if kind not in grouped)]
    wanted = [kinds for kinds in groups if set(kinds) & set(ProxyController.writes) and SetKey not in kinds]
    return [Watched(FakeTarget(world, kinds), removed, failure) for kinds in wanted]


def saved_sets() -> list[str]:
    done = subprocess.run(["ipset", "save"], capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def with_real_sets(netns: Netns, world: World) -> Rig:
    del netns

    def targets(failure: Failure, removed: list[Key]) -> list[Target]:
        return [Watched(SetTarget(FailingCommands(failure)), removed), *fakes(failure, removed, world)]

    return Rig(targets, lambda: [*saved_sets(), *sorted(f"{key} {value}" for key, value in world.state.items())])


@pytest.mark.needs("root", "ipset")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("crash", [False, True], ids=["tried again", "restarted"])
def test_a01_each_call_fails_once_while_services_change(with_real_sets: Rig, way: str, crash: bool) -> None:
    assert change(with_real_sets, way, crash=crash) >= 10


@pytest.mark.needs("root", "ipset")
@pytest.mark.parametrize("way", WAYS)
def test_a01_each_call_fails_once_as_a_process_starts_over_what_is_there(with_real_sets: Rig, way: str) -> None:
    assert start(with_real_sets, way) >= 8


@pytest.mark.needs("root", "ipset")
@pytest.mark.parametrize("way", WAYS)
def test_a01_each_call_fails_once_as_a_process_starts_on_a_bare_node(with_real_sets: Rig, world: World, way: str) -> None:
    def clear() -> None:
        world.state.clear()
        subprocess.run(["ipset", "destroy"], check=True)

    look = with_real_sets.look
    with_real_sets.look = lambda: [line.partition(" initval ")[0] for line in look()]  # every set that is made anew has another
    assert start(with_real_sets, way, clear=clear) >= 12


# With all that is real

LOOK = "ipvsadm -Sn; ipset save; ip -o address show dev kube-dummy-if; ip -{family} route show table local"


def narrow(family: int) -> Callable[[Object], Object]:
    """One family and one port of every Service: each message is tried, and every one costs a second in the lab kernel."""

    def one(value: Object) -> Object:
        if isinstance(value, Service):
            ips, external = ([ip for ip in held if (":" in ip) == (family == 6)] for held in (value.cluster_ips, value.external_ips))
            return msgspec.structs.replace(value, cluster_ips=tuple(ips), external_ips=tuple(external), ports=PORTS[:1])
        if isinstance(value, EndpointSlice):
            return msgspec.structs.replace(value, ports=value.ports[:1])
        return value

    return one


def real_targets(world: World) -> Make:
    """Everything as the daemon has it; what else there may be is a fake's."""

    def targets(failure: Failure, removed: list[Key]) -> list[Target]:
        from kube_router.apply.kernel.addresses import AddressTarget
        from kube_router.apply.kernel.flows import Flows
        from kube_router.apply.kernel.iptables import IptablesTarget
        from kube_router.apply.kernel.iptables_tools import installed
        from kube_router.apply.kernel.ipvs import IpvsTarget
        from kube_router.apply.kernel.links import LinkTarget
        from kube_router.apply.kernel.sysctls import SysctlTarget

        commands, flows = FailingCommands(failure), Flows()
        sets = SetTarget(commands)
        rules = IptablesTarget(installed(commands)["nft"], commands)
        ipvs = IpvsTarget(adopted=lambda: adopted_services(key for key in sets.observe({}) if isinstance(key, SetMember)), flows=flows)
        real: list[Target] = [sets, rules, over_netlink(ipvs, failure), over_netlink(AddressTarget(flows=flows), failure)]
        whole: list[Target] = [LinkTarget(), SysctlTarget()]
        held = {kind for target in (*real, *whole) for kind in target.kinds}
        rest = [FakeTarget(world, (kind,)) for kind in ProxyController.writes if kind not in held]
        return [*(Watched(target, removed) for target in (*real, *rest)), *(Watched(target, removed, failure) for target in whole)]

    return targets


def real_rig(netns: Netns, family: int) -> Rig:
    given = [f"address add {cidr} dev up0{' nodad' if ':' in cidr else ''}" for cidr in NODE[1].addresses]  # type: ignore[attr-defined]
    netns.run("ip -batch -", text="\n".join(["link add up0 type dummy", "link set up0 up", *given, ""]))

    def look() -> list[str]:
        return sorted(
            subprocess.run(["sh", "-c", LOOK.format(family=family)], capture_output=True, text=True, check=True).stdout.splitlines()
        )

    return Rig(real_targets(World()), look, narrow=narrow(family))


@pytest.mark.needs("root", "ip_vs", "dummy", "ipset", "xt_set", "iptables_nft")
@pytest.mark.parametrize(("way", "family"), [("refused", 4), ("late", 6)])
def test_a01_each_message_and_tool_fails_once_while_services_change(netns: Netns, way: str, family: int) -> None:
    assert change(real_rig(netns, family), way) >= 10
