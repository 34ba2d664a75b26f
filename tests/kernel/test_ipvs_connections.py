"""What becomes of connections as backends and Services come and go: real packets through a node that the real controller keeps."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lab.echo import Echo, Listener
from lab.kernel_netns import Netns
from tests.kernel.service_network import CLIENTS, GRACE, LOOK, ServiceNode, pod, service, service_node, slices, vip

pytestmark = pytest.mark.needs("root", "netns", "veth", "dummy", "ip_vs", "conntrack", "ipset", "xt_set", "iptables_nft")

FAMILIES = (4, 6)
AF = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(scope="module")
def node() -> Iterator[ServiceNode]:
    """With servers on all pods: TCP and UDP 8080 are echoes; 8081 closes every connection first, after "bye"."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    with ExitStack() as stack:
        node = stack.enter_context(service_node(make, ipvs_graceful_termination=True))
        echo = Echo()
        stack.callback(echo.stop)
        with node.pods.entered():
            sockets = [one for kind in ("tcp", "udp") for one in Listener(8080, kind).open(AF.values())]
        echo.serve("pods", sockets)
        stack.enter_context(closing_first(node.pods, 8081))
        node.sync()
        yield node
    for namespace in made:
        namespace.close()


@contextmanager
def closing_first(netns: Netns, port: int) -> Iterator[None]:
    with netns.entered():
        listeners = Listener(port, "tcp").open([socket.AF_INET])
    listeners[0].setblocking(True)
    listeners[0].settimeout(0.2)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listeners[0].accept()
            except TimeoutError:
                continue
            connection.send(b"bye")
            connection.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield
    finally:
        stop.set()
        server.join()
        listeners[0].close()


def client(node: ServiceNode, family: int, kind: socket.SocketKind, to: tuple[str, int], own: tuple[str, int] = ("", 0)) -> socket.socket:
    """A connection out of the clients' namespace."""
    with node.client.entered():
        made = socket.socket(AF[family], kind)
    made.settimeout(3)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(own)
    try:
        made.connect(to)
    except OSError:
        made.close()
        raise
    return made


def reached(connection: socket.socket) -> str:
    """The pod that greets on a TCP connection."""
    return str(_words(connection.recv(512))["to"]).rpartition(":")[0].strip("[]")


def asked(sender: socket.socket) -> str:
    """The pod that answers a datagram, "" when nobody does."""
    try:
        sender.send(b"?")
        return str(_words(sender.recv(512))["to"]).rpartition(":")[0].strip("[]")
    except OSError:
        return ""


@contextmanager
def streaming(sender: socket.socket, *, pause: float, patience: float) -> Iterator[list[str]]:
    """Datagrams all the time, and who answered each."""
    answers: list[str] = []
    stop = threading.Event()

    def stream() -> None:
        sender.settimeout(patience)
        while not stop.is_set():
            answers.append(asked(sender))
            time.sleep(pause)

    running = threading.Thread(target=stream)
    running.start()
    try:
        yield answers
    finally:
        stop.set()
        running.join()
        sender.settimeout(2)


def _words(line: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(line)
    return found


def lives(connection: socket.socket) -> bool:
    """Whether a held connection still echoes."""
    try:
        connection.send(b"alive?")
        return connection.recv(16) == b"alive?"
    except OSError:
        return False


def settle(what: Callable[[], bool], seconds: float = 3.0) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.05)
    return what()


def tracked(node: ServiceNode, protocol: str, asked: str) -> list[str]:
    """What connection tracking knows of flows to an address."""
    family = "ipv6" if ":" in asked else "ipv4"
    return [line for line in node.run(f"conntrack -L -f {family} -p {protocol}").splitlines() if f"dst={asked} " in line]


def entries(node: ServiceNode, protocol: str, backend: str) -> list[str]:
    """What connection tracking and IPVS know of connections to a backend."""
    family = "ipv6" if ":" in backend else "ipv4"
    tracked = node.run(f"conntrack -L -f {family} -p {protocol}").splitlines()
    balanced = node.run("ipvsadm -Lnc").splitlines()
    return [line for line in tracked if f"src={backend} " in line] + [line for line in balanced if f"{backend}:" in line.replace("]", "")]


