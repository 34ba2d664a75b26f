"""Sessions obey the engine's law whatever annotations say, right or wrong: over a gate that restarts from its file, a daemon that
restarts from nothing, and a gobgpd in memory that fails and restarts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.codec.accepted import Gate
from kube_router.codec.annotations import PREFIX
from kube_router.config.options import Options, defaults
from kube_router.model.objects import Kind, Name, Node, Object, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import NeighborKey
from tests.engine import objects_of
from tests.speaker_world import World

OWN = Name("", "node1")
MESH = defaults(node_name="node1", enable_ipv6=True, router_id="generate")
PER_NODE = defaults(node_name="node1", enable_ipv6=True, router_id="generate", nodes_full_mesh=False, bgp_graceful_restart=True)
SECRET = base64.b64encode(b"hunter2").decode()

SAID = {
    "node.asn": ["65001", "65001", "0xfdea", "many"],
    "rr.server": ["42", "10.0.0.1", "one"],
    "rr.client": ["42", "one"],
    "bgp-local-addresses": ["192.168.50.50", "192.168.50.50,fd00:50::50", "0.0.0.0"],
    "pod-cidrs": ["10.9.0.0/24", "10.9.0.0"],
    "peers": [
        f"[{{remoteip: 192.168.50.1, remoteasn: 65100, password: {SECRET}}}]",
        "[{remoteip: 192.168.50.1, remoteasn: 65100, bfd: {enabled: true}}]",
        "[{remoteip: 'fd00:50::1', remoteasn: 65100, port: 1790}, {remoteip: 192.168.50.1, remoteasn: 65100}]",
        "[",
    ],
    "peer.ips": ["192.168.50.2", "192.168.50.2,fd00:50::51", "x"],
    "peer.asns": ["65101", "65101,65102"],
    "peer.passwords": [SECRET, "!"],
    "node.bgp.communities": ["65000:1", ","],
}
annotations = st.fixed_dictionaries({}, optional={name: st.sampled_from(texts) for name, texts in SAID.items()}).map(
    lambda given: {PREFIX + name: text for name, text in given.items()}
)
nodes = st.builds(
    Node,
    name=st.sampled_from([OWN, OWN, Name("", "node2"), Name("", "node3")]),
    addresses=st.lists(
        st.sampled_from(["192.168.50.50", "192.168.50.51", "fd00:50::50", "fd00:50::51"]), min_size=1, max_size=2, unique=True
    ).map(tuple),
    annotations=annotations,
)
histories = st.lists(st.one_of(nodes, nodes, nodes, st.just((Kind.NODE, Name("", "node2")))), max_size=9)
places = st.frozensets(st.integers(0, 9), max_size=3)
FIRST = Node(OWN, addresses=("192.168.50.50", "fd00:50::50"), annotations={PREFIX + "node.asn": "65001"})


def from_nothing(generation: str, options: Options, objects: Iterable[Object]) -> dict[Key, Value]:
    world = World(generation, options, objects)
    world.settle()
    return world.holds()


@pytest.mark.parametrize("generation", ["v3", "v4"])
@pytest.mark.parametrize("options", [MESH, PER_NODE], ids=["full mesh", "AS by node"])
@settings(max_examples=20, deadline=None)
@given(histories, st.frozensets(st.integers(0, 90), max_size=6), places, places, places, st.frozensets(st.integers(0, 9)))
def test_sessions_end_up_as_accepted_annotations_say_whatever_happened_on_the_way(
    options: Options,
    generation: str,
    history: Sequence[Node | tuple[Kind, Name]],
    fail_at: frozenset[int],
    restart_at: frozenset[int],
    gobgpd_restart_at: frozenset[int],
    gate_restart_at: frozenset[int],
    sync_at: frozenset[int],
) -> None:
    gate, world = Gate(OWN), World(generation, options)
    world.gobgpd.fail_at = fail_at
    for n, event in enumerate((FIRST, *history)):
        if n in gate_restart_at:
            dumped, gate = gate.dump(), Gate(OWN)
            gate.load(dumped)
        if n in restart_at:
            world.restart()
        if n in gobgpd_restart_at:
            world.gobgpd.restart()
        if isinstance(event, Node):
            world.feed(gate.admit(event))
        else:
            gate.forget(Ref(*event))
            world.feed(event)
        if n in sync_at:
            world.sync()
    world.settle()
    world.gobgpd.fail_at = frozenset()
    assert world.report.faults == [], "past the gate no annotation is wrong"
    held = world.holds()
    assert held == from_nothing(generation, options, objects_of(world.cache))
    assert "hunter2" not in f"{held} {world.report.notes} {world.report.rejections} {world.report.failures} {gate.dump()!r}"
    world.restart()
    world.settle()
    assert world.target.writes == 0, "a restart over a settled speaker writes nothing"


@pytest.mark.parametrize("generation", ["v3", "v4"])
@settings(max_examples=20, deadline=None)
@given(annotations, annotations)
def test_r25_a_session_begins_anew_only_when_something_of_itself_changes(
    generation: str, before: dict[str, str], after: dict[str, str]
) -> None:
    gate = Gate(OWN)
    addresses = ("192.168.50.50", "fd00:50::50")
    other = Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51"))
    world = World(generation, MESH, [gate.admit(Node(OWN, addresses=addresses, annotations=before)), other])
    world.settle()
    speaker, old = world.gobgpd.settings, _neighbors(world)
    begun = world.gobgpd.sessions
    world.feed(gate.admit(Node(OWN, addresses=addresses, annotations=after)))
    world.settle()
    if world.gobgpd.settings != speaker:
        return  # the speaker itself began anew
    new = _neighbors(world)
    changed = {key for key in new if new[key] != old.get(key)}
    assert world.gobgpd.sessions - begun <= len(changed)


def _neighbors(world: World) -> dict[Key, Value]:
    return {key: value for key, value in world.holds().items() if isinstance(key, NeighborKey)}
