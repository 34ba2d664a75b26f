"""External peers and their annotations through the whole cycle, over a gobgpd in memory: what changes, what does not, what is told."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kube_router.app.reporting import Reporting
from kube_router.codec.accepted import Gate
from kube_router.codec.annotations import PREFIX
from kube_router.config.options import defaults
from kube_router.desired import Note
from kube_router.model.objects import Name, Node
from kube_router.model.state.bgp import DefinedSetMember, NeighborKey, PathKey
from kube_router.telemetry import logging
from tests.speaker_world import World

generations = pytest.mark.parametrize("generation", ["v3", "v4"])
OWN = Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"), pod_cidrs=("10.233.64.0/24",))
OTHER = Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51"))
OPTIONS = defaults(node_name="node1", enable_ipv6=True)


def said(**annotations: str) -> Node:
    return msgspec.structs.replace(OWN, annotations={PREFIX + key.replace("_", "."): text for key, text in annotations.items()})


def external_members(world: World) -> set[str]:
    return {key.member for key in world.holds() if isinstance(key, DefinedSetMember) and key.name.startswith("externalpeerset")}


@generations
def test_r11_sets_and_sessions_follow_the_peers_that_annotations_name(generation: str) -> None:
    world = World(generation, OPTIONS, [OWN, OTHER])
    world.settle()
    for ips, asns in (("192.168.60.1", "65001"), ("192.168.60.1,fd00:60::1", "65001,65001"), ("fd00:60::1", "65001"), ("", "")):
        begun, kept = world.gobgpd.sessions, set(world.gobgpd.peers)
        world.feed(said(peer_ips=ips, peer_asns=asns))
        assert world.sync().good
        wanted = {ip for ip in ips.split(",") if ip}
        assert {member.partition("/")[0] for member in external_members(world)} == wanted
        assert set(world.gobgpd.peers) == wanted | {"192.168.50.51"}
        assert world.gobgpd.sessions - begun == len(wanted - kept), "nobody else begins anew"
    assert external_members(world) == set()


@generations
def test_r23_a_start_that_failed_is_tried_again_with_what_annotations_say_by_then_and_doubles_nothing(generation: str) -> None:
    world = World(generation, OPTIONS)
    world.feed(said(peer_ips="192.168.60.1", peer_asns="65001", node_bgp_communities="65000:1"))
    refused = []

    def refuse(request: Any) -> None:
        refused.append(request)
        raise OSError

    start, world.gobgpd._start_bgp = world.gobgpd._start_bgp, refuse  # type: ignore[method-assign]
    with pytest.raises(OSError):
        world.sync()
    world.gobgpd._start_bgp = start  # type: ignore[method-assign]
    world.feed(said(peer_ips="192.168.60.2", peer_asns="65002", node_bgp_communities="65000:2"))
    world.settle()
    assert len(refused) == 1
    assert set(world.gobgpd.peers) == {"192.168.60.2"}
    added = {c for s in world.gobgpd.statements.values() for c in s.actions.community.communities}
    assert added == {"65000:2"}
    assert len(world.gobgpd.peers["192.168.60.2"].afi_safis) == 2


@generations
def test_r28_a_path_that_could_not_be_announced_is_no_good_pass(generation: str) -> None:
    """And what a pass comes to is what the health endpoint shows."""
    world = World(generation, OPTIONS, [OWN])
    world.settle()
    asked = world.gobgpd.asked
    world.feed(msgspec.structs.replace(OWN, pod_cidrs=("10.233.64.0/24", "10.233.99.0/24")))
    world.gobgpd.fail_at = frozenset(range(asked, asked + 40))
    outcome = world.sync()
    assert not outcome.good
    assert outcome.failure
    world.gobgpd.fail_at = frozenset()
    world.settle()
    assert PathKey("10.233.99.0/24") in world.holds()


@generations
def test_r23_one_wrong_annotation_leaves_its_last_good_value_in_force_and_costs_nothing_else(generation: str) -> None:
    gate = Gate(OWN.name)
    good = {"peer_ips": "192.168.60.1", "peer_asns": "65001", "node_bgp_communities": "65000:1"}
    world = World(generation, OPTIONS, [gate.admit(said(**good)), OTHER])
    world.settle()
    begun = world.gobgpd.sessions
    world.feed(gate.admit(said(**good | {"peer_ips": "192.168.60.1,oops", "node_bgp_communities": "65000:2"})))
    world.settle()
    assert NeighborKey("192.168.60.1") in world.holds()
    assert world.gobgpd.sessions == begun
    assert {c for s in world.gobgpd.statements.values() for c in s.actions.community.communities} == {"65000:2"}
    assert [(note.reason, "peer.ips" in note.message and "oops" in note.message) for note in world.report.notes] == [
        ("BadAnnotation", True)
    ]


# -- passwords --------------------------------------------------------------------------------------------------------

PLAIN = "open-sesame-42"
CODED = base64.b64encode(PLAIN.encode()).decode()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logging.configure(verbosity=4, form="text", stream=stream)
    yield stream
    logging.configure(verbosity=0, form="text")


@generations
@pytest.mark.parametrize(
    "annotations",
    [
        {"peers": f"[{{remoteip: 192.168.60.1, remoteasn: 65001, password: {CODED}}}]"},
        {"peers": f"[{{remoteip: 192.168.60.1, remoteasn: 65001, password: {CODED}!}}]"},
        {"peers": f"[{{remoteip: 192.168.60.1, remoteasn: 65001, password: {CODED}"},
        {"peer_ips": "192.168.60.1", "peer_asns": "65001", "peer_passwords": CODED},
        {"peer_ips": "192.168.60.1", "peer_asns": "65001", "peer_passwords": f"{CODED},{CODED}"},
        {"peer_ips": "192.168.60.1", "peer_asns": "65001", "peer_passwords": f"{CODED}!"},
    ],
)
def test_u098_a_password_is_in_no_log_line_event_metric_or_dump_whatever_happens(
    generation: str, annotations: dict[str, str], log: io.StringIO
) -> None:
    """At the highest verbosity; with a session that changes it, calls that fail, and a fault with its traceback."""
    events: list[Note] = []
    reporting = Reporting(events.append)
    gate = Gate(OWN.name)
    world = World(generation, OPTIONS, [gate.admit(said(peers="[{remoteip: 192.168.60.1, remoteasn: 65001}]")), OTHER])
    world.settle()
    for key, peer in world.gobgpd.peers.items():
        peer.state.session_state = 6 if key == "192.168.60.1" else 3
    admitted = gate.admit(said(**annotations))
    world.feed(admitted)
    world.gobgpd.fail_at = frozenset(range(world.gobgpd.asked + 3, world.gobgpd.asked + 9))
    world.sync()
    world.settle()
    for note in world.report.notes:
        reporting.note("speaker", note)
    for failure in world.report.failures:
        reporting.failed("speaker", failure)
    for key, value in world.holds().items():
        reporting.rejected("speaker", key, (("speaker",),), f"refused {value}")
        logging.get_logger("speaker").debug(f"{key} {value}")
    reporting.faulty("speaker", ("external peers",), _fault(world.holds()))
    said_anywhere = f"{log.getvalue()} {events} {world.report.notes} {gate.dump()!r}"
    assert PLAIN not in said_anywhere
    assert CODED not in said_anywhere
    assert log.getvalue()


def _fault(state: Any) -> Exception:
    try:
        raise RuntimeError(f"cannot: {state}")
    except RuntimeError as error:
        return error
