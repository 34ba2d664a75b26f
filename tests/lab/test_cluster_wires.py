"""The lab's ground: namespaces, wires, processes, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.api.faults import Fault
from lab.cluster import Cluster
from lab.probe import ALLOW, REFUSED, SILENT
from lab.processes import Process
from lab.route_notices import RouteNotices
from lab.space import CommandFailed, Space
from lab.waiting import SLOWNESS, wait_for

pytestmark = pytest.mark.needs("root", "veth", "bridge", "iptables_nft")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=3, segments={"node3": "b"}) as cluster:
        yield cluster


@pytest.fixture
def space() -> Iterator[Space]:
    with Space("test", files=True) as space:
        yield space


def test_a_space_is_away_from_the_host(space: Space) -> None:
    here = set(os.listdir("/sys/class/net"))
    space.ip(["link add name inside type bridge"])
    assert "inside" in space.call(os.listdir, "/sys/class/net")
    assert set(os.listdir("/sys/class/net")) == here
    child = space.child("machine", files=True)
    child.call(Path("/etc/only-here").write_text, "x")
    child.call(Path("/run/only-here").write_text, "x")
    assert child.run(["hostname"]).strip() == "machine"
    assert (child.root / "etc/only-here").read_text() == "x"
    assert not Path("/etc/only-here").exists()
    assert not Path("/run/only-here").exists()
    assert space.run(["ip", "netns"]).split()[0] == "machine"


def test_a_command_that_fails_says_what_it_said(space: Space) -> None:
    with pytest.raises(CommandFailed, match=r"test: ip link show nothing: status 1\n.*does not exist"):
        space.run(["ip", "link", "show", "nothing"])
    with pytest.raises(CommandFailed, match=r"not done after 0\.1 s"):
        space.run(["sleep", "100"], timeout=0.1)
    assert "not exist" not in space.run(["ip", "link", "show", "nothing"], check=False)


def test_what_a_space_started_ends_with_it() -> None:
    with Space("test") as space:
        process = space.popen(["sleep", "1000"])
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_a_killed_lab_leaves_nothing_behind() -> None:
    """SIGKILL: no clean-up of its own can run; the kernel does it all."""
    names = set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()
    code = "\n".join(
        [
            "import sys, time",
            "from lab.cluster import Cluster",
            "cluster = Cluster(nodes=1, ipv6=False)",
            "node = cluster.node('node1')",
            "node.speaker.start()",
            "node.speaker.wait_until_listening()",
            "print(node.speaker.pid, cluster.work, flush=True)",
            "time.sleep(1000)",
        ]
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as lab:
        assert lab.stdout
        pid, work = lab.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        lab.kill()
    wait_for("gobgpd ends", lambda: not _runs(int(pid)), seconds=10)
    assert (set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()) == names
    assert str(work) not in Path("/proc/self/mounts").read_text()
    for log in Path(work).iterdir():
        log.unlink()
    Path(work).rmdir()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_hosts_of_all_segments_reach_one_another(cluster: Cluster) -> None:
    for place in ("node1", "node3", "client", "peer"):
        cluster.serve(place, "7777")
    asked = [(source, f"{target}:7777") for source in ("node1", "node3", "client", "peer") for target in ("node1", "node3", "client")]
    asked += [("node1", "[fd00:60::52]:7777"), ("node3", "[2001:db8:2::10]:7777"), ("client", "[fd00:50::50]:7777")]
    assert [reply.verdict for reply in cluster.ask_all(asked)] == [ALLOW] * len(asked)
    reply = cluster.ask("node3", "node1:7777")
    assert (reply.pod, reply.source_address, reply.to) == ("node1", "192.168.60.52", "192.168.50.50:7777")


def test_an_unplugged_node_is_silent_and_comes_back_as_it_was(cluster: Cluster) -> None:
    node = cluster.node("node2")
    cluster.serve("node2", "7778")
    before = (node.run("ip -br address"), node.run("ip route"), node.run("ip -6 route"))
    node.unplug()
    assert "NO-CARRIER" in node.run("ip link show eth0")
    assert cluster.probe("node1", "node2:7778", seconds=0.5) is not ALLOW
    node.plug()
    wait_for("node2 answers", lambda: cluster.probe("node1", "node2:7778") is ALLOW, seconds=10)
    after = (node.run("ip -br address"), node.run("ip route"), node.run("ip -6 route"))
    assert [sorted(text.split()) for text in after] == [sorted(text.split()) for text in before]


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ("192.168.50.51:9", REFUSED),
        ("192.168.50.51:9/udp", REFUSED),
        ("192.168.50.99:9", REFUSED),
        ("[fd00:50::51]:9/udp", REFUSED),
        ("192.0.2.99:9", REFUSED),
    ],
)
def test_a_no_is_told_from_silence(cluster: Cluster, target: str, verdict: object) -> None:
    assert cluster.probe("node1", target, seconds=4) is verdict


def test_dropped_packets_are_silence(cluster: Cluster) -> None:
    node = cluster.node("node2")
    cluster.serve("node2", "7779", "7779/udp")
    node.run(
        ["iptables-restore", "--noflush"],
        text="*filter\n-I INPUT 1 -p tcp --dport 7779 -j DROP\n-I INPUT 1 -p udp --dport 7779 -j DROP\nCOMMIT\n",
    )
    try:
        replies = cluster.ask_all([("node1", "node2:7779"), ("node1", "node2:7779/udp")], seconds=0.5)
        assert [reply.verdict for reply in replies] == [SILENT, SILENT]
    finally:
        node.run("iptables -D INPUT 1")
        node.run("iptables -D INPUT 1")
    assert cluster.probe("node1", "node2:7779/udp") is ALLOW


def test_every_node_reaches_the_api_and_sees_its_faults(cluster: Cluster) -> None:
    def status(node: str) -> int:
        command = ["busybox", "wget", "-q", "-O", "-", f"{cluster.url}/healthz"]
        return 200 if "ok" in cluster.node(node).run(command, check=False) else 0

    assert [status(name) for name in cluster.nodes] == [200, 200, 200]
    fault = cluster.api.faults.add(Fault("answer", client="192.168.50.51", status=500))
    assert [status(name) for name in cluster.nodes] == [200, 0, 200]
    cluster.api.faults.remove(fault)
    cluster.api.refuse()
    assert cluster.probe("node1", "api:6443") is REFUSED
    cluster.api.accept()
    assert [status(name) for name in cluster.nodes] == [200, 200, 200]


def test_packets_are_captured_on_their_way(cluster: Cluster, tmp_path: Path) -> None:
    cluster.serve("node2", "7780/udp")
    with cluster.node("node1").capture(keep=lambda packet: packet.has_port(7780)) as capture:
        cluster.ask("node1", "node2:7780/udp")
        wait_for("two packets", lambda: len(capture.packets) == 2, seconds=5)
    there, back = capture.stop()
    assert (there.outgoing, there.source, there.target, there.payload) == (True, "192.168.50.50", "192.168.50.51", b"hello")
    assert (back.outgoing, back.source_port) == (False, 7780)
    capture.save(tmp_path / "x.pcap")
    text = subprocess.check_output(["tcpdump", "-Z", "root", "-nr", str(tmp_path / "x.pcap")], text=True, stderr=subprocess.DEVNULL)
    assert text.count("192.168.50.51.7780") == 2


def test_the_kubelets_rules_are_there_before_anything_else(cluster: Cluster) -> None:
    node = cluster.node("node1")
    for command in ("iptables", "ip6tables"):
        assert {line.split()[1] for line in node.run(f"{command} -S").splitlines() if line.startswith("-N")} == {
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
        }
        assert "KUBE-IPTABLES-HINT" in node.run(f"{command} -t mangle -S")


def test_a_process_is_started_paused_killed_and_told_about(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.node("node1")
    command = ["sh", "-c", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.05; done"]
    process = Process("loop", node.space, command, log=tmp_path / "log")
    assert not process.alive
    process.start()
    process.wait_for_output("hello")
    with pytest.raises(RuntimeError, match="runs already"):
        process.start()
    assert process.memory() > 0
    process.pause()
    wait_for("it stands still", lambda: "T (stopped)" in Path(f"/proc/{process.pid}/status").read_text(), seconds=5)
    process.resume()
    assert process.stop() == 3
    assert process.said() == "hello\nbye\n"
    process.start()
    wait_for("it says hello again", lambda: process.said() == "hello\n", seconds=5)
    process.kill()
    assert process.status == -signal.SIGKILL
    assert process.output().count("hello\n") == 2


def test_a_speaker_starts_over_the_socket_of_a_killed_one(cluster: Cluster) -> None:
    speaker = cluster.node("node1").speaker
    speaker.start()
    speaker.wait_until_listening()
    speaker.kill()
    assert speaker.socket.is_socket()
    speaker.start()
    time.sleep(0.5 * SLOWNESS)
    assert speaker.alive
    listening = cluster.node("node1").space.call(socket.socket, socket.AF_UNIX)
    with listening:
        cluster.node("node1").space.call(listening.connect, "/run/kube-router/gobgp.sock")
    speaker.kill()
    assert not cluster.node("node2").file("/run/kube-router/gobgp.sock").exists()


def test_every_route_that_comes_or_goes_is_noticed_with_its_moment(cluster: Cluster) -> None:
    node = cluster.node("node1")
    with RouteNotices(node.space) as notices:
        start = time.monotonic()
        node.run("ip route add 198.18.7.0/24 via 192.168.50.1")
        node.run("ip -6 route add fd00:99::/64 via fd00:50::1")
        node.run("ip route del 198.18.7.0/24")
        wait_for("three notices", lambda: len(notices.notices) == 3, seconds=5)
    node.run("ip -6 route del fd00:99::/64")
    told = [(notice.gone, notice.prefix, notice.gateway) for notice in notices.notices]
    assert told == [
        (False, "198.18.7.0/24", "192.168.50.1"),
        (False, "fd00:99::/64", "fd00:50::1"),
        (True, "198.18.7.0/24", "192.168.50.1"),
    ]
    moments = [notice.at for notice in notices.notices]
    assert start < moments[0] < moments[1] < moments[2] < time.monotonic()
    assert not notices.missed
