"""Graceful termination: who stays how long, what stays with them, and that nobody who returns is lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.draining import Draining, ending
from kube_router.control.proxy import ProxyController
from kube_router.kit.errors import Busy
from kube_router.model.names import DUMMY, IPVS_SERVICES, SERVICE_IPS, SERVICE_MARKS
from kube_router.model.objects import Claim, Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Service, ServicePort
from kube_router.model.state import Change, Key, State
from kube_router.model.state.direct import PodTunnel, PodTunnelKey, PodVip, PodVipKey
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.netfilter import Member, SetMember
from kube_router.plan.ledger import Ledger
from tests.engine import Event, after, from_nothing, objects_of
from tests.engine import Node as LabNode
from tests.fakes import World

OPTIONS = defaults(node_name="node1", ipvs_graceful_termination=True)
NODE1 = Node(Name("", "node1"), addresses=("192.168.50.50",), pod_cidrs=("10.233.64.0/24",))
UPLINK = Interface(Name("", "up0"), addresses=("192.168.50.50/24",))
GRACE, LOOK = 30.0, 5.0
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
HELD = Destination(weight=0)


class Kernel:
    """Connections of backends by their address, and what time it is."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.time = 0.0
        self.looks = 0
        self.broken = False

    def connections(self, world: World, servers: Collection[VirtualServerKey]) -> Mapping[DestinationKey, int]:
        self.looks += 1
        if self.broken:
            raise Busy("no answer")
        found = [key for key in world.state if isinstance(key, DestinationKey) and key.server in servers]
        return {key: self.open.get(key.address, 0) for key in found}

    def keeper(self, cache: Cache, world: World) -> Draining:
        return Draining(GRACE, connections=lambda of: self.connections(world, of), ends=ending(cache.view), now=lambda: self.time)


def controller() -> ProxyController:
    return ProxyController(OPTIONS, kernel=(6, 1))


def service(name: str = "web", ip: str = "10.233.0.9", *, protocol: str = "TCP", node_port: int = 0, port: int = 80) -> Service:
    return Service(Name("shop", name), created="2024", cluster_ips=(ip,), ports=(ServicePort("http", protocol, port, node_port),))


def endpoints(*addresses: str, of: str = "web", protocol: str = "TCP", ends: Collection[str] = ()) -> EndpointSlice:
    """A slice; those that end are listed as kubelet's grace period has them: terminating, and not serving any more."""
    alive = [Endpoint((address,), node_name="node2") for address in addresses]
    gone = [Endpoint((address,), node_name="node2", ready=False, serving=False, terminating=True) for address in ends]
    return EndpointSlice(Name("shop", f"{of}-1"), Name("shop", of), (*alive, *gone), (EndpointPort("http", protocol, 8080),))


def server(ip: str = "10.233.0.9", port: int = 80, protocol: str = "TCP") -> VirtualServerKey:
    return VirtualServerKey(ip, NUMBERS[protocol], port, family=4)


def backend(address: str, of: VirtualServerKey | None = None) -> DestinationKey:
    return DestinationKey(of or server(), address, 8080)


def a_node(kernel: Kernel, *objects: Event, world: World | None = None) -> LabNode:
    node = LabNode(controller, world, keeper=kernel.keeper)
    node.begin(NODE1, UPLINK, *objects)
    return node


def later(node: LabNode, kernel: Kernel, seconds: float) -> list[Change]:
    """The writes of the time in which nothing happens: passes come when they are asked for."""
    node.world.writes.clear()
    until = kernel.time + seconds
    outcome = node.sync()
    while outcome.again is not None and kernel.time + outcome.again <= until:
        assert outcome.again > 0, "no busy loop"
        kernel.time += outcome.again
        outcome = node.sync()
    kernel.time = until
    assert node.sync().good
    return list(node.world.writes)


def gone(of: str = "web") -> tuple[Kind, Name]:
    return Kind.SERVICE, Name("shop", of)


# -- one backend -----------------------------------------------------------------------------------------------------------


def test_d05_one_backend_that_goes_is_one_write_to_drain_it_and_one_to_remove_it():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    kernel.open["10.1.0.2"] = 3
    assert after(node, endpoints("10.1.0.1")) == [Change(backend("10.1.0.2"), Destination(), HELD)]
    assert later(node, kernel, 12) == []
    kernel.open["10.1.0.2"] = 0
    assert later(node, kernel, LOOK) == [Change(backend("10.1.0.2"), HELD, None)]
    assert node.sync().again is None, "nothing drains, nobody asks to be woken"


