"""Services of a node outlive its daemon, and nothing but Services of ours goes in a cleanup: IPVS, the dummy link, the sets.

The rest of a node's state is looked after natively, in `test_restart.py` and `test_cleanup.py`; here every second costs ten.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.manifests import pod, service
from lab.node import Node
from lab.waiting import SLOWNESS, wait_for
from tests.lab.running import METRICS_PORT, drift, written
from tests.lab.state import State, changes, state
from tests.lab.tap import Tap

pytestmark = pytest.mark.needs("root", "veth", "bridge", "dummy", "ip_vs", "ipset", "xt_set", "iptables_nft", "nlmon")

SETTLING = 0.5  # seconds, times slowness
VIP = "10.233.0.77"
COMMANDS = (
    "ipvsadm -Sn",
    "ip -o addr",
    "ip -d -o link",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ipset save",
    "iptables-nft-save",
    "ip6tables-nft-save",
)
OTHERS = (  # near misses: an address and a service that could be ours, names that begin as ours do
    "ipvsadm -A -t 192.168.50.50:6443 -s wrr",
    "ipvsadm -a -t 192.168.50.50:6443 -r 192.168.50.10:6443 -m -w 7",
    "ipvsadm -A -u 198.18.9.9:53 -s rr",
    "ipvsadm -A -f 77 -s rr",
    "ip link add kube-dummy-if2 type dummy",
    "ip address add 198.18.9.9/32 dev kube-dummy-if2",
    "ipset create kube-router-service-ips-2 hash:ip timeout 0",
    "ipset add kube-router-service-ips-2 198.18.9.9",
)
RULES = """*nat
-A POSTROUTING -m ipvs --vdir ORIGINAL --vaddr 198.18.9.9 -j MASQUERADE
COMMIT
*filter
:KUBE-ROUTER-SERVICES-2 - [0:0]
-A INPUT -m set --match-set kube-router-service-ips-2 dst -j KUBE-ROUTER-SERVICES-2
-A FORWARD -s 198.18.9.9 -j DROP
-A OUTPUT -d 198.18.9.8 -j DROP
-A KUBE-ROUTER-SERVICES-2 -j RETURN
COMMIT
"""


@pytest.fixture(scope="module")
def bare() -> dict[str, State]:
    """The state of the node before the daemon started, filled by `cluster`."""
    return {}


@pytest.fixture(scope="module")
def cluster(bare: dict[str, State]) -> Iterator[Cluster]:
    """One node with a pod, its Service, and others' state."""
    with Cluster(nodes=1) as made:
        node = made.node("node1")
        for command in OTHERS:
            node.run(command)
        node.run("iptables-restore --noflush", text=RULES)
        node.run("ip6tables-restore --noflush", text="*filter\n-A FORWARD -s 2001:db8:9::9 -j DROP\nCOMMIT\n*nat\nCOMMIT\n")
        Tap.install(node)
        bare["node1"] = state(node, COMMANDS)
        made.start_daemons(f"--metrics-port={METRICS_PORT}")
        made.apply(pod("pod-1", node="node1", ports=["8080", "5000/udp"], labels={"app": "talk"}))
        made.apply(service("talk", ports=["web=80>8080", "say=53>5000/udp"], address=VIP, type="NodePort"))
        made.wait_for_pods()
        node.wait_until_ready()
        wait_for("the Service", lambda: f"-a -u {VIP}:53 -r {made.pod_address('pod-1')}:5000" in node.run("ipvsadm -Sn"))
        yield made
        assert made.problems() == []


@pytest.fixture
def node(cluster: Cluster) -> Node:
    cluster.node("node1").wait_until_ready()
    return cluster.node("node1")


def test_a_killed_daemon_comes_back_without_a_lost_packet_to_a_service_and_without_a_write(cluster: Cluster, node: Node) -> None:
    before = state(node, COMMANDS)
    stream = cluster.stream("host", f"{VIP}:53/udp", on="node1")
    with Tap(node) as tap:
        node.daemon.kill()
        node.start_daemon()
        node.wait_until_ready()
        time.sleep(SETTLING * SLOWNESS)
    tally = stream.stop()
    assert (tally.sent > 20, list(tally.lost), tally.refused) == (True, [], 0)
    assert tap.writes == {}
    assert changes(before, state(node, COMMANDS)) == []
    assert written(node) == {}
    assert drift(node) == {}


def test_what_vanished_of_services_while_the_daemon_was_dead_is_put_back_and_nothing_else(cluster: Cluster, node: Node) -> None:
    before = state(node, COMMANDS)
    node.daemon.kill()
    node.run(f"ipvsadm -d -t {VIP}:80 -r {cluster.pod_address('pod-1')}:8080")
    node.run(f"ip address del {VIP}/32 dev kube-dummy-if")
    node.run(f"ipset del kube-router-ipvs-services {VIP},udp:53")
    with Tap(node) as tap:
        node.start_daemon()
        node.wait_until_ready()
        time.sleep(SETTLING * SLOWNESS)
    # IPVS_CMD_NEW_DEST; IPSET_CMD_ADD; RTM_NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE: our local route had outlived its address
    assert tap.writes == {"ipvs 5": 1, "ipset 9": 1, "route 20": 1, "route 21": 1, "route 24": 1, "route 25": 1}
    assert changes(in_order(before), in_order(state(node, COMMANDS))) == []
    assert written(node) == {"ipvs": 1, "address": 1, "set": 1}


def in_order(found: State) -> State:
    """Without the order in which the kernel tells what was put back."""
    return {command: "\n".join(sorted(text.splitlines())) for command, text in found.items()}


def test_cleanup_takes_services_of_ours_and_leaves_those_of_others_to_the_byte(
    cluster: Cluster, node: Node, bare: dict[str, State]
) -> None:
    before = state(node, COMMANDS)
    node.daemon.signal(signal.SIGTERM)
    assert node.daemon.wait(5) == 0
    assert changes(before, state(node, COMMANDS)) == [], "a stop tears nothing down"
    cluster.delete("pod", "pod-1", grace=0)
    wait_for("no pod is left", lambda: not node.kubelet.running)
    node.speaker.kill()
    cluster.api.refuse()
    assert node.cleanup() == 0, (cluster.work / "node1-cleanup.log").read_text()
    assert changes(bare["node1"], state(node, COMMANDS), but=("conflist",)) == []
    with Tap(node) as tap:
        assert node.cleanup() == 0
    assert tap.writes == {}
