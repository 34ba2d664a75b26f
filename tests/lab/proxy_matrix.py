"""The policy matrix of the service proxy: which endpoint answers whom, and whose address it sees. One packet for each cell.

Endpoints: "near" on node1, "far" on node2, and "dying" on node1, which is being deleted and still serves. Clients: a pod on node1
("here"), a pod on node2 ("there"), node1 itself ("host"), and a host outside, whose router leads every address to node1. Node ports
are those of node1 for all of them.

Every Service has one policy inside and the other one outside, so that either is seen to be obeyed and nowhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.cluster import Cluster
from lab.manifests import pod, service
from lab.node import Node
from lab.probe import ALLOW, REFUSED, Reply
from lab.waiting import wait_for
from tests.lab.served import joined, servers, unserved

PLACES = ("here", "there", "host", "client")
BACKENDS = {"near": "node1", "far": "node2", "dying": "node1"}
FAMILIES = (4, 6)
POLICIES = ("Cluster", "Local")
# Endpoints of a Service, by the word for them in the table.
ENDPOINTS = {"local": ("near", "far"), "remote": ("far",), "none": (), "terminating": ("dying",), "ending": ("dying", "far")}

# Kinds of address, policy for them, endpoints; then who may answer each client: "-" is nobody, and a refusal.
OUTSIDE_KINDS = ("external", "balanced", "node port")
TABLE = """
                              here      there     host      client
