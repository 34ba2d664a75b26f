"""A real gobgpd as a target, in both generations: what it holds, what it refuses, and what it says in its OPEN."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import Options, defaults
from kube_router.control.cycle import Cycle
from kube_router.control.speaker import SpeakerController
from kube_router.kit.errors import Busy, Stale
from kube_router.model.objects import Name, Node
from kube_router.model.state import Change
from kube_router.model.state.bgp import DefinedSetMember, Neighbor, NeighborKey, Path, PathKey, Speaker, SpeakerKey
from tests.engine import Recorder, inline
from tests.kernel.mesh import Listener
from tests.speakers import Speaker as Gobgpd

pytestmark = pytest.mark.needs("root")

NODE1 = Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"))
NODE2 = Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51"), pod_cidrs=("10.233.66.0/24", "fd00:66::/64"))


class Ours:
    """Our side of one gobgpd."""

    def __init__(self, gobgpd: Gobgpd, *nodes: Node, preserved: bool = False, options: Options | None = None) -> None:
        options = options or defaults(node_name="node1", enable_ipv6=True, bgp_graceful_restart=True)
        self.client = Client(gobgpd.target)
        self.target = GobgpTarget(self.client, preserved=lambda: preserved)
        self.cache, controller = Cache(), SpeakerController(options)
        self.report = Recorder()
        feed = self.cache.feed(controller.reads)
        self.cycle = Cycle(controller, feed=feed, view=self.cache.view, targets=[self.target], report=self.report, call=inline)
        for node in nodes:
            self.cache.put(node)

    def sync(self, *, audit: bool = False):
        return asyncio.run(self.cycle.sync(self.cycle.controller.writes if audit else ()))


@pytest.fixture
def home(gobgpd: Gobgpd) -> Gobgpd:
    """A gobgpd on a node with the addresses of node1 and, so that somebody can listen there, of node2."""
    for address in ("192.168.50.50/32", "192.168.50.51/32"):
        gobgpd.netns.run(f"ip addr add {address} dev lo")
    for address in ("fd00:50::50/128", "fd00:50::51/128"):
        gobgpd.netns.run(f"ip addr add {address} dev lo nodad")
    return gobgpd


def test_what_is_wanted_is_what_is_read_back(home: Gobgpd) -> None:
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    assert ours.target.observe(ours.cycle.ledger.merged) == ours.cycle.ledger.merged
    writes = ours.target.writes
    assert ours.sync(audit=True).drifted == 0
    assert ours.target.writes == writes


def test_a_restart_of_ours_writes_nothing(home: Gobgpd) -> None:
    assert Ours(home, NODE1, NODE2).sync().good
    again = Ours(home, NODE1, NODE2)
    assert again.sync().good
    assert again.target.writes == 0


def test_a_restart_of_gobgpd_is_noticed_by_the_next_write_and_made_good(home: Gobgpd) -> None:
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    home.stop()
    home.start()
    ours.cache.put(Node(Name("", "node3"), addresses=("192.168.50.52",)))
    assert ours.sync().failure.startswith(("Busy", "Stale"))
    for _ in range(3):
        outcome = ours.sync()
    assert outcome.good
    assert ours.target.observe(ours.cycle.ledger.merged) == ours.cycle.ledger.merged


def test_an_absent_gobgpd_is_busy_and_says_where_it_was_sought(home: Gobgpd) -> None:
    home.stop()
    ours = Ours(home, NODE1)
    outcome = ours.sync()
    assert "Busy: no gobgpd answers at unix://" in outcome.failure


def test_a_server_that_is_no_gobgpd_is_named(home: Gobgpd, tmp_path) -> None:
    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix://{tmp_path}/other.sock")
    server.start()
    try:
        with pytest.raises(Busy, match="is no gobgpd of version 3 or 4"):
            Client(f"unix://{tmp_path}/other.sock").generation()
    finally:
        server.stop(None)


def test_a_listen_address_that_is_not_on_the_host_is_told(home: Gobgpd) -> None:
    ours = Ours(home, Node(Name("", "node1"), addresses=("192.168.99.99",)))
    assert "gobgpd cannot start BGP as AS 64512 on 192.168.99.99" in ours.sync().failure


def test_a_foreign_neighbour_path_and_policy_go_and_nothing_else_is_touched(home: Gobgpd) -> None:
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    api = ours.client.generation()
    stranger = api.pb.Peer(conf=api.pb.PeerConf(neighbor_address="192.168.50.99", peer_asn=65001))
    ours.client.send("AddPeer", peer=stranger)
    ours.client.send("AddPolicy", policy=api.pb.Policy(name="mine"), refer_existing_statements=True)
    member = api.pb.DefinedSet(defined_type=api.set_neighbor, name="iBGPpeerset", list=["10.9.9.9/32", "192.168.50.51/32"])
    ours.client.send("AddDefinedSet", defined_set=member)
    writes = ours.target.writes
    outcome = ours.sync(audit=True)
    assert outcome.good
    assert outcome.drifted == 3
    assert ours.target.writes == writes + 3
    assert ours.target.observe(ours.cycle.ledger.merged) == ours.cycle.ledger.merged


def test_a_statement_that_somebody_edited_is_replaced_and_one_policy_of_a_higher_number_is_left(home: Gobgpd) -> None:
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    api = ours.client.generation()
    pb = api.pb
    name = "podcidrdefinedsetiBGPpeerset"
    conditions = pb.Conditions(neighbor_set=pb.MatchSet(type=api.match_any, name="iBGPpeerset"))
    ours.client.send("DeleteStatement", statement=pb.Statement(name=name, conditions=conditions))
    assert ours.sync(audit=True).good
    assert ours.target.observe(ours.cycle.ledger.merged) == ours.cycle.ledger.merged
    assigned = [reply.assignment for reply in ours.client.list("ListPolicyAssignment")]
    names = sorted(policy.name for assignment in assigned for policy in assignment.policies)
    assert names == ["kube_router_export3", "kube_router_import1"]
    assert sorted(reply.policy.name for reply in ours.client.list("ListPolicy")) == names


def test_a_neighbour_that_the_speaker_cannot_have_is_rejected_alone(home: Gobgpd) -> None:
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    bad = Change(NeighborKey("not-an-address"), None, Neighbor(64512, "192.168.50.50"))
    good = Change(NeighborKey("192.168.50.60"), None, Neighbor(64512, "192.168.50.50"))
    rejected = ours.target.apply([bad, good])
    assert list(rejected) == [bad.key]
    assert "not-an-address" in rejected[bad.key]
    assert NeighborKey("192.168.50.60") in ours.target.observe({})


def test_many_paths_are_announced_and_taken_back_in_a_stream_and_a_bad_one_is_refused_alone(home: Gobgpd) -> None:
    ours = Ours(home, NODE1)
    assert ours.sync().good
    many: dict[PathKey, Path] = {PathKey(f"10.96.{n // 250}.{n % 250}/32"): Path("192.168.50.50") for n in range(600)}
    many |= {PathKey(f"fd00:233::{n:x}/128"): Path("fd00:50::50") for n in range(1, 601)}
    before = ours.target.calls["AddPath"]
    assert ours.target.apply([Change(key, None, value) for key, value in many.items()]) == {}
    assert {key: value for key, value in ours.target.observe({}).items() if key in many} == many
    assert ours.target.calls["AddPath"] == before
    gone = list(many)[:500]
    assert ours.target.apply([Change(key, many[key], None) for key in gone]) == {}
    assert {key for key in ours.target.observe({}) if key in many} == set(list(many)[500:])
    bad = Change(PathKey("10.99.0.1/32"), None, Path("fd00:50::50"))
    rejected = ours.target.apply([bad, *(Change(key, None, many[key]) for key in gone)])
    assert list(rejected) == [bad.key]
    assert {key: value for key, value in ours.target.observe({}).items() if key in many} == many


def test_deleting_the_absent_and_creating_the_existing_succeed(home: Gobgpd) -> None:
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    state = dict(ours.cycle.ledger.merged)
    again = (PathKey, DefinedSetMember)  # not looked for among thousands: said again, which changes nothing
    assert ours.target.apply([Change(key, None, value) for key, value in state.items() if isinstance(key, again)]) == {}
    assert ours.target.observe(state) == state
    writes = ours.target.writes
    assert ours.target.apply([Change(key, None, value) for key, value in state.items() if not isinstance(key, again)]) == {}
    assert ours.target.writes == writes
    absent = Change(NeighborKey("192.168.50.98"), Neighbor(64512, "192.168.50.50"), None)
    assert ours.target.apply([absent]) == {}
    assert ours.target.writes == writes


def test_another_identity_restarts_the_speaker_and_all_is_told_anew(home: Gobgpd) -> None:
    assert Ours(home, NODE1, NODE2).sync().good
    other = defaults(node_name="node1", enable_ipv6=True, bgp_graceful_restart=True, cluster_asn=65000)
    ours = Ours(home, NODE1, NODE2, options=other)
    failure = ours.sync().failure
    if home.generation == "v3":
        assert "everything else in it is gone" in failure
    else:
        assert "its supervisor must restart the process" in failure
        assert "its supervisor must restart the process" in ours.sync().failure
        home.stop()
        home.start()
    for _ in range(3):
        outcome = ours.sync()
    assert outcome.good
    held = ours.target.observe(ours.cycle.ledger.merged)
    assert held == ours.cycle.ledger.merged
    speaker = held[SpeakerKey()]
    assert isinstance(speaker, Speaker)
    assert speaker.asn == 65000


def test_a_write_to_a_speaker_that_was_never_started_is_stale(home: Gobgpd) -> None:
    target = GobgpTarget(Client(home.target))
    with pytest.raises(Stale, match="not started"):
        target.apply([Change(NeighborKey("192.168.50.51"), None, Neighbor(64512, "192.168.50.50"))])


# -- the OPEN ---------------------------------------------------------------------------------------------------------


def capabilities(message: bytes) -> list[tuple[int, bytes]]:
    """Codes and values of an OPEN's capabilities (RFC 4271 4.2, RFC 5492 4), in order."""
    found = []
    options = message[29 : 29 + message[28]]
    while options:
        kind, length = options[0], options[1]
        value, options = options[2 : 2 + length], options[2 + length :]
        assert kind == 2, "every optional parameter is a capability"
        while value:
            code, size = value[0], value[1]
            found.append((code, value[2 : 2 + size]))
            value = value[2 + size :]
    return found