def test_without_the_flag_it_goes_at_once():
    node = LabNode(controller)
    for value in (NODE1, UPLINK, service(), endpoints("10.1.0.1", "10.1.0.2")):
        node.feed(value)
    node.settle()
    assert after(node, endpoints("10.1.0.1")) == [Change(backend("10.1.0.2"), Destination(), None)]


def test_connections_that_do_not_end_are_cut_when_the_grace_time_is_over():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    kernel.open["10.1.0.2"] = 1
    after(node, endpoints("10.1.0.1"))
    assert later(node, kernel, GRACE - 1) == []
    assert later(node, kernel, 1) == [Change(backend("10.1.0.2"), HELD, None)]


def test_a_pod_that_is_still_ending_keeps_its_connections_beyond_the_grace_time():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    kernel.open["10.1.0.2"] = 1
    after(node, endpoints("10.1.0.1", ends=["10.1.0.2"]))
    assert later(node, kernel, 10 * GRACE) == []
    assert after(node, endpoints("10.1.0.1")) == [Change(backend("10.1.0.2"), HELD, None)]


def test_connections_that_cannot_be_counted_have_the_grace_time():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    kernel.broken = True
    after(node, endpoints("10.1.0.1"))
    assert later(node, kernel, GRACE - 1) == []
    assert later(node, kernel, 1) == [Change(backend("10.1.0.2"), HELD, None)]


def test_a_count_from_before_the_drain_says_nothing():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2", "10.1.0.3"))
    kernel.open["10.1.0.2"] = 1
    after(node, endpoints("10.1.0.1", "10.1.0.3"))
    later(node, kernel, LOOK)
    kernel.open["10.1.0.3"] = 1
    after(node, endpoints("10.1.0.1"))
    assert later(node, kernel, 1) == []
    assert node.world.state[backend("10.1.0.3")] == HELD


def test_a03_a_backend_that_returns_while_it_drains_stays():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    after(node, endpoints("10.1.0.1"))
    kernel.time += 1
    assert after(node, endpoints("10.1.0.1", "10.1.0.2")) == [Change(backend("10.1.0.2"), HELD, Destination())]
    assert later(node, kernel, 3 * GRACE) == [], "no connection, and its first drain is over by far"
    assert node.world.state[backend("10.1.0.2")] == Destination()
    kernel.open["10.1.0.2"] = 1
    after(node, endpoints("10.1.0.1"))
    assert later(node, kernel, GRACE - 1) == [], "gone again, it has its whole grace time again"


def test_a03_each_time_that_a_backend_goes_it_has_its_whole_grace_time():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    kernel.open["10.1.0.2"] = 1
    after(node, endpoints("10.1.0.1"))
    kernel.time = 20
    after(node, endpoints("10.1.0.1", "10.1.0.2"))
    kernel.time = 25
    assert after(node, endpoints("10.1.0.1")) == [Change(backend("10.1.0.2"), Destination(), HELD)]
    assert later(node, kernel, GRACE - 1) == []
    assert later(node, kernel, 1) == [Change(backend("10.1.0.2"), HELD, None)]


def test_u001_u002_a_udp_backend_goes_at_once_with_the_flag_and_without():
    kernel = Kernel()
    udp = server(protocol="UDP")
    node = a_node(kernel, service(protocol="UDP"), endpoints("10.1.0.1", protocol="UDP"))
    kernel.open["10.1.0.1"] = 9
    assert after(node, endpoints("10.1.0.2", protocol="UDP")) == [
        Change(backend("10.1.0.2", udp), None, Destination()),
        Change(backend("10.1.0.1", udp), Destination(), None),
    ]
    assert after(node, gone())[-1] == Change(udp, VirtualServer(), None)


def test_sctp_is_drained_as_tcp_is():
    kernel = Kernel()
    node = a_node(kernel, service(protocol="SCTP"), endpoints("10.1.0.1", "10.1.0.2", protocol="SCTP"))
    kernel.open["10.1.0.2"] = 1
    key = backend("10.1.0.2", server(protocol="SCTP"))
    assert after(node, endpoints("10.1.0.1", protocol="SCTP")) == [Change(key, Destination(), HELD)]


# -- a whole Service -------------------------------------------------------------------------------------------------------


def kinds(writes: list[Change]) -> list[str]:
    return [f"{'-' if change.after is None else '+'}{type(change.key).__name__.removesuffix('Key')}" for change in writes]


