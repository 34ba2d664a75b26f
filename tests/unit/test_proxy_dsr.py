"""What a Service that is answered directly comes to, on the director and for the pods behind it, in both families."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kube_router.config.options import defaults
from kube_router.desired import Desired
from kube_router.desired.external_ips import ranges
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.marks import candidates
from kube_router.desired.proxy.service import backing, virtual_servers
from kube_router.desired.proxy.surroundings import Surroundings, surroundings
from kube_router.model.objects import Claim, Endpoint, EndpointPort, EndpointSlice, Ingress, Interface, Name, Node, Service, ServicePort
from kube_router.model.state import Key
from kube_router.model.state.direct import (
    Delivery,
    DeliveryKey,
    MarkRule,
    MarkRuleKey,
    PodPort,
    PodPortKey,
    PodTunnel,
    PodTunnelKey,
    PodVip,
    PodVipKey,
)
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import AddressKey, Sysctl, SysctlKey
from kube_router.model.state.netfilter import Chain, ChainKey, JumpKey, Member, SetMember

OPTIONS = defaults(
    node_name="node1",
    service_external_ip_range=("203.0.113.0/24", "2001:db8:e::/64", "192.168.50.0/24"),
    loadbalancer_ip_range=("203.0.113.0/24",),
)
NODES = {"192.168.50.50", "192.168.50.51", "fd00:50::50"}
AROUND = Surroundings(
    name="node1",
    primary={4: "192.168.50.50", 6: "fd00:50::50"},
    sources={4: "192.168.50.50", 6: "fd00:50::50"},
    own=frozenset({"192.168.50.50", "fd00:50::50"}),
    node_ports={4: ("192.168.50.50",), 6: ("fd00:50::50",)},
    mtu={4: 1500, 6: 1500},
)
TUNNEL = Destination(1, 2)
HERE, THERE = {4: "10.242.0.5", 6: "fd00:242::5"}, {4: "10.242.1.7", 6: "fd00:242:1::7"}
VIP = {4: "203.0.113.80", 6: "2001:db8:e::80"}
CLUSTER = {4: "10.96.0.1", 6: "fd00:96::1"}
PREFIX = {4: "", 6: "inet6:"}
WEB = Name("shop", "web")
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def web(family: int, *, vips: tuple[str, ...] = (), port: int = 80, protocol: str = "TCP", **fields: Any) -> Service:
    annotations = {"kube-router.io/service.dsr": "tunnel", **fields.pop("annotations", {})}
    return Service(
        fields.pop("name", WEB),
        created=fields.pop("created", "2024"),
        annotations=annotations,
        cluster_ips=(CLUSTER[family],),
        external_ips=vips or (VIP[family],),
        ports=(ServicePort("http", protocol, port, fields.pop("node_port", 0)),),
        **fields,
    )


def behind(*endpoints: tuple[str, str], port: int = 80, protocol: str = "TCP", **conditions: Any) -> EndpointSlice:
    return EndpointSlice(
        Name("shop", "web-1"),
        WEB,
        tuple(Endpoint((address,), node_name=node, **conditions) for address, node in endpoints),
        (EndpointPort("http", protocol, port),),
    )


def context(*services: Service, around: Surroundings = AROUND) -> Context:
    shared = {address for service in services if "kube-router.io/service.dsr" in service.annotations for address in service.external_ips}
    return Context(
        around,
        OPTIONS,
        ranges(OPTIONS),
        lambda claim: [service for service in services if claim in service.claims()],
        lambda _address: "",
        is_node=NODES.__contains__,
        is_direct=shared.__contains__,
    )


def mark(vip: str, port: int = 80, protocol: str = "TCP", *, inside: bool = False) -> int:
    return next(candidates(Claim(vip, protocol, port), "cluster" if inside else "direct"))


def want(service: Service, *slices: EndpointSlice, others: tuple[Service, ...] = (), around: Surroundings = AROUND) -> Desired:
    return virtual_servers(service, slices, context(service, *others, around=around))


def in_pod(service: Service, address: str, *slices: EndpointSlice) -> dict[Key, Any]:
    return backing(service, address, slices, context(service)).state


def destinations(state: dict[Key, Any], server: VirtualServerKey) -> dict[str, Destination]:
    return {key.address: value for key, value in state.items() if isinstance(key, DestinationKey) and key.server == server}


@FAMILIES
def test_a_direct_address_is_a_service_by_mark_and_stands_on_no_link(family: int) -> None:
    desired = want(web(family), behind((HERE[family], "node1"), (THERE[family], "node2")))
    vip, number = VIP[family], mark(VIP[family])
    server = VirtualServerKey("", 0, 0, number, family)
    entry = f"{vip},tcp:80"
    state = desired.state
    assert state[server] == VirtualServer("rr", 0, 0, {4: 32, 6: 128}[family])
    assert destinations(state, server) == {THERE[family]: TUNNEL}, "the pod of this node waits for its tunnel"
    assert state[MarkRuleKey(family, number)] == MarkRule(0x33FFF, 32764)
    assert state[DeliveryKey(family)] == Delivery()
    assert state[SetMember(f"{PREFIX[family]}kube-router-service-marks", entry)] == Member(mark=number)
    assert SetMember(f"{PREFIX[family]}kube-router-ipvs-services", entry) in state
    assert SetMember(f"{PREFIX[family]}kube-router-service-ips", vip) in state
    assert not any(isinstance(key, VirtualServerKey) and key.address == vip for key in state)
    cluster = {4: "10.96.0.1/32", 6: "fd00:96::1/128"}[family]
    assert [key.prefix for key in state if isinstance(key, AddressKey)] == [cluster], "the cluster IP is as always"
    assert not desired.notes


@FAMILIES
@pytest.mark.parametrize("ready", [True, False], ids=["ready", "not ready"])
def test_b08_a_pod_of_this_node_has_its_tunnel_before_it_is_ready_and_gets_packets_once_it_is(family: int, ready: bool) -> None:
    pod = HERE[family]
    state = in_pod(web(family), pod, behind((pod, "node1"), ready=ready))
    server = VirtualServerKey("", 0, 0, mark(VIP[family]), family)
    assert state == {
        PodTunnelKey(pod): PodTunnel(),
        PodVipKey(pod, VIP[family]): PodVip(),
        **({DestinationKey(server, pod, 80): TUNNEL} if ready else {}),
    }


@FAMILIES
def test_a_pod_of_another_node_and_one_that_is_no_endpoint_are_not_touched(family: int) -> None:
    slices = behind((THERE[family], "node2"))
    assert in_pod(web(family), THERE[family], slices) == {}
    assert in_pod(web(family), HERE[family], slices) == {}
    plain = Service(WEB, cluster_ips=(CLUSTER[family],), external_ips=(VIP[family],), ports=(ServicePort("http", "TCP", 80),))
    assert in_pod(plain, HERE[family], behind((HERE[family], "node1"))) == {}


def test_b07_an_ipv6_service_asks_nothing_of_ipv4() -> None:
    service, slices = web(6), behind((HERE[6], "node1"), (THERE[6], "node2"))
    keys = [*want(service, slices).state, *in_pod(service, HERE[6], slices)]
    assert {getattr(key, "family", 6) for key in keys} == {6}
    assert not any("." in str(getattr(key, "pod", "")) for key in keys)


@FAMILIES
def test_b05_without_an_endpoint_the_address_refuses_and_nothing_flaps(family: int) -> None:
    first, again = want(web(family)), want(web(family))
    assert first == again
    server = VirtualServerKey("", 0, 0, mark(VIP[family]), family)
    assert (server in first.state) is (family == 6)
    assert destinations(first.state, server) == {}
    member = first.state[SetMember(f"{PREFIX[family]}kube-router-service-marks", f"{VIP[family]},tcp:80")]
    assert member.mark == (0x10000 if family == 4 else server.mark), "IPVS refuses IPv6 clients by itself"


@pytest.mark.parametrize(
    ("policy", "endpoints", "refuses"),
    [
        ("Cluster", [], True),
        ("Cluster", [(THERE[4], "node2")], False),
        ("Local", [(THERE[4], "node2")], True),
        ("Local", [(HERE[4], "node1")], False),
    ],
)
def test_b11_clients_are_refused_once_no_backend_is_left_not_even_one_that_ends(
    policy: str, endpoints: list[tuple[str, str]], refuses: bool
) -> None:
    state = want(web(4, external_policy=policy), behind(*endpoints, ready=False)).state
    member = state[SetMember("kube-router-service-marks", f"{VIP[4]},tcp:80")]
    assert (member.mark == 0x10000) is refuses


@FAMILIES
def test_b06_scheduler_flags_and_affinity_are_right_from_the_first(family: int) -> None:
    annotations = {"kube-router.io/service.scheduler": "mh", "kube-router.io/service.schedflags": "flag-1,flag-2"}
    slices = behind((THERE[family], "node2"))
    state = want(web(family, annotations=annotations, affinity_timeout=600), slices).state
    server = VirtualServerKey("", 0, 0, mark(VIP[family]), family)
    assert state[server] == VirtualServer("mh", 0x1 | 0x8 | 0x10, 600, {4: 32, 6: 128}[family])
    assert want(web(family, affinity_timeout=60), slices).state[server].timeout == 60


@pytest.mark.parametrize(("scheduler", "sloppy"), [("mh", True), ("rr", False)])
def test_with_maglev_hashing_a_connection_may_move_to_another_node_in_its_midst(scheduler: str, sloppy: bool) -> None:
    state = want(web(4, annotations={"kube-router.io/service.scheduler": scheduler})).state
    assert (state.get(SysctlKey("net/ipv4/vs/sloppy_tcp")) == Sysctl("1")) is sloppy


@FAMILIES
def test_u018_segments_are_clamped_for_every_address_and_port_by_one_rule_that_goes_with_the_last_of_them(family: int) -> None:
    one = want(web(family, port=8080)).state
    two = want(web(family, port=8081, name=Name("shop", "other"), created="2025")).state
    key = ChainKey(family, "mangle", "KUBE-ROUTER-MSS")
    assert (
        one[key]
        == two[key]
        == Chain(
            (
                "-p tcp -m tcp --tcp-flags SYN,RST SYN "
                '-m comment --comment "answers of pods: what clients send gets a packet around it" '
                f"-m set --match-set {PREFIX[family]}kube-router-service-marks src,src -j TCPMSS --set-mss {1440 if family == 4 else 1400}",
            )
        )
    )
    assert JumpKey(family, "mangle", "PREROUTING", "KUBE-ROUTER-MSS") in one
    members = {key.entry for key in one if isinstance(key, SetMember) and key.set.endswith("service-marks")}
    assert members == {f"{VIP[family]},tcp:8080"}, "each port has an entry of its own, and takes nothing of another along"


@pytest.mark.parametrize(("protocol", "told"), [("TCP", False), ("UDP", True), ("SCTP", True)])
def test_u074_who_sends_datagrams_without_room_for_a_packet_around_them_is_told(protocol: str, told: bool) -> None:
    around = msgspec.structs.replace(AROUND, mtu={4: 9000, 6: 9000})
    state = want(web(4, protocol=protocol), around=around).state
    jump = JumpKey(4, "mangle", "PREROUTING", "KUBE-ROUTER-TOO-BIG")
    assert (jump in state) is told
    if told:
        assert state[jump].match.startswith("! -p tcp -m length --length 8981:65535 -m bpf ")
        assert state[jump].rank > 10, "after the marks that it overrides"
        assert state[DeliveryKey(4, 79)] == Delivery(mtu=8980)
        assert state[MarkRuleKey(4, 0x10000)] == MarkRule(0x33FFF, table=79)
    six = want(web(6, protocol=protocol), around=around).state
    assert not any(getattr(key, "table", 0) == 79 for key in six), "IPVS tells IPv6 senders"


@FAMILIES
def test_segments_of_udp_are_nobodys(family: int) -> None:
    state = want(web(family, protocol="UDP"), behind((THERE[family], "node2"), protocol="UDP")).state
    assert not any(isinstance(key, ChainKey) and key.name == "KUBE-ROUTER-MSS" for key in state)


@pytest.mark.parametrize(
    ("uplink", "bridge", "size"),
    [(1500, 0, 1440), (9000, 0, 8940), (1500, 1480, 1420), (1500, 1500, 1440), (0, 0, 1440)],
    ids=["plain", "jumbo", "overlay", "bridge without overlay", "unknown"],
)
def test_u074_the_segment_size_leaves_room_for_the_packet_around_and_for_the_overlay(uplink: int, bridge: int, size: int) -> None:
    links = [
        Interface(Name("", "eth0"), mtu=uplink, addresses=("192.168.50.50/24",)),
        Interface(Name("", "kube-bridge"), mtu=bridge, addresses=("10.242.0.1/24",)),
        Interface(Name("", "lo"), mtu=65536, addresses=("127.0.0.1/8",)),
    ]
    around = surroundings("node1", Node(Name("", "node1"), addresses=("192.168.50.50",)), links, (4,))
    chain = want(web(4), around=around).state[ChainKey(4, "mangle", "KUBE-ROUTER-MSS")]
    assert chain.rules[0].endswith(f"--set-mss {size}")


@FAMILIES
def test_u109_a_pod_that_listens_on_another_port_has_it_translated(family: int) -> None:
    pod = HERE[family]
    state = in_pod(web(family), pod, behind((pod, "node1"), port=8080))
    assert state[PodPortKey(pod, VIP[family], 6, 80)] == PodPort(8080)
    server = VirtualServerKey("", 0, 0, mark(VIP[family]), family)
    assert DestinationKey(server, pod, 8080) in state


@FAMILIES
def test_u109_an_endpoint_in_its_nodes_network_has_the_service_served_without_and_said_so(family: int) -> None:
    other = "192.168.50.51" if family == 4 else "fd00:50::50"
    slices = behind((HERE[family], "node1"), (other, "node2"))
    desired = want(web(family), slices)
    [note] = desired.notes
    assert note.reason == "NoDirectReturn"
    assert f"endpoint {other} is in its node's own network" in note.message
    server = VirtualServerKey(VIP[family], 6, 80, family=family)
    assert set(destinations(desired.state, server)) == {HERE[family], other}
    assert all(value.forward == 0 for value in destinations(desired.state, server).values())
    assert in_pod(web(family), HERE[family], slices) == {}


def test_whether_a_service_can_be_answered_directly_is_the_same_on_every_node() -> None:
    """Hints and conditions leave other endpoints to each node; the one in a node's network counts for all."""
    slices = EndpointSlice(
        Name("shop", "web-1"),
        WEB,
        (
            Endpoint((HERE[4],), node_name="node1", hint_nodes=("node1",)),
            Endpoint(("192.168.50.51",), node_name="node2", hint_nodes=("node2",), ready=False),
        ),
        (EndpointPort("http", "TCP", 80),),
    )
    assert [note.reason for note in want(web(4), slices).notes if not note.quiet] == ["NoDirectReturn"]


