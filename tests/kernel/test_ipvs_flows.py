"""Flows on the real kernel: tracked UDP flows of a Service end, all others go on."""

from __future__ import annotations

import select
import socket
import subprocess

import pytest

from kube_router.apply.kernel.flows import Flows
from kube_router.codec.conntrack import ANY_PORT, Flow
from lab.kernel_netns import Netns

pytestmark = pytest.mark.needs("root", "netns", "conntrack", "iptables_nft")

HERE = {4: "10.0.0.1", 6: "fd00::1"}
THERE = {4: "10.0.0.2", 6: "fd00::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(autouse=True)
def network(netns: Netns) -> None:
    del netns
    for command in (
        *(f"ip addr add {address}/32 dev lo" for address in (HERE[4], THERE[4])),
        *(f"ip -6 addr add {address}/128 dev lo nodad" for address in (HERE[6], THERE[6])),
        # A rule that looks at states makes the kernel track connections in this namespace.
        "iptables-nft -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
        "ip6tables-nft -A INPUT -m conntrack --ctstate NEW -j ACCEPT",
        # UDP 5000 is answered from another port: as by a backend of a Service, the answering side is not the one asked.
        f"iptables-nft -t nat -A OUTPUT -p udp -d {HERE[4]} --dport 5000 -j DNAT --to-destination {THERE[4]}:53",
        f"ip6tables-nft -t nat -A OUTPUT -p udp -d {HERE[6]} --dport 5000 -j DNAT --to-destination [{THERE[6]}]:53",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def send(family: int, *targets: tuple[str, int], times: int = 1) -> None:
    """Datagrams to listeners, each from a port of its own."""
    listeners = []
    for address, port in {(THERE[family], 53), *targets} - {(HERE[family], 5000)}:
        listener = socket.socket(FAMILY[family], socket.SOCK_DGRAM)
        listener.bind((address, port))
        listeners.append(listener)
    for target in targets * times:
        with socket.socket(FAMILY[family], socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", target)
            # Tracked once it has arrived, which on a busy machine is after sendto returns.
            arrived, _, _ = select.select(listeners, [], [], 10)
            for listener in arrived:
                listener.recv(64)
    for listener in listeners:
        listener.close()


def tracked(family: int) -> list[tuple[str, str]]:
    """Address and port that the client of each tracked UDP flow sent to, sorted."""
    options = ["-f", "ipv6"] if family == 6 else []
    lines = subprocess.run(["conntrack", "-L", "-p", "udp", *options], text=True, check=True, capture_output=True).stdout.splitlines()
    fields = [dict(word.split("=") for word in reversed(line.split()) if "=" in word) for line in lines]
    return sorted((found["dst"], found["dport"]) for found in fields)


def test_flows_to_an_address_and_port_end_and_others_go_on(family):
    here, there = HERE[family], THERE[family]
    send(family, (here, 53), (here, 54), (there, 53), times=3)
    flows = Flows()
    flows.end([Flow(here, 53)])
    assert flows.ended == 3
    assert tracked(family) == sorted([(here, "54")] * 3 + [(there, "53")] * 3)


def test_flows_to_one_backend_end_and_those_to_others_go_on(family):
    here, there = HERE[family], THERE[family]
    send(family, (here, 5000), times=2)
    flows = Flows()
    flows.end([Flow(here, 5000, here, 53), Flow(here, 5000, there, 54)])
    assert (flows.ended, len(tracked(family))) == (0, 2)
    flows.end([Flow(here, 5000, there, 53)])
    assert (flows.ended, tracked(family)) == (2, [])


def test_b22_flows_to_an_address_that_nobody_balances_end_on_all_ports_and_balanced_ones_go_on(family):
    here, there = HERE[family], THERE[family]
    send(family, (here, 53), (here, 54), (here, 5000), (there, 53))
    flows = Flows()
    flows.end([Flow(here, ANY_PORT, here, ANY_PORT)])
    assert flows.ended == 2
    assert tracked(family) == sorted([(here, "5000"), (there, "53")])


def test_many_services_are_looked_for_in_one_reading(family):
    here = HERE[family]
    send(family, *((here, port) for port in range(1000, 1020)))
    flows = Flows()
    flows.end([Flow(here, port) for port in range(1000, 1019)])
    assert (flows.ended, tracked(family)) == (19, [(here, "1019")])


def test_tcp_is_let_be_and_nothing_to_end_is_no_fault(family):
    here = HERE[family]
    with socket.create_server((here, 80), family=FAMILY[family]), socket.create_connection((here, 80)):
        flows = Flows()
        flows.end([Flow(here, 80)])
        flows.end([])
        assert flows.ended == 0
        options = ["-f", "ipv6"] if family == 6 else []
        shown = subprocess.run(["conntrack", "-L", "-p", "tcp", *options], text=True, check=True, capture_output=True).stdout
        assert "dport=80 " in shown
