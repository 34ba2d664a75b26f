"""Policies and IPVS: what a pod may reach through a service is judged by the backend that IPVS chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kube_router.model.names import IPVS_SERVICES, set_name
from kube_router.model.objects import ContainerPort
from lab.kernel_netns import Netns
from lab.probe import ALLOW, REFUSED, Verdict
from tests.kernel.policy_network import ADDRESSES, NODES, PolicyNode, pod, policy_node, script
from tests.walk.model import Probe
from tests.walk.words import label, pods, policy, rule, tcp

pytestmark = pytest.mark.needs(
    "root", "netns", "veth", "bridge", "br_netfilter", "dummy", "ip_vs", "ipset", "ipset_netport", "iptables_nft", "iptables_legacy"
)

VIPS = {4: "10.96.0.10", 6: "fd96::10"}
OUTSIDE_RANGES = {4: "203.0.113.53", 6: "2001:db8:e::53"}
RANGES = ("10.96.0.0/16", "fd96::/112")
NODE_PORT, NOT_A_SERVICE = 30080, 81  # 81: something on the node itself answers
A, B = label(pod="a"), label(pod="b")


@pytest.fixture
def node(namespaces: Callable[[], Netns]) -> Iterator[PolicyNode]:
    """Services of b (80), c (81) and a (82) on a VIP, and of b on an address outside the ranges and on a node port.

    One backend: what the rules say in the other is shown by packets that need no IPVS, and the lab kernel is slow.
    """
    everyone = [pod("a", ports=(ContainerPort("web", "TCP", 80),)), pod("b"), pod("c"), pod("d")]
    with policy_node(everyone, "nft", namespaces, run_service_proxy=True, service_cluster_ip_range=RANGES) as made:
        made.decree()
        script(made.node, *_services())
        yield made


def _services() -> Iterator[str]:
    yield "ip link add kube-dummy-if type dummy"
    yield "ip link set kube-dummy-if up"
    yield "modprobe -a ip_vs ip_vs_rr || true"
    yield "sysctl -qw net.ipv4.vs.conntrack=1"
    for family, tool in ((4, "iptables-legacy"), (6, "ip6tables-legacy")):
        for vip in (VIPS[family], OUTSIDE_RANGES[family]):
            yield f"ip addr add {vip}/{32 if family == 4 else 128} dev kube-dummy-if{' nodad' if family == 6 else ''}"
        for port, backend in ((80, "b"), (81, "c"), (82, "a")):
            yield from _service(family, VIPS[family], port, backend)
        yield from _service(family, OUTSIDE_RANGES[family], 80, "b")
        yield from _service(family, NODES["n1"][family == 6], NODE_PORT, "b")
        own = ADDRESSES["a"][family == 6]
        yield f"{tool} -t nat -A POSTROUTING -s {own} -d {own} -j MASQUERADE"


def _service(family: int, vip: str, port: int, backend: str) -> Iterator[str]:
    place = f"[{vip}]:{port}" if family == 6 else f"{vip}:{port}"
    real = ADDRESSES[backend][family == 6]
    yield f"ipvsadm -A -t {place} -s rr"
    yield f"ipvsadm -a -t {place} -r {f'[{real}]:80' if family == 6 else f'{real}:80'} -m"
    yield f"ipset add {set_name(IPVS_SERVICES, family)} {vip},tcp:{port} timeout 0"


def ask(node: PolicyNode, places: dict[tuple[int, str], tuple[str, int]]) -> dict[tuple[int, str], Verdict]:
    """What comes of a asking each place."""
    probes = {name: Probe(ADDRESSES["a"][name[0] == 6], target, "TCP", port) for name, (target, port) in places.items()}
    replies = node.ask(probes.values())
    return {name: replies[probe].verdict for name, probe in probes.items()}


def test_a_service_opens_what_its_backend_is_allowed_and_nothing_else(node):
    places: dict[tuple[int, str], tuple[str, int]] = {}
    for family in (4, 6):
        own = NODES["n1"][family == 6]
        places |= {
            (family, "backend allowed"): (VIPS[family], 80),
            (family, "backend not allowed"): (VIPS[family], 81),
            (family, "itself"): (VIPS[family], 82),
            (family, "outside the ranges"): (OUTSIDE_RANGES[family], 80),
            (family, "node port"): (own, NODE_PORT),
            (family, "what the node serves"): (own, NOT_A_SERVICE),
        }

    def expected(*closed: str) -> dict[tuple[int, str], Verdict]:
        return {name: REFUSED if name[1] in closed else ALLOW for name in places}

    assert ask(node, places) == expected()
    assert node.decree(policy(A, egress=(rule(pods(B), ports=(tcp(80),)),))).good
    assert ask(node, places) == expected("backend not allowed", "what the node serves")
    assert node.decree(policy(B, ingress=())).good
    assert ask(node, places) == expected("backend allowed", "outside the ranges", "node port")