def test_an_address_of_this_node_is_served_without_direct_return_and_said_so() -> None:
    desired = want(web(4, vips=("192.168.50.50",)), behind((THERE[4], "node2")))
    assert [note.reason for note in desired.notes] == ["NoDirectReturn"]
    assert VirtualServerKey("192.168.50.50", 6, 80, family=4) in desired.state


@FAMILIES
def test_b14_who_shares_a_direct_address_is_served_on_other_ports_without_a_link_having_it(family: int) -> None:
    direct = web(family)
    plain = Service(
        Name("shop", "plain"),
        created="2025",
        cluster_ips=(CLUSTER[family],),
        external_ips=(VIP[family],),
        ports=(ServicePort("x", "TCP", 81),),
    )
    state = want(plain, others=(direct,)).state
    number = mark(VIP[family], 81)
    assert VirtualServerKey(VIP[family], 6, 81, family=family) in state, "IPVS knows it by its address"
    assert state[SetMember(f"{PREFIX[family]}kube-router-service-marks", f"{VIP[family]},tcp:81")] == Member(mark=number)
    assert MarkRuleKey(family, number) in state
    unmark = ChainKey(family, "mangle", "KUBE-ROUTER-UNMARK")
    assert state[unmark].rules[0].endswith("-j MARK --set-xmark 0x0/0xffffffff"), "or what IPVS sends on would be delivered here again"
    assert unmark not in want(direct, others=(plain,)).state
    assert not any(isinstance(key, AddressKey) and key.prefix.startswith(VIP[family]) for key in state)
    assert any(isinstance(key, AddressKey) and key.prefix.startswith(VIP[family]) for key in want(plain).state), "alone it has it"


