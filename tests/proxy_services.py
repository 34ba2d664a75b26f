"""Services, slices and a node to judge them on, for tests of the service proxy: each with an address in both families."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from kube_router.cache.cache import Cache
from kube_router.config.options import Options, defaults
from kube_router.control.proxy import ProxyController
from kube_router.desired import Desired
from kube_router.desired.proxy.endpoints import Backend
from kube_router.desired.proxy.frontends import Binding, Frontend, FrontendKind
from kube_router.kit.net import Family
from kube_router.model.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Interface,
    Kind,
    Name,
    Node,
    Object,
    Ref,
    Service,
    ServicePort,
)
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.netfilter import SetMember
from tests.engine import Event
from tests.engine import Node as LabNode
from tests.fakes import World


class Facts(NamedTuple):
    """Addresses of one family: of nodes, Services and pods, `here` on node1 and `there` on node2."""

    family: Family
    node: str
    other_node: str
    cluster: str
    external: str
    balanced: str
    here: str
    there: str
    pods_here: str
    pods_there: str


IPV4: Final = Facts(
    4,
    "192.0.2.11",
    "192.0.2.12",
    "10.96.0.50",
    "203.0.113.9",
    "198.51.100.7",
    "10.244.1.5",
    "10.244.2.5",
    "10.244.1.0/24",
    "10.244.2.0/24",
)
IPV6: Final = Facts(
    6,
    "2001:db8:2::11",
    "2001:db8:2::12",
    "fd00:96::50",
    "2001:db8:e::9",
    "2001:db8:f::7",
    "fd00:244:1::5",
    "fd00:244:2::5",
    "fd00:244:1::/64",
    "fd00:244:2::/64",
)
BOTH: Final = (IPV4, IPV6)
OPTIONS: Final = defaults(
    node_name="node1",
    enable_ipv6=True,
    service_cluster_ip_range=("10.96.0.0/16", "fd00:96::/112"),
    service_external_ip_range=("203.0.113.0/24", "2001:db8:e::/64"),
    loadbalancer_ip_range=("198.51.100.0/24", "2001:db8:f::/64"),
)
WEB: Final = Name("shop", "web")
NODE1: Final = Node(Name("", "node1"), addresses=(IPV4.node, IPV6.node), pod_cidrs=(IPV4.pods_here, IPV6.pods_here))
NODE2: Final = Node(Name("", "node2"), addresses=(IPV4.other_node, IPV6.other_node), pod_cidrs=(IPV4.pods_there, IPV6.pods_there))
LINKS: Final = (
    Interface(Name("", "lo"), addresses=("127.0.0.1/8", "::1/128")),
    Interface(Name("", "up0"), addresses=(f"{IPV4.node}/24", f"{IPV6.node}/64", "fe80::1/64")),
)


def service(name: Name = WEB, *, facts: Iterable[Facts] = BOTH, node_port: int = 0, created: str = "2025", **fields: Any) -> Service:
    """A Service on port 80/TCP with a cluster IP of each family, and whatever `fields` say."""
    given = {"cluster_ips": tuple(one.cluster for one in facts), "ports": (ServicePort("http", "TCP", 80, node_port),), **fields}
    return Service(name, created=created, **given)


def everywhere_reachable(**fields: Any) -> Service:
    """The same with addresses of every kind, in both families."""
    from kube_router.model.objects import Ingress

    given = {
        "type": "LoadBalancer",
        "node_port": 30080,
        "external_ips": tuple(one.external for one in BOTH),
        "ingress": tuple(Ingress(one.balanced) for one in BOTH),
        **fields,
    }
    return service(**given)


def piece(*endpoints: Endpoint, of: Name = WEB, name: str = "", port: int = 8080) -> EndpointSlice:
    """A slice of a Service whose port "http" is 8080 in the pods."""
    return EndpointSlice(Name(of.namespace, name or f"{of.name}-1"), of, endpoints, (EndpointPort("http", "TCP", port),))


def on(node: str, *addresses: str, **fields: Any) -> Endpoint:
    """A ready endpoint on a node."""
    return Endpoint(addresses, node_name=node, **fields)


def ending(node: str, *addresses: str, **fields: Any) -> Endpoint:
    """One that still serves while it terminates."""
    return Endpoint(addresses, **{"ready": False, "serving": True, "terminating": True, "node_name": node, **fields})


def view_of(*objects: Object) -> Cache:
    """A cache that holds the two nodes, the links of node1 and these; later ones take the place of earlier ones."""
    cache = Cache()
    for value in (NODE1, NODE2, *LINKS, *objects):
        cache.put(value)
    return cache


def wants(*objects: Object, of: Name = WEB, options: Options = OPTIONS) -> Desired:
    """What a Service among these objects comes to on node1."""
    cache = view_of(*objects)
    controller = ProxyController(options, kernel=(6, 1))
    feed = cache.feed(controller.reads)
    list(controller.touched(feed.take(), cache.view))
    return controller.want(Ref(Kind.SERVICE, of), cache.view)


def by_server(state: Iterable[Key]) -> dict[tuple[str, int], set[str]]:
    """(address, port) of each IPVS service by address -> addresses of its destinations."""
    found: dict[tuple[str, int], set[str]] = {}
    for key in state:
        if isinstance(key, VirtualServerKey) and not key.mark:
            found.setdefault((key.address, key.port), set())
        if isinstance(key, DestinationKey) and not key.server.mark:
            found.setdefault((key.server.address, key.server.port), set()).add(key.address)
    return found


def dummy_addresses(state: Iterable[Key]) -> set[str]:
    """Addresses on the dummy link."""
    return {key.prefix.partition("/")[0] for key in state if isinstance(key, AddressKey)}


def entries(state: Iterable[Key], name: str) -> set[str]:
    """Entries of a set and of its IPv6 twin."""
    return {key.entry for key in state if isinstance(key, SetMember) and key.set in (name, f"inet6:{name}")}


def naming(state: dict[Key, Value], address: str) -> list[Key]:
    """Keys that name an address in any way."""
    return [key for key in state if address in repr(key)]


def binding(
    of: Service,
    facts: Facts,
    *,
    kind: FrontendKind = "external",
    protocol: str = "TCP",
    everyone: Iterable[Backend] = (),
    here: Iterable[Backend] = (),
) -> Binding:
    """Port 80 of a Service at its address of a kind."""
    addresses = {"cluster": facts.cluster, "external": facts.external, "loadbalancer": facts.balanced, "nodeport": facts.node}
    front = Frontend(kind, addresses[kind], facts.family, of.external_policy)
    server = VirtualServerKey(front.address, {"TCP": 6, "UDP": 17, "SCTP": 132}[protocol], 80, 0, facts.family)
    return Binding(of, front, protocol, 80, server, VirtualServer(), list(everyone), list(here))


def a_node(*objects: Event, world: World | None = None, **flags: Any) -> LabNode:
    """node1 with its proxy, settled over node2, its links and these objects; what that wrote is not counted."""
    node = LabNode(lambda: ProxyController(replace(OPTIONS, **flags), kernel=(6, 1)), world)
    node.begin(NODE1, NODE2, *LINKS, *objects)
    return node