def test_b13_a_service_that_goes_keeps_what_its_connections_run_through_until_they_end():
    kernel = Kernel()
    node = a_node(kernel, service(node_port=30080), endpoints("10.1.0.1"))
    kernel.open["10.1.0.1"] = 1
    writes = after(node, gone(), (Kind.ENDPOINT_SLICE, Name("shop", "web-1")))
    assert [change.after for change in writes] == [HELD, HELD], "of the cluster IP and of the node port; nothing is removed"
    for key in (
        AddressKey(DUMMY, "10.233.0.9/32"),
        SetMember(SERVICE_IPS, "10.233.0.9"),
        SetMember(IPVS_SERVICES, "10.233.0.9,tcp:80"),
        SetMember(SERVICE_IPS, "192.168.50.50"),
        SetMember(IPVS_SERVICES, "192.168.50.50,tcp:30080"),
        server(),
    ):
        assert key in node.world.state
    kernel.open.clear()
    writes = later(node, kernel, LOOK)
    assert kinds(writes) == ["-Address", *["-SetMember"] * 4, *["-Destination"] * 2, *["-VirtualServer"] * 2], "and in the usual order"


def test_b13_a_service_without_backends_goes_at_once():
    node = a_node(Kernel(), service())
    assert kinds(after(node, gone())) == ["-Address", "-SetMember", "-SetMember", "-VirtualServer"]


def test_b13_an_address_stays_for_a_draining_port_although_its_other_service_goes_later():
    kernel = Kernel()
    node = a_node(kernel, service("web", port=80), service("other", port=81), endpoints("10.1.0.1"))
    kernel.open["10.1.0.1"] = 1
    after(node, gone("web"))
    kernel.time += 1
    assert kinds(after(node, gone("other"))) == ["-SetMember", "-VirtualServer"], "of port 81 alone"
    assert AddressKey(DUMMY, "10.233.0.9/32") in node.world.state
    kernel.open.clear()
    later(node, kernel, LOOK)
    assert AddressKey(DUMMY, "10.233.0.9/32") not in node.world.state


def test_a_service_that_returns_while_it_drains_takes_everything_back():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1"))
    kernel.open["10.1.0.1"] = 1
    after(node, gone())
    assert after(node, service()) == [Change(backend("10.1.0.1"), HELD, Destination())]
    assert later(node, kernel, 2 * GRACE) == []


def test_another_service_takes_over_an_address_whose_backends_still_drain():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1"))
    kernel.open["10.1.0.1"] = 1
    new = endpoints("10.1.0.7", of="new")
    assert after(node, gone(), service("new"), new) == [
        Change(backend("10.1.0.1"), Destination(), HELD),
        Change(backend("10.1.0.7"), None, Destination()),
    ]
    kernel.open.clear()
    assert later(node, kernel, LOOK) == [Change(backend("10.1.0.1"), HELD, None)]
    assert AddressKey(DUMMY, "10.233.0.9/32") in node.world.state


# -- restarts, others, failures --------------------------------------------------------------------------------------------


def test_a_restarted_daemon_goes_on_draining_what_it_finds():
    kernel = Kernel()
    node = a_node(kernel, service(), service("two", "10.233.0.8"), endpoints("10.1.0.1", "10.1.0.2"), endpoints("10.1.0.5", of="two"))
    kernel.open |= {"10.1.0.2": 1, "10.1.0.5": 1}
    after(node, endpoints("10.1.0.1"), gone("two"))
    node.restart()
    node.world.writes.clear()
    node.settle()
    assert node.world.writes == [], "it stands as it is to stand"
    assert later(node, kernel, GRACE - 1) == []
    kernel.open.clear()
    assert kinds(later(node, kernel, LOOK)) == ["-Address", "-SetMember", "-SetMember", "-Destination", "-Destination", "-VirtualServer"]


def test_what_others_take_away_meanwhile_is_not_put_back():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1"))
    kernel.open["10.1.0.1"] = 1
    after(node, gone())
    del node.world.state[backend("10.1.0.1")]
    node.world.writes.clear()
    node.sync(audit=node.cycle.controller.writes)
    assert kinds(node.world.writes) == ["-Address", "-SetMember", "-SetMember", "-VirtualServer"]


