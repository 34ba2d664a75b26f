"""A node with pods on its bridge, and the rest of the world in one namespace: packets for network policy.

    pod a, b, c -- kube-bridge (node n1) -- uplink -- beyond: node n2, pod d on n2, the world

Every end answers on 80 and 81 by TCP and UDP. The daemon's part on n1 is the real controller, cycle and targets.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Final

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import Backend, installed
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.netpol import NetpolController
from kube_router.kit.net import of_family
from kube_router.model.objects import Name, NetworkPolicy, Pod
from kube_router.model.state import Key
from lab.echo import Echo, Listener
from lab.kernel_netns import Netns
from lab.probe import PATIENCE, SILENT, Reply, Target, ask_all
from tests.engine import Recorder, inline
from tests.walk.model import Cluster, Probe
from tests.walk.paths import cache_of, node_options, objects_of

NODES: Final = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
BRIDGE: Final = ("10.0.1.1", "fd00:0:0:1::1")
WORLD: Final = ("198.51.100.7", "2001:db8:f::7")
LOCAL: Final = ("a", "b", "c")
ADDRESSES: Final[dict[str, tuple[str, ...]]] = {
    "a": ("10.0.1.11", "fd00:0:0:1::11"),
    "b": ("10.0.1.12", "fd00:0:0:1::12"),
    "c": ("10.0.1.13", "fd00:0:0:1::13"),
    "d": ("10.0.2.14", "fd00:0:0:2::14"),
    **NODES,
    "world": WORLD,
}
PORTS: Final = (80, 81)
PROTOCOLS: Final = ("TCP", "UDP")
# Every question has a port of its own: the kernel remembers a datagram's flow for two minutes, and would take a question from
# the same port for more of a flow that an earlier policy had allowed.
_FIRST_PORT: Final = 1024
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class PolicyNode:
    """Node n1 and all that is around it. `forget` lets everything go."""

    def __init__(self, pods: Iterable[Pod], backend: Backend, make: Callable[[], Netns], **options: object) -> None:
        self.node, self.beyond = _namespace(make), _namespace(make)
        self.spaces = {"n1": self.node, "n2": self.beyond, "d": self.beyond, "world": self.beyond}
        self._echo = Echo()
        _wire_node(self.node, self.beyond)
        for name in LOCAL:
            self.spaces[name] = _namespace(make)
            _wire_pod(self.node, self.spaces[name], name)
        for space in {id(space): space for space in self.spaces.values()}.values():
            self._serve(space)
        self.cluster = Cluster((), tuple(pods), {"x": {"ns": "x"}, "y": {"ns": "y"}}, NODES)
        self.cache = cache_of(objects_of(self.cluster))
        self.sets, self.rules = SetTarget(), IptablesTarget(installed(Commands())[backend])
        self.report = Recorder()
        self._ports = count(_FIRST_PORT)
        controller = NetpolController(node_options("n1", **({"run_service_proxy": False} | options)))
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=[self.sets, self.rules],
            report=self.report,
            call=inline,
        )

    def _serve(self, space: Netns) -> None:
        with space.entered():
            sockets = [made for port in PORTS for kind in PROTOCOLS for made in Listener(port, kind.lower()).open(_FAMILIES)]
        self._echo.serve("end", sockets)

    def forget(self) -> None:
        """Stop answering; the namespaces are their maker's."""
        self._echo.stop()

    def sync(self, audit: Iterable[type[Key]] = ()) -> Outcome:
        """One pass in the node's namespace."""
        with self.node.entered():
            return asyncio.run(self.cycle.sync(audit))

    def decree(self, *policies: NetworkPolicy) -> Outcome:
        """These policies, and no others."""
        names = {policy.name for policy in policies}
        for gone in [name for name in self.cache.view.policies if name not in names]:
            self.cache.remove(_POLICY, gone)
        for policy in policies:
            self.cache.put(policy)
        self.cluster = self.cluster._replace(policies=policies)
        return self.sync()

    def ask(self, probes: Iterable[Probe]) -> Mapping[Probe, Reply]:
        """All probes at once, each from its source's namespace and address. Those without any answer are put once more, with more
        patience: on a busy machine an answer may be late, and silence is never what is expected of a policy."""
        replies = self._ask_once(list(probes))
        silent = [probe for probe, reply in replies.items() if reply.verdict is SILENT]
        return replies | self._ask_once(silent, seconds=4) if silent else replies

    def _ask_once(self, probes: list[Probe], *, seconds: float = PATIENCE) -> dict[Probe, Reply]:
        asked: list[tuple[Target, socket.socket]] = []
        ordered: list[Probe] = []
        for space, own in _by_space(probes, self.space_of):
            with space.entered():
                for probe in own:
                    target = Target(probe.destination, probe.port, probe.protocol.lower())
                    made = target.open()
                    made.bind((probe.source, next(self._ports)))
                    asked.append((target, made))
                    ordered.append(probe)
        return dict(zip(ordered, ask_all(asked, seconds=seconds), strict=True))

    def space_of(self, address: str) -> Netns:
        """Where an address lives."""
        return next(self.spaces[name] for name, own in ADDRESSES.items() if address in own)


