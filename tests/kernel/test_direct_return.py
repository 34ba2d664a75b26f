"""Direct server return with real packets: two nodes, pods on both, a client beyond; both families."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kube_router.model.objects import Interface, Kind, Name, Object
from lab.kernel_netns import Netns
from tests.kernel.direct_network import (
    CLIENT,
    NODES,
    VIP,
    DirectNetwork,
    accept,
    address_of,
    bridge_addresses,
    connect,
    direct_network,
    listen,
    service,
    slices,
)

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "dummy", "ip_vs", "ipip", "ip6tnl", "ipset", "xt_set", "nf_tables")

TCP_MAXSEG = 2  # <linux/tcp.h>
IP_MTU_DISCOVER, IP_MTU = 10, 14  # <linux/in.h>
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24  # <linux/in6.h>
PMTUDISC_DO = 2
ONE_MEGABYTE = 1 << 20


def everything() -> list[Object]:
    """All Services with their endpoints; what each is for is told by the tests that ask it."""
    return [
        *(service("a", 80), *slices("a", 80, "a", "b")),
        *(service("b", 81), *slices("b", 8081, "b")),
        *(service("c", 82, direct=False), *slices("c", 8082, "a", "b")),
        *(service("d", 5201, protocol="UDP"), *slices("d", 5201, "a", "b", protocol="UDP")),
    ]


@pytest.fixture(scope="module")
def network() -> Iterator[DirectNetwork]:
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    with direct_network(make) as network:
        network.feed(*everything())
        yield network
    for namespace in made:
        namespace.close()


def names(connection: socket.socket) -> tuple[str, int]:
    address, port, *_ = connection.getsockname()
    return address, port


def drain(server: socket.socket) -> None:
    """What came so far is of no interest."""
    while select.select([server], [], [], 0)[0]:
        server.recv(2048)


def receive(connection: socket.socket, size: int) -> bool:
    """Whether so many octets come."""
    while size > 0:
        data = connection.recv(1 << 18)
        if not data:
            return False
        size -= len(data)
    return True


def answered(network: DirectNetwork, client: Netns, port: int, pods: dict[str, int], family: int, times: int = 4) -> dict[str, str]:
    """The pods that a client reached, each with the client's address as it saw it; every answer came from the VIP."""
    listeners = {listen(network.pods[name], at, family): name for name, at in pods.items()}
    seen: dict[str, str] = {}
    try:
        for _ in range(times):
            with connect(client, VIP[family], port) as asking:
                listener, connection = accept(listeners)
                with connection:
                    connection.sendall(b"hello")
                    assert asking.recv(16) == b"hello"
                    asking.sendall(b"bye")
                    assert connection.recv(16) == b"bye"
                    assert names(connection)[0] == VIP[family]
                    seen[listeners[listener]] = connection.getpeername()[0]
    finally:
        for listener in listeners:
            listener.close()
    return seen


@pytest.mark.parametrize("family", [4, 6])
def test_backends_on_both_nodes_answer_the_client_from_the_address_that_it_asked(network: DirectNetwork, family: int) -> None:
    assert answered(network, network.client, 80, {"a": 80, "b": 80}, family) == {"a": CLIENT[family], "b": CLIENT[family]}


@pytest.mark.parametrize("family", [4, 6])
def test_clients_on_the_nodes_and_in_pods_are_served_too(network: DirectNetwork, family: int) -> None:
    pods = {"a": 80, "b": 80}
    assert set(answered(network, network.nodes["node1"].netns, 80, pods, family)) == {"a", "b"}
    own = address_of("c", family)
    assert answered(network, network.pods["c"], 80, pods, family) == {"a": own, "b": own}


@pytest.mark.parametrize("family", [4, 6])
def test_u109_a_pod_that_listens_on_another_port_answers_from_the_services(network: DirectNetwork, family: int) -> None:
    assert answered(network, network.client, 81, {"b": 8081}, family) == {"b": CLIENT[family]}
    assert set(answered(network, network.pods["b"], 81, {"b": 8081}, family, times=1)) == {"b"}, "the pod reaches itself"