def test_a_removal_that_is_refused_is_tried_again_and_not_drained_again():
    kernel = Kernel()
    node = a_node(kernel, service(), endpoints("10.1.0.1", "10.1.0.2"))
    after(node, endpoints("10.1.0.1"))
    node.world.refuses = lambda change: "not now" if change.after is None else None
    kernel.time += LOOK
    assert node.sync().refused == 1
    kernel.time += 1
    assert node.sync().refused == 1
    node.world.refuses = lambda change: None
    assert node.sync().written == 1
    assert backend("10.1.0.2") not in node.world.state


def test_d11_all_that_drains_is_counted_in_one_reading_every_few_seconds():
    kernel = Kernel()
    names = [f"s{n}" for n in range(100)]
    pieces: list[Event] = []
    for n, name in enumerate(names):
        pieces += [service(name, f"10.233.1.{n}"), endpoints("10.1.0.1", "10.1.0.2", of=name)]
    node = a_node(kernel, *pieces)
    kernel.open["10.1.0.2"] = 1
    assert len(after(node, *(endpoints("10.1.0.1", of=name) for name in names))) == 100
    assert later(node, kernel, 4 * LOOK + 1) == []
    assert kernel.looks == 4
    for n in range(50):
        kernel.time += 0.01
        node.feed(service("busy", f"10.233.2.{n}"))
        node.sync()
    assert kernel.looks == 4, "passes for other reasons do not look more often"


def marked(number: int) -> VirtualServerKey:
    return VirtualServerKey("", 0, 0, mark=number, family=4)


def test_b26_servers_by_mark_drain_each_by_itself():
    clock = 0.0
    ends = {Claim("203.0.113.2", "TCP", 80)}
    keeper = Draining(GRACE, connections=lambda of: {}, ends=lambda claim, _address: claim in ends, now=lambda: clock)
    ledger = Ledger()
    entries = {0x101: "203.0.113.1,tcp:80", 0x102: "203.0.113.2,tcp:80", 0x103: "203.0.113.2,udp:53"}
    members = {mark: (SetMember(SERVICE_MARKS, entry), SetMember(IPVS_SERVICES, entry)) for mark, entry in entries.items()}
    held: State = {}
    for mark, (marking, admitting) in members.items():
        held |= {marked(mark): VirtualServer(), DestinationKey(marked(mark), "10.1.0.1", 80): Destination(forward=2)}
        held |= {marking: Member(mark=mark), admitting: Member()}
    ledger.observe({type(key) for key in held}, held)
    keeper.keep(ledger)
    assert ledger.merged == {
        key: Destination(0, 2) if isinstance(key, DestinationKey) else value
        for key, value in held.items()
        if key not in (*members[0x103], marked(0x103)) and getattr(key, "server", None) != marked(0x103)
    }, "a shared backend drains in both, and UDP in none"
    clock = GRACE
    keeper.keep(ledger)  # the book of marks has struck them off by now
    assert {key for key in ledger.merged if isinstance(key, DestinationKey)} == {DestinationKey(marked(0x102), "10.1.0.1", 80)}


def test_a_backend_by_mark_that_goes_alone_keeps_what_its_pod_needs():
    book = {7: Claim("203.0.113.1", "TCP", 80)}
    keeper = Draining(GRACE, connections=lambda of: {}, ends=lambda *_: False, claim_of=book.get, now=lambda: 0.0)
    ledger = Ledger()
    going = DestinationKey(marked(7), "10.1.0.1", 80)
    pod: State = {
        PodTunnelKey("10.1.0.1"): PodTunnel(),
        PodVipKey("10.1.0.1", "203.0.113.1"): PodVip(),
        PodVipKey("10.1.0.1", "203.0.113.9"): PodVip(),
    }
    ledger.observe({type(key) for key in (going, going.server, *pod)}, {going.server: VirtualServer(), going: Destination(forward=2)} | pod)
    ledger.want("the Service", {going.server: VirtualServer()}, ("2024",))
    keeper.keep(ledger)
    assert ledger.merged.keys() == {going.server, going, PodTunnelKey("10.1.0.1"), PodVipKey("10.1.0.1", "203.0.113.1")}


@pytest.mark.parametrize(
    ("scheduler", "flags", "drained"),
    [("rr", 0, True), ("lc", 0, True), ("mh", 0, False), ("mh", 8, True), ("sh", 0, False), ("sh", 8, True), ("dh", 8, False)],
)
def test_schedulers_that_go_on_choosing_a_backend_of_weight_0_are_not_drained(scheduler, flags, drained):
    keeper = Draining(GRACE, connections=lambda of: {}, ends=lambda *_: False, now=lambda: 0.0)
    ledger = Ledger()
    value = VirtualServer(scheduler, flags)
    ledger.observe({VirtualServerKey, DestinationKey}, {server(): value, backend("10.1.0.1"): Destination()})
    keeper.keep(ledger)
    assert (backend("10.1.0.1") in ledger.merged) is drained


