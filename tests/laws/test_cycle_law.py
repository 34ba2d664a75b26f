"""The engine's laws, on a controller of three lines: any controller that answers per item inherits them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from kube_router.cache.cache import Changes, View
from kube_router.desired import NOTHING, Desired, Note
from kube_router.model.objects import Kind, Name, Node, Ref, Service
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec
from kube_router.plan import ownership
from tests.engine import Node as LabNode
from tests.engine import assert_law

VIPS = "kube-router-service-ips"


class Toy:
    """Every Service gets its VIPs as set member, server, destination and address; Services share VIPs."""

    name = ownership.PROXY
    reads = frozenset({Kind.SERVICE, Kind.NODE})
    writes: tuple[type[Key], ...] = (SetKey, SetMember, VirtualServerKey, DestinationKey, AddressKey)

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        return [("base",), *(ref.name for ref in changes if ref.kind is Kind.SERVICE)]

    def want(self, item: Hashable, view: View) -> Desired:
        if item == ("base",):
            return Desired({SetKey(VIPS): SetSpec("hash:ip", 4)})
        assert isinstance(item, Name)
        service = view.services.get(item)
        if service is None:
            return NOTHING
        if service.type == "Broken":
            raise ValueError("a bad object")
        state: dict[Key, Value] = {}
        for vip in service.cluster_ips:
            server = VirtualServerKey(vip, 6, 80)
            state |= {
                SetMember(VIPS, vip): Member(),
                server: VirtualServer(scheduler=service.type),
                DestinationKey(server, "10.9.9.9", 80): Destination(),
                AddressKey("kube-dummy-if", f"{vip}/32"): Address(),
            }
        return Desired(state, (Note(Ref(Kind.SERVICE, item), "Seen", "seen"),), (service.created, item))


names = st.sampled_from([Name("shop", n) for n in "abcd"])
services = st.builds(
    Service,
    name=names,
    type=st.sampled_from(["rr", "lc"]),
    created=st.sampled_from(["2024", "2025"]),
    cluster_ips=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), max_size=3, unique=True).map(tuple),
)
events = st.lists(st.one_of(services, names.map(lambda name: (Kind.SERVICE, name))), max_size=14)
numbers = st.frozensets(st.integers(0, 40), max_size=8)
FOREIGN: dict[Key, Value] = {SetKey("theirs"): SetSpec("hash:ip", 4), SetMember("theirs", "10.0.0.1"): Member()}


@given(events, numbers, numbers, st.none() | numbers)
def test_incremental_equals_from_nothing_after_any_events_failures_and_restarts(history, fail_at, restart_at, sync_at):
    assert_law(Toy, history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at, foreign=FOREIGN)


@given(events)
def test_unchanged_objects_cause_no_writes(history):
    node = LabNode(Toy)
    for event in history:
        node.feed(event)
    node.settle()
    before = len(node.world.writes)
    for event in history:
        if isinstance(event, Service) and node.cache.view.services.get(event.name) == event:
            node.feed(event)
    node.sync()
    assert len(node.world.writes) == before


def service(name: str, *vips: str, kind: str = "rr") -> Service:
    return Service(Name("shop", name), type=kind, cluster_ips=vips)


def test_one_bad_object_keeps_its_last_good_state_and_its_neighbours_go_on():
    node = LabNode(Toy)
    node.feed(service("a", "10.0.0.1"))
    node.settle()
    node.feed(service("a", "10.0.0.1", kind="Broken"))
    node.feed(service("b", "10.0.0.2"))
    outcome = node.sync()
    assert outcome.faulty == 1
    assert not outcome.good
    assert VirtualServerKey("10.0.0.1", 6, 80) in node.world.state
    assert VirtualServerKey("10.0.0.2", 6, 80) in node.world.state
    assert node.report.faults == [Name("shop", "a")]


def test_what_a_refused_service_draws_packets_to_is_not_written_either_and_others_are():
    node = LabNode(Toy)
    bad = VirtualServerKey("10.0.0.1", 6, 80)
    node.world.refuses = lambda change: "no such scheduler" if change.key == bad and change.after else None
    node.feed(service("a", "10.0.0.1"))
    node.feed(service("b", "10.0.0.2"))
    outcome = node.sync()
    assert outcome.refused == 4  # the server, its destination, and what would draw packets to it
    assert AddressKey("kube-dummy-if", "10.0.0.1/32") not in node.world.state
    assert AddressKey("kube-dummy-if", "10.0.0.2/32") in node.world.state
    node.world.refuses = lambda change: None
    node.settle()
    assert AddressKey("kube-dummy-if", "10.0.0.1/32") in node.world.state


def test_an_audit_repairs_and_counts_what_others_changed():
    node = LabNode(Toy)
    node.feed(service("a", "10.0.0.1"))
    node.settle()
    address = AddressKey("kube-dummy-if", "10.0.0.1/32")
    del node.world.state[address]
    assert node.sync().drifted == 0  # nobody looked
    outcome = node.sync([AddressKey])
    assert (outcome.drifted, outcome.written) == (1, 1)
    assert node.report.drifts == [address]
    assert address in node.world.state


def test_one_change_writes_one_change():
    node = LabNode(Toy)
    for n in range(200):
        node.feed(service(f"s{n}", f"10.1.0.{n}"))
    node.settle()
    before = len(node.world.writes)
    node.feed(service("s7", "10.1.0.7", kind="lc"))
    node.sync()
    key = VirtualServerKey("10.1.0.7", 6, 80)
    assert node.world.writes[before:] == [Change(key, VirtualServer("rr"), VirtualServer("lc"))]


def test_objects_of_kinds_that_it_does_not_read_are_no_changes():
    node = LabNode(Toy)
    node.settle()
    node.feed(Node(Name("", "n1")))
    assert node.sync().written == 0