@pytest.mark.parametrize("restarting", [False, True])
def test_the_open_says_what_the_walkthrough_shows(home: Gobgpd, restarting: bool) -> None:
    """Walkthrough step 7: the restarting side sets the R bit and says that it forwarded all the while."""
    listener = Listener(home.netns, "192.168.50.51")
    four = defaults(node_name="node1", bgp_graceful_restart=True)
    ours = Ours(home, NODE1, NODE2, preserved=restarting, options=four)
    assert ours.sync().good
    listener.join(30)
    message = listener.received
    assert message[18:20] == bytes((1, 4)), "an OPEN of version 4"
    assert int.from_bytes(message[20:22]) == 64512
    assert int.from_bytes(message[22:24]) == 90
    assert socket.inet_ntoa(message[24:28]) == "192.168.50.50"
    said = dict(capabilities(message))
    name = socket.gethostname().encode()
    time = 90 | (0x8000 if restarting else 0)
    more = {6, 75} if home.generation == "v4" else set()  # extended message, software version
    assert {code: value for code, value in said.items() if code not in more} == {
        2: b"",  # route refresh
        73: bytes((len(name),)) + name + b"\0",  # FQDN
        1: bytes((0, 1, 0, 1)),  # multiprotocol: IPv4 unicast
        65: (64512).to_bytes(4),  # four-octet AS number
        64: time.to_bytes(2) + bytes((0, 1, 1, 0x80 if restarting else 0)),  # graceful restart
        5: bytes((0, 1, 0, 1, 0, 2)),  # extended next hop: IPv4 unicast over IPv6
    }
    assert said.keys() >= more


def test_a_dual_stack_open_names_both_families(home: Gobgpd) -> None:
    listener = Listener(home.netns, "192.168.50.51")
    ours = Ours(home, NODE1, NODE2)
    assert ours.sync().good
    listener.join(30)
    said = capabilities(listener.received)
    assert [value for code, value in said if code == 1] == [bytes((0, 1, 0, 1)), bytes((0, 2, 0, 1))]
    assert dict(said)[64] == (90).to_bytes(2) + bytes((0, 1, 1, 0, 0, 2, 1, 0))