def test_what_serves_a_claim_in_another_way_by_now_keeps_its_address_and_marks():
    """A Service that changes to direct server return: its old server drains, but draws no packets any more."""
    keeper = Draining(GRACE, connections=lambda of: {}, ends=lambda *_: False, now=lambda: 0.0)
    ledger = Ledger()
    address, entry = AddressKey(DUMMY, "10.233.0.9/32"), SetMember(IPVS_SERVICES, "10.233.0.9,tcp:80")
    ledger.observe(
        {VirtualServerKey, DestinationKey, SetMember}, {server(): VirtualServer(), backend("10.1.0.1"): Destination(), entry: Member()}
    )
    ledger.want("the Service", {marked(7): VirtualServer(), entry: Member()}, ("2024",))
    keeper.keep(ledger)
    assert ledger.merged.keys() >= {backend("10.1.0.1"), server()}
    assert address not in ledger.merged
    assert ledger.owners(entry) == ("the Service",)


# -- the law ---------------------------------------------------------------------------------------------------------------

SERVICES = st.builds(
    service,
    st.sampled_from(["web", "two"]),
    st.sampled_from(["10.233.0.9", "10.233.0.8"]),
    protocol=st.sampled_from(["TCP", "TCP", "UDP"]),
    node_port=st.sampled_from([0, 30080]),
)
SLICES = st.builds(
    endpoints,
    st.sampled_from(["10.1.0.1", "10.1.0.2"]),
    st.sampled_from(["10.1.0.2", "10.1.0.3"]),
    of=st.sampled_from(["web", "two"]),
    protocol=st.sampled_from(["TCP", "TCP", "UDP"]),
    ends=st.sampled_from([(), ("10.1.0.1",), ("10.1.0.9",)]),
)
GONE = st.sampled_from([gone("web"), gone("two"), (Kind.ENDPOINT_SLICE, Name("shop", "web-1"))])
STEPS = st.lists(
    st.tuples(
        st.one_of(SERVICES, SLICES, GONE), st.sampled_from([0.0, 1.0, 7.0, 40.0]), st.sets(st.sampled_from(["10.1.0.1", "10.1.0.2"]))
    ),
    max_size=12,
)
NUMBERED = st.frozensets(st.integers(0, 60), max_size=6)


@given(STEPS, NUMBERED, NUMBERED)
def test_the_law_holds_with_draining_and_what_serves_is_never_disturbed(steps, fail_at, restart_at):
    kernel = Kernel()
    node = LabNode(controller, World(), fail_at=fail_at, keeper=kernel.keeper)
    for value in (NODE1, UPLINK):
        node.feed(value)
    for n, (event, seconds, busy) in enumerate(steps):
        if n in restart_at:
            node.restart()
        kernel.open = dict.fromkeys(busy, 1)
        node.feed(event)
        node.sync()
        kernel.time += seconds
    node.settle()
    fresh = from_nothing(controller, objects_of(node.cache))
    draining = {key for key, value in node.world.state.items() if value == HELD}
    whole = {key.server for key in draining if isinstance(key, DestinationKey)} - fresh.state.keys()
    for key, value in fresh.state.items():
        assert node.world.state[key] == value, "who is wanted serves"
    for key in node.world.state.keys() - fresh.state.keys():
        assert key in draining or key in whole or _belongs(key, whole), "who is not wanted drains, or is what that runs through"
    # Nobody is ending for ever: slices forget a pod once it is gone.
    for piece in [value for value in objects_of(node.cache) if isinstance(value, EndpointSlice)]:
        alive = tuple(endpoint for endpoint in piece.endpoints if not endpoint.terminating)
        node.feed(EndpointSlice(piece.name, piece.service, alive, piece.ports))
    kernel.time += GRACE + LOOK
    node.settle()
    assert node.world.state == from_nothing(controller, objects_of(node.cache)).state
    assert node.sync().again is None


def _belongs(key: Key, servers: Collection[VirtualServerKey]) -> bool:
    match key:
        case AddressKey(prefix=prefix):
            return any(prefix == f"{one.address}/32" for one in servers)
        case SetMember(entry=entry):
            return any(entry.partition(",")[0] == one.address for one in servers)
    return False
