"""Four nodes on two segments, dual-stack, with FRR and BIRD: everybody reaches everybody, and only what crosses segments is wrapped.

IPIP and FOU, and addresses of Services through the service proxy; `test_crossing.py` has VXLAN, which needs no more than namespaces.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.waiting import wait_for
from tests.lab.bgp_cluster import binary
from tests.lab.crossing import FLAGS, assert_full_size_passes, assert_wrapped_only_across, four_nodes, settle, unreached

pytestmark = [
    pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft"),
    pytest.mark.needs("ip_vs", "dummy", "ipip", "ip6tnl", "fou"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with four_nodes(binary("v3")) as made:
        yield made


@pytest.mark.parametrize("encapsulation", ["fou", "ipip"])
def test_every_pod_and_vip_is_reached_over(cluster: Cluster, encapsulation: str) -> None:
    """The smaller MTU first: pods keep the one that they were made with, which an encapsulation that adds more would not carry."""
    settle(cluster, *FLAGS, "--advertise-cluster-ip", f"--overlay-encap={encapsulation}")
    assert_wrapped_only_across(cluster, encapsulation)
    assert_full_size_passes(cluster)
    vips: list[str] = cluster.objects.get("services", "web", "default")["spec"]["clusterIPs"]
    assert len(vips) == 2
    for name, router in cluster.routers.items():
        wait_for(f"{name} knows both VIPs", lambda router=router: all(router.kernel_routes(vip) for vip in vips), seconds=20)  # type: ignore[misc]
    targets = [f"[{vip}]:80" if ":" in vip else f"{vip}:80" for vip in vips]
    places = ("pod-1", "pod-4", *cluster.nodes, *cluster.routers)
    questions = [(place, target) for place in places for target in targets]
    wait_for("VIPs answer", lambda: not unreached(cluster, questions), seconds=10, so_far=lambda: unreached(cluster, questions))
