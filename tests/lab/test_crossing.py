"""Four nodes on two segments, dual-stack, with FRR and BIRD and both generations of gobgpd, where there is no more than
namespaces: VXLAN, without Services.

`test_encapsulation.py` has the other encapsulations, and Services.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from tests.lab.bgp_cluster import GENERATIONS, binary
from tests.lab.crossing import FLAGS, assert_full_size_passes, assert_wrapped_only_across, four_nodes, settle
from tests.lab.running import drift

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft", "vxlan")
EVERY = 0.002  # seconds between packets of one stream; two of them make a thousand in a second


@pytest.fixture(scope="module", params=GENERATIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with four_nodes(binary(request.param)) as made:
        yield made


def test_vxlan_joins_segments_and_daemons_that_restart_lose_none_of_a_thousand_packets_a_second(cluster: Cluster) -> None:
    settle(cluster, *FLAGS, "--run-service-proxy=false", "--overlay-encap=vxlan")
    assert_wrapped_only_across(cluster, "vxlan")
    assert_full_size_passes(cluster)
    began = time.monotonic()
    streams = [cluster.stream(*way, every=EVERY) for way in (("pod-1", "pod-2:5000/udp"), ("pod-4", "pod-1:5000/udp"))]
    for node in cluster.nodes.values():
        node.stop_daemon()
        node.start_daemon()
        node.wait_until_ready()
    seconds = time.monotonic() - began
    tallies = [stream.stop() for stream in streams]
    assert [(list(tally.lost), tally.refused) for tally in tallies] == [([], 0)] * 2
    assert sum(tally.sent for tally in tallies) / seconds > 0.7 / EVERY, "packets a second"
    assert [drift(node) for node in cluster.nodes.values()] == [{}] * 4