@FAMILIES
def test_policy_local_has_clients_outside_sent_to_this_nodes_pods_and_those_inside_to_all(family: int) -> None:
    service = web(family, external_policy="Local", type="LoadBalancer", ingress=(Ingress(VIP[family]),))
    slices = behind((HERE[family], "node1"), (THERE[family], "node2"))
    assert want(service, slices).state[SetMember(f"{PREFIX[family]}kube-router-service-marks", f"{VIP[family]},tcp:80")].mark < 0x10000
    state = want(service, slices).state
    outside = VirtualServerKey("", 0, 0, mark(VIP[family]), family)
    inside = VirtualServerKey("", 0, 0, mark(VIP[family], inside=True), family)
    assert destinations(state, outside) == {}
    assert destinations(state, inside) == {THERE[family]: TUNNEL}
    assert state[SetMember(f"{PREFIX[family]}kube-router-cluster-marks", f"{VIP[family]},tcp:80")] == Member(mark=inside.mark)
    assert {MarkRuleKey(family, outside.mark), MarkRuleKey(family, inside.mark)} <= state.keys(), "both are delivered"
    pod = in_pod(service, HERE[family], slices)
    assert destinations(pod, outside) == destinations(pod, inside) == {HERE[family]: TUNNEL}


def test_cluster_ips_and_node_ports_of_the_same_service_are_as_always() -> None:
    state = want(web(4, node_port=30080), behind((HERE[4], "node1"), (THERE[4], "node2"))).state
    for address, port in (("10.96.0.1", 80), ("192.168.50.50", 30080)):
        found = destinations(state, VirtualServerKey(address, 6, port, family=4))
        assert set(found) == {HERE[4], THERE[4]}
        assert {value.forward for value in found.values()} == {0}
