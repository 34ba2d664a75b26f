"""A cluster in one kernel, for tests and for people.

    with Cluster(nodes=3) as cluster:
        cluster.start_daemons("--run-firewall=false")
        cluster.apply(pod("web", node="node3"))
        cluster.wait_for_pods()
        assert cluster.node("node1").probe("host", "10.233.0.3:53/udp") is ALLOW

A place is named by a word: a node ("node1"), a host beside the cluster ("client", "world", "peer", "api"), or a pod ("web" in the
namespace default, "kube-system/coredns-1").
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lab.addresses import API, API_PORT, CLIENT, PEER, ROUTER_ASNS, WORLD, Host, node_hosts, pod_cidrs, router_hosts
from lab.allocate import ServiceAllocator
from lab.api.kinds import Json
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store
from lab.capture import Capture, Packet
from lab.controller_manager import ControllerManager, node_is_ready
from lab.echo import Echo, Server
from lab.firewall import write_kubelet_rules
from lab.kubelet import UNREADY, Kubelet, network_name
from lab.manifests import api_service
from lab.node import Node, open_in
from lab.probe import PATIENCE, Reply, Target, Verdict, ask_all, parse_target
from lab.processes import Speaker
from lab.routers.bird import Bird
from lab.routers.frr import Frr
from lab.routers.model import Router
from lab.slices import is_ready
from lab.space import Space, inside, together
from lab.topology import FORWARDING, UPLINK, Topology
from lab.traffic import Flow, Flows, Stream
from lab.waiting import wait_for

SPEAKER = "/usr/bin/gobgpd"  # Debian's, of API generation 3
DEFAULT_FLAGS = ("--service-cluster-ip-range=10.233.0.0/18",)
IPV6_FLAGS = ("--enable-ipv6", "--service-cluster-ip-range=fd00:233::/112")


class Cluster:
    """Nodes, wires, an API server and the players of kubelet and controller manager. A context: leaving it ends everything.

    ``segments`` puts nodes on another segment ({"node3": "b"}); ``routers`` stands other people's BGP routers on segments
    ({"frr": "a", "bird": "outside"}), not yet started; ``iptables`` is the front-end that the kubelets speak to
    ("nft" or "legacy"); ``speaker`` is the gobgpd to run; ``work`` is where logs go (else a temporary folder, removed at
    the end); ``service`` and ``registered`` say whether the Service ``kubernetes`` and the Node objects exist from the start.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        ipv6: bool = True,
        segments: Mapping[str, str] | None = None,
        routers: Mapping[str, str] | None = None,
        iptables: str = "nft",
        speaker: str = SPEAKER,
        work: Path | None = None,
        registered: bool = True,
        service: bool = True,
        bookmark_every: float = 5.0,
    ) -> None:
        self.families = (4, 6) if ipv6 else (4,)
        self.work = work or Path(tempfile.mkdtemp(prefix="kube-router-lab-"))
        self.work.mkdir(parents=True, exist_ok=True)
        self._remove_work = work is None
        self.space = Space("lab", files=True)
        self.nodes: dict[str, Node] = {}
        self._opened: list[Capture | Stream | Flow] = []
        try:
            self._build(node_hosts(nodes, segments or {}), router_hosts(routers or {}), iptables, speaker, bookmark_every)
            if service:
                self.apply(*api_service())
            if registered:
                for node in self.nodes.values():
                    node.kubelet.register()
        except BaseException:
            self.space.close()
            raise

    def _build(self, hosts: Sequence[Host], routers: Sequence[Host], iptables: str, speaker: str, bookmark_every: float) -> None:
        self.topology = Topology(self.space, [*hosts, *routers, API, PEER, CLIENT, WORLD], families=self.families)
        self.routers = {host.name: self._router(host) for host in routers}
        self.objects = Objects(Store())
        ServiceAllocator(self.objects.store)
        self.api = ApiServer(self.objects.store, bookmark_every=bookmark_every).start()
        api = self.topology.spaces["api"]
        for everywhere in ("0.0.0.0", "::")[: len(self.families)]:
            self.api.listen(lambda host=everywhere: api.call(listening_socket, API_PORT, host=host))  # type: ignore[misc]
        self.url = f"http://{API.address(4)}:{API_PORT}"
        self.echo = Echo()
        self.servers: list[Server] = []
        ranges = {host.name: pod_cidrs(number)[: len(self.families)] for number, host in enumerate(hosts, start=1)}
        self.controllers = ControllerManager(self.objects, ranges=lambda name: ranges.get(name, ())).start()
        spaces = self.topology.spaces
        together(partial(write_kubelet_rules, spaces[host.name], backend=iptables, families=self.families) for host in hosts)
        for host in hosts:
            space = spaces[host.name]
            space.sysctl(FORWARDING)
            addresses = [host.address(family) for family in self.families]
            kubelet = Kubelet(self.objects, space, node=host.name, addresses=addresses, echo=self.echo).start()
            self.nodes[host.name] = Node(host.name, self, space=space, kubelet=kubelet, addresses=addresses, speaker=speaker)

    def _router(self, host: Host) -> Router:
        space = self.topology.spaces[host.name]
        space.sysctl(FORWARDING)
        made = Frr if host.name == "frr" else Bird
        return made(space, host, asn=ROUTER_ASNS[host.name], work=self.work)

    # life

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything; nothing of it remains in the kernel or (unless ``work`` was given) on disk."""
        for node in self.nodes.values():
            node.kubelet.stop()
        self.controllers.stop()
        self.api.stop()
        self.echo.stop()
        self.space.close()
        if self._remove_work:
            shutil.rmtree(self.work, ignore_errors=True)

    def problems(self) -> list[str]:
        """What the lab's own players stumbled over; empty when all is well."""
        return [*self.controllers.problems, *(text for node in self.nodes.values() for text in node.kubelet.problems)]

    # objects

    def apply(self, *things: Json | str) -> None:
        """Create or change objects, given as dictionaries or as YAML."""
        for thing in things:
            for one in _documents(thing) if isinstance(thing, str) else [thing]:
                self.objects.apply(one)

    def delete(self, word: str, name: str, namespace: str = "default", *, grace: int | None = None) -> bool:
        """Delete an object: ``delete("pod", "web")``; False when it is not there."""
        kind = self.objects.kind(word)
        return self.objects.delete(word, name, namespace if kind.namespaced else "", grace=grace)

    def balance(self, name: str, *addresses: str, namespace: str = "default") -> None:
        """Give a Service of type LoadBalancer its addresses, as a cloud's controller does; "ADDRESS=Proxy" says the ipMode."""
        entries = [dict(zip(("ip", "ipMode"), text.split("="), strict=False)) for text in addresses]
        self.objects.patch("services", name, {"status": {"loadBalancer": {"ingress": entries}}}, namespace=namespace, part="status")

    def pod(self, name: str) -> Json:
        """A pod by "name" or "namespace/name"; Problem 404 when there is none."""
        namespace, _, bare = name.rpartition("/")
        return self.objects.get("pods", bare, namespace or "default")

    def pod_address(self, name: str, family: int = 4) -> str:
        """A pod's address in a family; LookupError when it has none (yet)."""
        for entry in self.pod(name)["status"].get("podIPs") or ():
            if (":" in entry["ip"]) == (family == 6):
                return str(entry["ip"])
        raise LookupError(f"pod {name} has no IPv{family} address")

    def nodes_ready(self) -> bool:
        """Whether every node is registered and Ready."""
        return all(node_is_ready(self.objects.get("nodes", name)) for name in self.nodes)

    def unready_pods(self) -> list[str]:
        """Pods that do not run yet; those that never will be Ready by order do not count."""
        return [
            pod["metadata"]["name"]
            for pod in self.objects.list("pods")
            if not is_ready(pod) and UNREADY not in (pod["metadata"].get("annotations") or {})
        ]

    def pods_ready(self) -> bool:
        return not self.unready_pods()

    def wait_for_nodes(self, *, seconds: float = 60.0) -> None:
        """Wait until all nodes are Ready."""
        wait_for("all nodes Ready", self.nodes_ready, seconds=seconds, so_far=self.problems)

    def wait_for_pods(self, *, seconds: float = 60.0) -> None:
        """Wait until all pods are Ready."""

        def so_far() -> object:
            events = [event["message"] for event in self.objects.list("events")]
            return self.unready_pods(), self.problems(), events[-3:]

        wait_for("all pods Ready", self.pods_ready, seconds=seconds, so_far=so_far)

    # nodes

    def node(self, name: str) -> Node:
        """A node by name; KeyError when there is none."""
        return self.nodes[name]

    def flags(self) -> tuple[str, ...]:
        """The flags that every daemon of this cluster needs."""
        return DEFAULT_FLAGS + (IPV6_FLAGS if 6 in self.families else ())

    def start_daemons(self, *flags: str) -> None:
        """Start gobgpd (where it does not run) and the daemon on every node."""
        for node in self.nodes.values():
            if not node.speaker.alive:
                node.speaker.start()
        for node in self.nodes.values():
            node.start_daemon(*flags)

    def stop_daemons(self) -> None:
        """Stop every daemon; the speakers go on."""
        for node in self.nodes.values():
            node.stop_daemon()

    def external_speaker(self, *arguments: str, binary: str = SPEAKER) -> Speaker:
        """A gobgpd on the external router ("peer", 192.168.50.2), not yet started."""
        return Speaker(self.topology.spaces["peer"], log=self.work / "peer-gobgpd.log", binary=binary, arguments=arguments)

    # places

    def locate(self, place: str, *, on: str = "") -> tuple[Space, str]:
        """The space in which a place lies, and the path of its network namespace. ``on`` names the node of "host"."""
        if place == "host":
            place = on
        if place in self.topology.spaces:
            space = self.topology.spaces[place]
            return space, space.network
        namespace, _, name = place.rpartition("/")
        key = (namespace or "default", name)
        for node in self.nodes.values():
            if running := node.kubelet.running.get(key):
                return node.space, running.network
        raise LookupError(f"there is no place {place!r}: no host of the lab, and no pod that runs")

    def serve(self, place: str, *ports: str) -> Server:
        """Let an echo server answer at a place that is no pod, on ports such as "80" or "53/udp"."""
        space, network = self.locate(place)
        server = self.echo.serve(place, open_in(space, network, ports, self.families))
        self.servers.append(server)
        return server

    def target(self, text: str) -> Target:
        """``ADDRESS:PORT[/PROTOCOL]``, where the address may be the word for a pod or host (its IPv4 address then)."""
        try:
            found = parse_target(text)
        except ValueError:
            if "/" not in text.rpartition(":")[0]:
                raise
            place, _, rest = text.rpartition(":")
            found = parse_target(f"x:{rest}")
            return Target(self.pod_address(place), found.port, found.protocol)
        if found.address in self.topology.hosts:
            return Target(self.topology.hosts[found.address].address(4), found.port, found.protocol)
        if found.address.replace(".", "").isdigit() or ":" in found.address:
            return found
        return Target(self.pod_address(found.address), found.port, found.protocol)

    # questions

    def ask(self, place: str, target: str, *, on: str = "", seconds: float = PATIENCE) -> Reply:
        """Put one question: who answers at ``target``, and whom does it see?"""
        return self.ask_all([(place, target)], on=on, seconds=seconds)[0]

    def ask_all(self, questions: Iterable[tuple[str, str]], *, on: str = "", seconds: float = PATIENCE) -> list[Reply]:
        """Put many questions at once; it takes as long as one."""
        return ask_all([self._open(place, target, on) for place, target in questions], seconds=seconds)

    def probe(self, place: str, target: str, *, on: str = "", seconds: float = PATIENCE) -> Verdict:
        """ALLOW, REFUSED or SILENT."""
        return self.ask(place, target, on=on, seconds=seconds).verdict

    def stream(self, place: str, target: str, *, every: float = 0.02, on: str = "") -> Stream:
        """Steady UDP traffic from a place to a target, until its ``stop``, which counts what was lost."""
        found, made = self._open(place, target, on)
        return Stream(found, made, every=every)

    def flow(self, place: str, target: str, *, on: str = "") -> Flow:
        """A TCP connection that stays open."""
        found, made = self._open(place, target, on)
        return Flow(found, made)

    def hold(self, ends: Iterable[tuple[str, str]], *, on: str = "", patience: float = 5.0) -> Flows:
        """TCP connections from places to targets, all open until its ``stop``, which tells what was lost."""
        return Flows([self._open(place, target, on) for place, target in ends], patience=patience)

    def _open(self, place: str, target: str, on: str) -> tuple[Target, socket.socket]:
        found = self.target(target)
        space, network = self.locate(place, on=on)
        return found, space.call(_open_socket, network, found)

    def capture(self, place: str, link: str = UPLINK, *, keep: Callable[[Packet], bool] = lambda _: True) -> Capture:
        """Catch the packets that pass a link of a node or host."""
        return Capture(self.topology.spaces[place], link, keep=keep)

    def network_of(self, pod: str) -> str:
        """The name of a pod's network namespace on its node, as ``ip netns`` there lists it."""
        namespace, _, name = pod.rpartition("/")
        return network_name(namespace or "default", name)


def _open_socket(network: str, target: Target) -> socket.socket:
    with inside(network):
        return target.open()


def _documents(text: str) -> list[Json]:
    import yaml  # only here: it is slow to import, and most tests do without

    return [document for document in yaml.safe_load_all(text) if document]
