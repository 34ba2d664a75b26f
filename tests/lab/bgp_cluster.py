"""Clusters with other people's BGP routers: FRR beside the nodes, BIRD behind the router; and the annotations that name them as peers."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.feed import Feed
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.model.state import Key, Value
from lab.cluster import Cluster
from lab.node import Node
from lab.processes import GOBGP_SOCKET
from lab.routers.frr import Frr
from lab.routers.model import Router
from lab.waiting import wait_for
from tests import speakers
from tests.lab.running import METRICS_PORT

ASN = 64512  # the daemon's default, for all nodes
PREFIX = "kube-router.io/"
FLAGS = (
    "--run-service-proxy=false",
    "--run-firewall=false",
    f"--metrics-port={METRICS_PORT}",
    "--service-external-ip-range=203.0.113.0/24",
    "--service-external-ip-range=fd00:203::/64",
)
GENERATIONS = sorted(speakers.binaries())


def binary(generation: str) -> str:
    """The gobgpd that speaks an API generation."""
    return str(speakers.binaries()[generation])


def frr_of(cluster: Cluster) -> Frr:
    """The cluster's FRR, with what only FRR has."""
    router = cluster.routers["frr"]
    assert isinstance(router, Frr)
    return router


def entry(address: str, asn: int, *, password: str = "", **more: Any) -> dict[str, Any]:
    """One external peer of the annotation `peers`; more: `localip`, `port`, `bfd`."""
    secret = {"password": base64.b64encode(password.encode()).decode()} if password else {}
    return {"remoteip": address, "remoteasn": asn, **secret, **more}


def annotate(cluster: Cluster, node: str, values: Mapping[str, str | None]) -> None:
    """Set annotations of a node, named without their prefix; None takes one away."""
    cluster.objects.patch("nodes", node, {"metadata": {"annotations": {PREFIX + name: value for name, value in values.items()}}})


def peer_with(cluster: Cluster, node: str, *entries: Mapping[str, Any]) -> None:
    """Name the external peers of a node."""
    annotate(cluster, node, {"peers": yaml.safe_dump([dict(one) for one in entries])})


def events(cluster: Cluster, reason: str, about: str) -> list[str]:
    """Messages of Events with a reason about an object of this name."""
    return [
        event["message"]
        for event in cluster.objects.list("events")
        if event.get("reason") == reason and about in (event.get("involvedObject") or event.get("regarding") or {}).get("name", "")
    ]


def kernel_gateways(node: Node, prefix: str) -> frozenset[str]:
    """Gateways of the route that a node's kernel has for a prefix; several of a multipath route."""
    words = node.run(["ip", "-6" if ":" in prefix else "-4", "route", "show", prefix]).split()
    return frozenset(words[at + 1] for at, word in enumerate(words) if word == "via")


def until_gateways(node: Node, prefix: str, *gateways: str, seconds: float = 5.0) -> None:
    """Wait until a node's kernel reaches a prefix by exactly these gateways."""
    wait_for(
        f"{node.name} reaches {prefix} by {', '.join(gateways) or 'nobody'}",
        lambda: kernel_gateways(node, prefix) == frozenset(gateways),
        seconds=seconds,
        so_far=lambda: kernel_gateways(node, prefix),
    )


@contextmanager
def speaker_of(node: Node) -> Iterator[Client]:
    """A connection of ours to a node's speaker."""
    client = Client(f"unix://{node.space.root}{GOBGP_SOCKET}")
    try:
        yield client
    finally:
        client.close()


def observed(node: Node) -> Mapping[Key, Value]:
    """All that a node's speaker holds, as the daemon reads it: the rules, the paths, the peers. Passwords are not among it."""
    with speaker_of(node) as client:
        return dict(GobgpTarget(client).observe({}))


def established(node: Node) -> list[str]:
    """The peers that a node's speaker has a session with."""
    with speaker_of(node) as client:
        return [address for address, peer in Feed(client).peers().items() if peer.established]


class Counted:
    """How often the sessions of a router came up: what must not change while a session is to live."""

    def __init__(self, router: Router, peers: Sequence[str]) -> None:
        self._router, self._peers = router, peers
        self._before = self._now()

    def _now(self) -> dict[str, tuple[bool, int]]:
        found = self._router.sessions()
        return {peer: (found[peer].established, found[peer].count) for peer in self._peers}

    def assert_same(self) -> None:
        assert self._now() == self._before
        assert all(established for established, _ in self._before.values())