# -- UDP ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_u001_u002_a_sender_that_never_pauses_reaches_the_new_backend_and_nothing_knows_the_old_one(node: ServiceNode, family: int) -> None:
    node.feed(service("dns", 53, protocol="UDP"), *slices("dns", 5, protocol="UDP"))
    with (
        client(node, family, socket.SOCK_DGRAM, (vip(53, family), 80)) as steady,
        client(node, family, socket.SOCK_DGRAM, (vip(53, family), 80)) as quiet,
    ):
        assert (asked(steady), asked(quiet)) == (pod(5, family), pod(5, family))
        with streaming(steady, pause=0.005, patience=0.2) as answers:
            time.sleep(0.2)
            node.feed(*slices("dns", 6, protocol="UDP"))
            swapped = len(answers)
            time.sleep(1)
        assert settle(lambda: not entries(node, "udp", pod(5, family))), entries(node, "udp", pod(5, family))
        assert pod(6, family) in answers[swapped : swapped + 5]
        assert set(answers[swapped + 5 :]) == {pod(6, family)}
        assert asked(quiet) in ("", pod(6, family))
        assert asked(quiet) == pod(6, family)
    node.forget("dns")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_b22_a_sender_from_before_there_was_a_service_or_a_backend_is_served_when_there_is(
    node: ServiceNode, family: int, at_once: bool
) -> None:
    # Somewhere packets to a VIP go as long as it is not ours: a flow is tracked once its packet has left.
    sink, peer = {4: ("10.96.0.0/16", "10.0.0.9"), 6: ("fd00:96::/112", "fd00:1::9")}[family]
    node.run(f"ip -{family} route replace {sink} via {peer}")
    with client(node, family, socket.SOCK_DGRAM, (vip(54, family), 80)) as early:
        with streaming(early, pause=0.0, patience=0.005) as answers:
            assert settle(lambda: bool(tracked(node, "udp", vip(54, family))))
            if not at_once:
                node.feed(service("late", 54, protocol="UDP"))
                time.sleep(0.2)
            node.cache.put(service("late", 54, protocol="UDP"))
            node.feed(*slices("late", 5, protocol="UDP"))
            time.sleep(0.5)
        assert asked(early) == pod(5, family)
        assert pod(5, family) in answers
        assert all(f"src={pod(5, family)} " in line for line in tracked(node, "udp", vip(54, family))), "and its flow runs through IPVS"
    node.forget("late")


# -- TCP ---------------------------------------------------------------------------------------------------------------------


def test_u003_a_client_that_uses_its_port_again_at_once_never_waits(node: ServiceNode) -> None:
    node.feed(service("reused", 3), *slices("reused", 5, 6, port=8081))
    took = []
    for _ in range(50):
        connection, seconds = _once_its_own_side_is_through(lambda: client(node, 4, socket.SOCK_STREAM, (vip(3), 80), ("", 2348)))
        took.append(seconds)
        with connection:
            assert connection.recv(16) == b"bye"
            assert connection.recv(16) == b"", "the server closes first: what IPVS knows of the connection waits for its time"
    assert sorted(took)[-3] < 0.2
    assert max(took) < 0.9, "a SYN that is lost is sent again after a second; an emulated kernel may be slow once or twice"
    node.forget("reused")


def _once_its_own_side_is_through(connect: Callable[[], socket.socket]) -> tuple[socket.socket, float]:
    """A connection, and how long it took from when the client's own kernel had forgotten the one before."""
    while True:
        began = time.monotonic()
        try:
            return connect(), time.monotonic() - began
        except OSError as busy:
            if busy.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                raise
        time.sleep(0.001)