cluster   Cluster local       near|far  near|far  near|far  near|far
cluster   Cluster remote      far       far       far       far
cluster   Cluster none        -         -         -         -
cluster   Cluster terminating dying     dying     dying     dying
cluster   Cluster ending      far       far       far       far
cluster   Local   local       near      far       near      near
cluster   Local   remote      -         far       -         -
cluster   Local   none        -         -         -         -
cluster   Local   terminating dying     -         dying     dying
cluster   Local   ending      dying     far       dying     dying
others    Cluster local       near|far  near|far  near|far  near|far
others    Cluster remote      far       far       far       far
others    Cluster none        -         -         -         -
others    Cluster terminating dying     dying     dying     dying
others    Cluster ending      far       far       far       far
others    Local   local       near|far  near|far  near|far  near
others    Local   remote      far       far       far       -
others    Local   none        -         -         -         -
others    Local   terminating dying     dying     dying     dying
others    Local   ending      far       far       far       dying
"""


@dataclass(frozen=True, eq=False)
class Row:
    """One kind of address under one policy with these endpoints; who may answer, by client."""

    kind: str
    policy: str
    endpoints: str
    answers: Mapping[str, frozenset[str]]

    def __str__(self) -> str:
        return f"{self.kind}-{self.policy}-{self.endpoints}"


def rows() -> Iterator[Row]:
    """The table, with the kinds of address that are reached from outside each on its own."""
    head, *lines = TABLE.strip().splitlines()
    for line in lines:
        kinds, policy, endpoints, *cells = line.split()
        answers = {place: frozenset(cell.split("|")) - {"-"} for place, cell in zip(head.split(), cells, strict=True)}
        for kind in OUTSIDE_KINDS if kinds == "others" else (kinds,):
            yield Row(kind, policy, endpoints, answers)


class Cell(NamedTuple):
    """One question: who asks which address of which row, in which family."""

    row: Row
    place: str
    family: int


ROWS = tuple(rows())
CELLS = tuple(Cell(row, place, family) for row, place, family in itertools.product(ROWS, PLACES, FAMILIES))


def _name(row: Row) -> str:
    """The Service that has this policy for this kind of address."""
    internal = row.policy if row.kind == "cluster" else POLICIES[1 - POLICIES.index(row.policy)]
    return f"matrix-{internal.lower()}-{row.endpoints}"


class Matrix:
    """The Services of the table in a cluster that has the clients and the endpoints."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._numbers: dict[str, int] = {}

    def build(self) -> None:
        """Make all of it and wait until both nodes serve it and "dying" is on its way out."""
        cluster = self._cluster
        for number, (internal, endpoints) in enumerate(itertools.product(POLICIES, ENDPOINTS), start=101):
            external = POLICIES[1 - POLICIES.index(internal)]
            name = f"matrix-{internal.lower()}-{endpoints}"
            self._numbers[name] = number
            made = service(
                name,
                selector={endpoints: "yes"},
                type="LoadBalancer",
                ipFamilyPolicy="RequireDualStack",
                internalTrafficPolicy=internal,
                externalTrafficPolicy=external,
                externalIPs=[external_ip(number, family) for family in FAMILIES],
            )
            cluster.apply(made)
            cluster.balance(name, *(balanced_ip(number, family) for family in FAMILIES))
        cluster.delete("pod", "dying")
        for node in cluster.nodes.values():
            wait_for(
                f"{node.name} serves the matrix",
                lambda node=node: self._is_served(node),  # type: ignore[misc]
                seconds=20,
                every=0.1,
                so_far=lambda node=node: (unserved(node, self._vips()), node.daemon.said()[-3000:]),  # type: ignore[misc]
            )

    def _is_served(self, node: Node) -> bool:
        ending = f"{external_ip(self._numbers['matrix-local-ending'], 4)}:80/tcp"
        served = servers(node)
        return not unserved(node, self._vips(), served) and joined(self._cluster.pod_address("dying"), 8080) not in served[ending]

    def _vips(self) -> list[str]:
        return [give(number, family) for number in self._numbers.values() for family in FAMILIES for give in (external_ip, balanced_ip)]

    def ask(self) -> dict[Cell, Reply]:
        """One packet (and its answer) for every cell, all at once."""
        questions = [(cell.place, self.target(cell)) for cell in CELLS]
        return dict(zip(CELLS, self._cluster.ask_all(questions, on="node1"), strict=True))

    def target(self, cell: Cell) -> str:
        """Address and port that a cell is about."""
        kind, name, family = cell.row.kind, _name(cell.row), cell.family
        spec = self._cluster.objects.get("services", name, "default")["spec"]
        if kind == "node port":
            return joined(self._cluster.node("node1").addresses[FAMILIES.index(family)], spec["ports"][0]["nodePort"])
        number = self._numbers[name]
        address = {
            "cluster": spec["clusterIPs"][FAMILIES.index(family)],
            "external": external_ip(number, family),
            "balanced": balanced_ip(number, family),
        }[kind]
        return joined(address, 80)

    def fault(self, cell: Cell, reply: Reply) -> str:
        """What is wrong with an answer; empty when it is as the table says and the endpoint sees whom it should."""
        allowed = cell.row.answers[cell.place]
        if not allowed:
            return "" if reply.verdict is REFUSED else f"{reply.verdict} {reply.pod}, where nobody may answer"
        if reply.verdict is not ALLOW or reply.pod not in allowed:
            return f"{reply.verdict} {reply.pod}, where {'|'.join(sorted(allowed))} should answer"
        seen = self._seen(cell, reply.pod)
        return "" if reply.source_address == seen else f"{reply.pod} sees {reply.source_address}, not {seen}"

    def _seen(self, cell: Cell, backend: str) -> str:
        """Whose address the endpoint sees: the client's, unless the answer would not come back to the node that balanced it."""
        cluster, place, family = self._cluster, cell.place, cell.family
        node1 = cluster.node("node1").addresses[FAMILIES.index(family)]
        if place == "host":
            return node1
        entry = "node2" if place == "there" and cell.row.kind != "node port" else "node1"
        if place == "client":
            return cluster.topology.hosts[place].address(family) if BACKENDS[backend] == entry else node1
        home = {"here": "node1", "there": "node2"}[place]
        return cluster.pod_address(place, family) if entry in (home, BACKENDS[backend]) else node1


def backend(name: str, node: str, *, ports: Sequence[str]) -> dict[str, Any]:
    """A pod that is an endpoint of the Services that the table names, and lingers once it is deleted."""
    labels = {endpoints: "yes" for endpoints, names in ENDPOINTS.items() if name in names}
    return pod(name, node=node, ports=ports, labels={"app": name, **labels}, annotations={"lab/linger": "3600"})


def external_ip(number: int, family: int) -> str:
    return f"203.0.113.{number}" if family == 4 else f"fd00:203::{number}"


def balanced_ip(number: int, family: int) -> str:
    return f"198.51.100.{number}" if family == 4 else f"fd00:198::{number}"