@pytest.mark.parametrize("family", [4, 6])
def test_b14_a_service_without_direct_return_is_served_at_the_same_address(network: DirectNetwork, family: int) -> None:
    listeners = {listen(network.pods[name], 8082, family): name for name in ("a", "b")}
    reached = set()
    for _ in range(4):
        with connect(network.client, VIP[family], 82):
            listener, connection = accept(listeners)
            connection.close()
            reached.add(listeners[listener])
    for listener in listeners:
        listener.close()
    assert reached == {"a", "b"}
    addresses = network.nodes["node1"].netns.run("ip -o address show dev kube-dummy-if")
    assert VIP[family] not in addresses


@pytest.mark.parametrize("family", [4, 6])
def test_u074_u018_segments_leave_room_for_the_packet_around_them_and_a_large_upload_arrives(network: DirectNetwork, family: int) -> None:
    limit = {4: 1440, 6: 1400}[family]
    listeners = [listen(network.pods[name], 80, family) for name in ("a", "b")]
    for _ in range(2):
        with connect(network.client, VIP[family], 80) as asking:
            _, connection = accept(listeners)
            assert asking.getsockopt(socket.IPPROTO_TCP, TCP_MAXSEG) <= limit
            sender = threading.Thread(target=asking.sendall, args=(bytes(ONE_MEGABYTE),))
            sender.start()
            assert receive(connection, ONE_MEGABYTE)
            sender.join()
            connection.close()
    for listener in listeners:
        listener.close()
    plain = listen(network.pods["a"], 9000, family)
    with connect(network.client, address_of("a", family), 9000) as asking:
        assert asking.getsockopt(socket.IPPROTO_TCP, TCP_MAXSEG) > limit, "nobody else's segments are touched"
    plain.close()


@pytest.mark.parametrize("family", [4, 6])
def test_u017_a_backend_behind_a_tunnel_of_the_overlay_is_reached_from_pods_the_node_and_outside(
    network: DirectNetwork, family: int
) -> None:
    """The packet to the pod gets another one around it; that leaves room for 1,400 octets, and nothing of it comes back to node1."""
    first, second = network.nodes.values()
    range_, kind = ("10.242.1.0/24", "ipip") if family == 4 else ("fd00:242:0:1::/64", "ip6tnl")
    before = first.netns.run(f"ip -{family} route show {range_}").strip()
    for here, there in ((first, second), (second, first)):
        mine, other = (NODES[node.name][family == 6] for node in (here, there))
        extra = "encaplimit none" if family == 6 else ""
        here.netns.run(f"ip link add tun-test type {kind} local {mine} remote {other} {extra}")
        here.netns.run("ip link set tun-test up")
        here.feed(Interface(Name("", "kube-bridge"), mtu=1460, addresses=bridge_addresses(here.name)))
    first.netns.run(f"ip -{family} route replace {range_} dev tun-test")
    network.feed(*slices("a", 80, "b"))
    listener = listen(network.pods["b"], 80, family)
    try:
        for client in (network.client, network.pods["c"], first.netns):
            with connect(client, VIP[family], 80) as asking:
                _, connection = accept([listener])
                asking.sendall(bytes(1400) * 8)
                assert receive(connection, 1400 * 8)
                connection.sendall(b"bye")
                assert asking.recv(8) == b"bye"
                assert names(connection)[0] == VIP[family]
                connection.close()
    finally:
        listener.close()
        first.netns.run(f"ip -{family} route replace {before}")
        for node in (first, second):
            node.netns.run("ip link del tun-test")
            node.feed(Interface(Name("", "kube-bridge"), mtu=1500, addresses=bridge_addresses(node.name)))
        network.feed(*slices("a", 80, "a", "b"))


