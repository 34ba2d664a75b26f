"""What changes cost in a large cluster: writes, passes and processor time follow what changed, not what there is."""

from __future__ import annotations

import time

from kube_router.config.options import defaults
from kube_router.control.proxy import ProxyController
from kube_router.model.names import IPVS_SERVICES, LOCAL_IPS, SERVICE_IPS
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Service, ServicePort
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from kube_router.model.state.netfilter import SetMember
from tests.engine import Event
from tests.engine import Node as LabNode

OPTIONS = defaults(node_name="node0", nodeport_bindon_all_ip=True)
SERVICES, CHANGES = 3000, 200
NODES = [Node(Name("", f"node{n}"), addresses=(f"192.168.{n}.50",), pod_cidrs=(f"10.{n}.0.0/24",)) for n in range(150)]
UPLINK = Interface(Name("", "up0"), addresses=("192.168.0.50/24",))


def controller() -> ProxyController:
    return ProxyController(OPTIONS, kernel=(6, 1))


def service(number: int, *, node_port: int = 0) -> Service:
    address = f"10.200.{number >> 8}.{number & 255}"
    return Service(Name("shop", f"s{number}"), created="2024", cluster_ips=(address,), ports=(ServicePort("http", "TCP", 80, node_port),))


def endpoints(number: int, generation: int = 0) -> EndpointSlice:
    """One to three, of which the last one is replaced from generation to generation."""
    last = 1 + number % 3
    chosen = [*range(1, last), 100 + generation]
    return EndpointSlice(
        Name("shop", f"s{number}-x"),
        Name("shop", f"s{number}"),
        tuple(Endpoint((f"10.{n}.{number >> 8}.{number & 255}",), node_name=f"node{n}") for n in chosen),
        (EndpointPort("http", "TCP", 8080),),
    )


def test_u088_three_thousand_services_and_twenty_endpoint_changes_a_second():
    """The report's five minutes are 6,000 changes; these are 200 of them, one pass each, without the waiting between."""
    node = LabNode(controller)
    for value in (*NODES, UPLINK):
        node.feed(value)
    for number in range(SERVICES):
        node.feed(service(number))
        node.feed(endpoints(number))
    began = time.perf_counter()
    assert node.sync().good
    assert time.perf_counter() - began < 20
    node.world.writes.clear()
    took: list[float] = []
    spent = time.process_time()
    for n in range(CHANGES):
        number = n * 13 % SERVICES
        began = time.perf_counter()
        node.feed(endpoints(number, generation=1 + n))
        assert node.sync().good
        took.append(time.perf_counter() - began)
    spent = time.process_time() - spent
    assert len(node.world.writes) == 2 * CHANGES, "one backend comes, one goes"
    assert sorted(took)[int(0.99 * CHANGES)] < 0.5
    assert spent / CHANGES * 20 < 0.3, "of a core, at twenty changes a second"


def test_u089_a_headless_service_that_churns_and_leases_that_are_renewed_cost_nothing():
    """Slices that bear the label are not even received (see the watch's selectors); these stand for those of older control planes."""
    node = LabNode(controller)
    for value in (*NODES[:2], UPLINK, service(1), endpoints(1)):
        node.feed(value)
    node.settle()
    node.world.writes.clear()
    calls = node.world.calls
    spent = time.process_time()
    headless = Name("shop", "headless")
    for turn in range(100):
        pods = tuple(Endpoint((f"10.0.{turn}.{n}",), node_name="node0", ready=n % 3 > 0) for n in range(100))
        events: list[Event] = [
            EndpointSlice(Name("shop", "headless-x"), headless, pods, (EndpointPort("db", "TCP", 5432),)),
            Service(headless, created="2024", labels={"turn": str(turn)}, ports=(ServicePort("db", "TCP", 5432),)),
            Service(
                Name("shop", "s1"),
                created="2024",
                labels={"leader": f"at {turn}"},
                cluster_ips=service(1).cluster_ips,
                ports=service(1).ports,
            ),
        ]
        for event in events:
            node.feed(event)
            assert node.sync().good
    assert node.world.writes == []
    assert node.world.calls == calls, "no target is even asked"
    assert (time.process_time() - spent) / 300 < 0.002, "of 300 events, each: 10 a second are 2 % of a core"


def test_d07_set_entries_come_from_services_and_not_from_a_comparison_of_everything():
    """Bound to every address of the node, a node port has one entry for each, and the node's addresses are read once for all."""
    node = LabNode(controller)
    addresses = tuple(f"192.168.0.{n}/24" for n in range(50, 60))
    for value in (NODES[0], Interface(Name("", "up0"), addresses=addresses)):
        node.feed(value)
    for number in range(100):
        node.feed(service(number, node_port=30000 + number))
    node.settle()
    entries = {(key.set, key.entry) for key in node.world.state if isinstance(key, SetMember)}
    here = [prefix.partition("/")[0] for prefix in addresses]
    assert {entry for name, entry in entries if name == IPVS_SERVICES} == {
        *(f"10.200.0.{n},tcp:80" for n in range(100)),
        *(f"{address},tcp:{30000 + n}" for address in here for n in range(100)),
    }
    assert {entry for name, entry in entries if name == SERVICE_IPS} == {*here, *(f"10.200.0.{n}" for n in range(100))}
    assert {entry for name, entry in entries if name == LOCAL_IPS} >= set(here)
    node.world.writes.clear()
    node.feed(service(100, node_port=30100))
    node.sync()
    servers = [change.key for change in node.world.writes if isinstance(change.key, VirtualServerKey)]
    members = [change.key for change in node.world.writes if isinstance(change.key, SetMember)]
    assert (len(servers), len(members)) == (11, 12), "of eleven addresses: an entry each, and one for the VIP that is new"
    node.feed((Kind.SERVICE, Name("shop", "s7")))
    node.world.writes.clear()
    node.sync()
    assert all("10.200.0.7" in str(change.key) or "30007" in str(change.key) for change in node.world.writes)
    assert not any(isinstance(change.key, DestinationKey) for change in node.world.writes)