@pytest.mark.parametrize("family", FAMILIES)
def test_b13_a03_connections_outlive_their_backend_and_their_service_until_they_end(node: ServiceNode, family: int) -> None:
    target = (vip(13, family), 80)
    node.feed(service("held", 13), *slices("held", 5))
    with client(node, family, socket.SOCK_STREAM, target) as held:
        assert reached(held) == pod(5, family)
        node.feed(*slices("held", 6))
        for _ in range(3):
            with client(node, family, socket.SOCK_STREAM, target) as new:
                assert reached(new) == pod(6, family), "no new connection to the one that ends"
        assert lives(held)
        node.feed(*slices("held", 5, 6))
        node.time += GRACE + LOOK
        node.sync()
        assert {_pod_of(node, family, target) for _ in range(4)} == {pod(5, family), pod(6, family)}, "it came back, and stays"
        node.forget("held")
        assert lives(held)
        with pytest.raises(ConnectionRefusedError):
            client(node, family, socket.SOCK_STREAM, target)
        node.time += LOOK
        node.sync()
        assert lives(held), "it is counted"
        node.start()
        node.sync()
        assert lives(held), "a restart finds it"
    node.time += GRACE
    node.sync()
    assert f"{vip(13, family)}" not in node.run("ipvsadm -Ln") + node.run(f"ip -{family} addr show dev kube-dummy-if")


def _pod_of(node: ServiceNode, family: int, target: tuple[str, int]) -> str:
    with client(node, family, socket.SOCK_STREAM, target) as connection:
        return reached(connection)


def chosen(node: ServiceNode, number: int) -> list[str]:
    """The pod of each client address; "" for one that is refused."""
    found = []
    for source in CLIENTS[4]:
        try:
            with client(node, 4, socket.SOCK_STREAM, (vip(number), 80), (source, 0)) as connection:
                found.append(reached(connection))
        except ConnectionRefusedError:
            found.append("")
    return found


def test_b24_nodes_agree_on_backends_in_whatever_order_these_came_and_no_connection_is_reset(node: ServiceNode) -> None:
    pairs = ((24, "mh"), (25, "sh"))
    for number, scheduler in pairs:
        node.feed(service(scheduler, number, scheduler=scheduler), *slices(scheduler, 5, 6, 7, 8))
    expected = {number: chosen(node, number) for number, _ in pairs}
    assert all(len(set(one)) > 1 for one in expected.values()), expected
    for number, scheduler in pairs:
        node.forget(scheduler)
        node.time += GRACE
        node.sync()
        with ExitStack() as stack:
            node.feed(service(scheduler, number, scheduler=scheduler), *slices(scheduler, 8))
            held = [stack.enter_context(client(node, 4, socket.SOCK_STREAM, (vip(number), 80), (one, 0))) for one in CLIENTS[4][:3]]
            assert [reached(one) for one in held] == [pod(8)] * 3
            for pods in ((6, 8), (6, 7, 8), (5, 6, 7, 8)):
                node.feed(*slices(scheduler, *pods))
            assert chosen(node, number) == expected[number], scheduler
            time.sleep(0.3)  # in which the kernel would have ended them
            assert [lives(one) for one in held] == [True] * 3
        assert node.sync(audit=True).drifted == 0
        assert node.sync(audit=True).written == 0
    assert node.run("sysctl -n net.ipv4.vs.expire_nodest_conn").strip() == "1"


def test_schedulers_that_hash_refuse_clients_of_a_backend_of_weight_0_unless_they_fall_back(node: ServiceNode) -> None:
    """Why ours do where backends drain, and why those of dh are not drained."""
    pairs = ((24, "mh"), (25, "sh"), (26, "rr"))
    for number, scheduler in pairs:
        node.feed(service(scheduler, number, scheduler=scheduler), *slices(scheduler, 5, 6))
        node.run(f"ipvsadm -e -t {vip(number)}:80 -r {pod(5)}:8080 -m -w 0")
        assert set(chosen(node, number)) == {pod(6)}, scheduler
    for number, scheduler in pairs:
        node.run(f"ipvsadm -E -t {vip(number)}:80 -s {scheduler}")
        assert ("" in chosen(node, number)) is (scheduler != "rr")
        node.forget(scheduler)