def probes(names: Iterable[str] = tuple(ADDRESSES)) -> Iterator[Probe]:
    """All pairs of ends of which n1 sees the packets, in both families."""
    names = list(names)
    for source in names:
        for target in names:
            if source == target or not {source, target} & set(LOCAL):
                continue
            for family in (4, 6):
                (here,), (there,) = of_family(ADDRESSES[source], family), of_family(ADDRESSES[target], family)
                for protocol in PROTOCOLS:
                    yield from (Probe(here, there, protocol, port) for port in PORTS)


@contextmanager
def policy_node(pods: Iterable[Pod], backend: Backend, make: Callable[[], Netns], **options: object) -> Iterator[PolicyNode]:
    """A node for one test."""
    node = PolicyNode(pods, backend, make, **options)
    try:
        yield node
    finally:
        node.forget()


_POLICY = next(kind for kind in NetpolController.reads if kind.value == "NetworkPolicy")


def _by_space(probes: Iterable[Probe], space_of: Callable[[str], Netns]) -> list[tuple[Netns, list[Probe]]]:
    found: dict[int, tuple[Netns, list[Probe]]] = {}
    for probe in probes:
        space = space_of(probe.source)
        found.setdefault(id(space), (space, []))[1].append(probe)
    return list(found.values())


def _namespace(make: Callable[[], Netns]) -> Netns:
    """Without duplicate address detection, which would keep IPv6 silent for the first seconds."""
    space = make()
    script(space, "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
    return space


def script(space: Netns, *lines: str) -> None:
    """Commands in one shell: a process each is what takes the time in the lab kernel."""
    space.run(["sh", "-ec", "\n".join(lines)])


def _wire_node(node: Netns, beyond: Netns) -> None:
    script(
        node,
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        # A node refuses a few packets a second only, per sender and in all; here hundreds are refused at once.
        "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0",
        "sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=100000 || true",
        "ip link add kube-bridge type bridge mcast_snooping 0",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1",
        f"ip link add up0 type veth peer name up1 netns {beyond.path}",
        "ip link set kube-bridge up",
        *_address("kube-bridge", BRIDGE),
        *_address("up0", NODES["n1"]),
        "ip link set up0 up",
    )
    far = [address for name in ("d", "world") for address in ADDRESSES[name]]
    script(
        beyond,
        *_address("up1", NODES["n2"]),
        "ip link set up1 up",
        *(f"ip addr add {address} dev lo" for address in far),
        "ip route add 10.0.1.0/24 via 192.0.2.1",
        "ip route add fd00:0:0:1::/64 via 2001:db8::1",
    )
    script(node, *(f"ip route add {address} via {of_family(NODES['n2'], 6 if ':' in address else 4)[0]}" for address in far))


def _wire_pod(node: Netns, pod: Netns, name: str) -> None:
    script(
        node,
        f"ip link add veth-{name} type veth peer name eth0 netns {pod.path}",
        f"ip link set veth-{name} master kube-bridge up",
        f"ip link set veth-{name} type bridge_slave hairpin on",  # as the CNI configuration asks for
    )
    gateways = (f"ip route add default via {gateway}" for gateway in BRIDGE)
    script(pod, *_address("eth0", ADDRESSES[name]), "ip link set eth0 up", *gateways)


def _address(link: str, addresses: Iterable[str]) -> Iterator[str]:
    for address in addresses:
        yield f"ip addr add {address}/{64 if ':' in address else 24} dev {link}{' nodad' if ':' in address else ''}"


def pod(name: str, namespace: str = "x", **fields: object) -> Pod:
    """One of the pods, labelled by its name."""
    home = "n1" if name in LOCAL else "n2"
    return Pod(Name(namespace, name), labels={"pod": name}, node_name=home, phase="Running", ips=ADDRESSES[name], **fields)