@pytest.mark.parametrize("family", [4, 6])
def test_u074_who_sends_datagrams_that_are_too_large_hears_of_it_and_smaller_ones_arrive(network: DirectNetwork, family: int) -> None:
    room, (level, option), (_, mtu) = {
        4: (1500 - 28, (socket.IPPROTO_IP, IP_MTU_DISCOVER), (socket.IPPROTO_IP, IP_MTU)),
        6: (1500 - 48, (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER), (socket.IPPROTO_IPV6, IPV6_MTU)),
    }[family]
    servers = [listen(network.pods[name], 5201, family, kind=socket.SOCK_DGRAM) for name in ("a", "b")]
    with connect(network.client, VIP[family], 5201, kind=socket.SOCK_DGRAM) as asking:
        asking.setsockopt(level, option, PMTUDISC_DO)
        asking.send(bytes(room))
        fits, until = {4: 1480, 6: 1460}[family], time.monotonic() + 3
        while asking.getsockopt(level, mtu) != fits and time.monotonic() < until:
            time.sleep(0.05)
        assert asking.getsockopt(level, mtu) == fits
        assert asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.EMSGSIZE), "heard, and forgotten"
        for server in servers:
            drain(server)
        asking.send(bytes(room - {4: 20, 6: 40}[family]))
        ready, _, _ = select.select(servers, [], [], 5)
        assert ready, "what fits arrives"
    for server in servers:
        server.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_port_that_nobody_serves_is_not_answered_by_this_node(network: DirectNetwork, family: int) -> None:
    """Packets without a mark are sent on, to wherever routes lead: here back to the client, which has no such address."""
    with pytest.raises(OSError) as refused:
        connect(network.client, VIP[family], 22, timeout=1.5)
    assert refused.value.errno != errno.ECONNRESET


def test_u018_one_service_that_loses_its_endpoints_takes_nothing_from_the_others(network: DirectNetwork) -> None:
    for director in network.nodes.values():
        for family in (4, 6):
            director.cache.remove(Kind.ENDPOINT_SLICE, Name("shop", f"b-{family}"))
        director.sync()
    for family in (4, 6):
        with pytest.raises(ConnectionRefusedError):
            connect(network.client, VIP[family], 81)
        listener = listen(network.pods["b"], 80, family)
        network.feed(*slices("a", 80, "b"))
        with connect(network.client, VIP[family], 80) as asking:
            accept([listener])[1].close()
            assert asking.getsockopt(socket.IPPROTO_TCP, TCP_MAXSEG) <= 1440
        listener.close()
    network.feed(*slices("a", 80, "a", "b"), *slices("b", 8081, "b"))


def test_what_stands_is_found_again_by_a_process_that_starts_and_nothing_is_written(network: DirectNetwork) -> None:
    director = network.nodes["node1"]
    director.start()
    outcome = director.feed(*everything())
    assert outcome.written == 0
    assert director.sync(audit=True).drifted == 0


def test_a05_what_somebody_took_away_comes_back(network: DirectNetwork) -> None:
    director, pod = network.nodes["node1"], network.pods["a"]
    pod.run("ip link delete kube-tunnel-if")
    director.netns.run("ip rule del priority 32764")
    director.netns.run("ip -6 route flush table 78")
    assert director.sync(audit=True).drifted >= 4
    assert answered(network, network.client, 80, {"a": 80, "b": 80}, 4).keys() == {"a", "b"}
    assert answered(network, network.client, 80, {"a": 80, "b": 80}, 6).keys() == {"a", "b"}


def test_c_in_the_end_nothing_is_left_in_nodes_and_pods(network: DirectNetwork) -> None:
    """The last test of this file: node1 forgets its Services, node2's process is gone and a cleanup finds what it left."""
    node1, node2 = network.nodes.values()
    node1.forget("a", "b", "c", "d")
    node2.start()
    node2.cleanup()
    for director in network.nodes.values():
        assert director.netns.run("ip rule").count("78") == 0
        for family in (4, 6):
            assert director.netns.run(f"ip -{family} route show table 78", check=False) == ""
        assert "fwm" not in director.netns.run("cat /proc/net/ip_vs").lower()
        assert "MSS" not in director.netns.run("iptables-save -t mangle") + director.netns.run("ip6tables-save -t mangle")
    for name in ("a", "b"):
        assert "kube-tunnel" not in network.pods[name].run("ip link")
        assert "kube-router" not in network.pods[name].run("nft list tables")
