"""GoBGP messages in both generations: what goes in comes out, and nothing gets through that would crash or mislead the speaker."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.codec.gobgp import paths, policies, speaker
from kube_router.codec.gobgp.generation import REPLIES, SERVICES, STREAMS, Generation, load
from kube_router.codec.gobgp.paths import Paths, PathUpdate, PeersListed
from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.kit.net import Family
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    DefinedSetKey,
    Neighbor,
    NeighborKey,
    Path,
    PathKey,
    Speaker,
    Statement,
)

BOTH = [load(name) for name in SERVICES]
both = pytest.mark.parametrize("api", BOTH, ids=lambda api: api.name)
generations = st.sampled_from(BOTH)

SESSION = Neighbor(64512, "10.0.0.1", families=(4, 6), restart_time=90, deferral_time=5)


def parsed(message: Any) -> Any:
    """The message after a journey over the wire."""
    return type(message).FromString(message.SerializeToString())


@both
def test_every_call_has_its_messages(api: Generation) -> None:
    for method, reply in (REPLIES | STREAMS).items():
        assert hasattr(api.pb, reply)
        assert method == "WatchEvent" or hasattr(api.pb, f"{method}Request")


@both
@pytest.mark.parametrize(
    "value",
    [
        Speaker(64512, "10.0.0.1", 179, ("10.0.0.1",)),
        Speaker(4294967294, "0.15.248.254", 1790, ("10.0.0.1", "fd00::1")),
    ],
)
def test_a_speakers_configuration_survives_the_wire(api: Generation, value: Speaker) -> None:
    request = parsed(speaker.start_request(api, value))
    assert speaker.speaker_of(api.pb.GetBgpResponse(**{"global": getattr(request, "global")})) == value


@both
def test_a_speaker_without_an_as_number_is_not_started(api: Generation) -> None:
    assert speaker.speaker_of(api.pb.GetBgpResponse()) is None


@given(
    generations,
    st.sampled_from(["10.0.0.2", "fd00::2"]),
    st.sampled_from([(4,), (6,), (4, 6)]),
    st.integers(3, 65535),
    st.sampled_from([(0, 0), (90, 5), (4095, 300)]),
    st.integers(1, 65535),
)
def test_a_neighbour_survives_the_wire(
    api: Generation, address: str, families: tuple[Family, ...], hold: int, graceful: tuple[int, int], port: int
) -> None:
    local = "10.0.0.1" if "." in address else "fd00::1"
    value = Neighbor(64512, local, port, families, hold, *graceful)
    assert speaker.neighbor_of(parsed(speaker.peer(api, NeighborKey(address), value))) == (NeighborKey(address), value)


@both
@pytest.mark.parametrize("restarting", [False, True])
def test_a_restart_is_told_only_when_it_is_one(api: Generation, restarting: bool) -> None:
    peer = speaker.peer(api, NeighborKey("10.0.0.2"), SESSION, restarting=restarting)
    assert peer.graceful_restart.local_restarting is restarting
    assert all(entry.mp_graceful_restart.config.enabled for entry in peer.afi_safis)


@both
def test_without_graceful_restart_nothing_of_it_is_sent(api: Generation) -> None:
    plain = Neighbor(64512, "10.0.0.1", families=(4, 6))
    peer = speaker.peer(api, NeighborKey("10.0.0.2"), plain, restarting=True)
    assert not peer.HasField("graceful_restart")
    assert not any(entry.HasField("mp_graceful_restart") for entry in peer.afi_safis)


@both
@pytest.mark.parametrize(
    ("address", "value", "words"),
    [
        ("node2", SESSION, "'node2'"),
        ("10.0.0.02", SESSION, "10.0.0.02"),
        ("FD00::2", SESSION, "canonical"),
        ("10.0.0.2", Neighbor(64512, ""), "''"),
        ("10.0.0.2", Neighbor(64512, "fd00::1"), "another family"),
        ("10.0.0.2", Neighbor(0, "10.0.0.1"), "AS number"),
        ("10.0.0.2", Neighbor(64512, "10.0.0.1", port=0), "port"),
        ("10.0.0.2", Neighbor(64512, "10.0.0.1", port=65536), "port"),
        ("10.0.0.2", Neighbor(64512, "10.0.0.1", hold_time=65536), "hold time"),
        ("10.0.0.2", Neighbor(64512, "10.0.0.1", hold_time=2), "hold time"),
        ("10.0.0.2", Neighbor(64512, "10.0.0.1", restart_time=4096), "restart time"),
        ("10.0.0.2", Neighbor(64512, "10.0.0.1", families=()), "family"),
    ],
)
def test_a_neighbour_that_would_crash_or_mislead_the_speaker_is_refused(api: Generation, address: str, value: Neighbor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        speaker.peer(api, NeighborKey(address), value)


@both
@pytest.mark.parametrize("identifier", ["", "fd00::1", "1", "node1", "10.0.0.256"])
def test_a_router_id_is_a_dotted_quad(api: Generation, identifier: str) -> None:
    with pytest.raises(ValueError, match="router id"):
        speaker.start_request(api, Speaker(64512, identifier, 179, ()))


@both
@pytest.mark.parametrize(
    ("key", "members"),
    [
        (DefinedSetKey("prefix", "podcidrdefinedset"), ("10.1.0.0/24 24..24",)),
        (DefinedSetKey("prefix", "defaultroutedefinedsetv6"), ("::/0 0..0",)),
        (DefinedSetKey("prefix", "servicevipsdefinedset"), ()),
        (DefinedSetKey("neighbor", "iBGPpeerset"), ("10.0.0.1/32", "10.0.0.2/32")),
        (DefinedSetKey("neighbor", "iBGPpeersetv6"), ("fd00::1/128",)),
    ],
)
def test_a_set_survives_the_wire(api: Generation, key: DefinedSetKey, members: tuple[str, ...]) -> None:
    assert policies.defined_set_of(api, parsed(policies.defined_set(api, key, members))) == (key, frozenset(members))


@both
def test_a_member_that_the_speaker_holds_twice_counts_once(api: Generation) -> None:
    key = DefinedSetKey("neighbor", "iBGPpeerset")
    listed = policies.defined_set(api, key, ("10.0.0.2/32", "10.0.0.1/32", "10.0.0.2/32"))
    assert policies.defined_set_of(api, listed) == (key, {"10.0.0.1/32", "10.0.0.2/32"})


@both
@pytest.mark.parametrize(
    ("kind", "member"),
    [
        ("neighbor", "10.0.0.1"),
        ("neighbor", "10.0.0.1/24"),
        ("prefix", "10.1.0.0/24"),
        ("prefix", "10.1.0.0/24 24"),
        ("prefix", "10.1.0.0/24 24..33"),
        ("prefix", "10.1.0.0/24 25..24"),
        ("prefix", "pods 24..24"),
    ],
)
def test_a_set_member_is_spelled_in_one_way(api: Generation, kind: str, member: str) -> None:
    with pytest.raises(ValueError):
        policies.defined_set(api, DefinedSetKey(kind, "s"), (member,))


@both
@pytest.mark.parametrize(
    "value",
    [
        Statement("pq", "p", "q", accept=True),
        Statement("pq", "p", "q", accept=False),
        Statement("q", "", "q", accept=True, source="internal"),
        Statement("pq", "p", "q", accept=True, prepend=(65001, 3)),
        Statement("pq", "p", "q", accept=True, communities=("65000:1", "65535:65281")),
        Statement("pq", "p", "q", accept=True, next_hop="self"),
        Statement("pq", "p", "q", accept=True, prepend=(4200000000, 1), communities=("1:2",), next_hop="fd00::1"),
    ],
)
def test_a_statement_survives_the_wire(api: Generation, value: Statement) -> None:
    assert policies.statement_of(api, parsed(policies.statement(api, value))) == value


@both
@pytest.mark.parametrize("change", ["community.type", "nexthop.unchanged", "as_prepend.use_left_most"])
def test_a_statement_that_acts_in_another_way_is_none_of_ours(api: Generation, change: str) -> None:
    value = Statement("pq", "p", "q", accept=True, prepend=(65001, 3), communities=("65000:1",))
    message = policies.statement(api, value)
    field, _, name = change.partition(".")
    setattr(getattr(message.actions, field), name, api.community_add + 1 if name == "type" else True)
    assert policies.statement_of(api, message) != value


@both
def test_a_statement_that_inverts_its_match_is_none_of_ours(api: Generation) -> None:
    value = Statement("pq", "p", "q", True)
    message = policies.statement(api, value)
    message.conditions.neighbor_set.type = api.match_any + 2
    assert policies.statement_of(api, message) != value


@both
@pytest.mark.parametrize("direction", ["import", "export"])
@pytest.mark.parametrize("accept", [False, True])
def test_an_assignment_survives_the_wire(api: Generation, direction: str, accept: bool) -> None:
    key, value = AssignmentKey(direction), Assignment(("kube_router_export1",), accept)
    message = parsed(policies.assignment(api, key, value))
    assert message.name == "global"
    assert policies.assignment_of(message) == (key, value)


@both
@pytest.mark.parametrize(("prefix", "hop"), [("10.1.0.0/24", "10.0.0.1"), ("fd00:1::/64", "fd00::1"), ("0.0.0.0/0", "10.0.0.1")])
def test_a_path_survives_the_wire(api: Generation, prefix: str, hop: str) -> None:
    message = parsed(paths.path(api, PathKey(prefix), Path(hop)))
    message.best = True
    destination = api.pb.Destination(paths=[message])
    assert list(paths.own_paths(api, destination)) == [(PathKey(prefix), Path(hop))]
    message.neighbor_ip = "10.0.0.7"
    learned = api.pb.Destination(paths=[message])
    assert list(paths.own_paths(api, learned)) == []
    assert list(paths.best_of(api, learned)) == [PathUpdate(prefix, hop, source="10.0.0.7")]


@both
@pytest.mark.parametrize(
    ("prefix", "hop"), [("10.1.0.0/24", "fd00::1"), ("fd00:1::/64", "10.0.0.1"), ("10.1.0.1/24", "10.0.0.1"), ("10.1.0.0/24", "")]
)
def test_a_path_has_a_next_hop_of_its_own_family(api: Generation, prefix: str, hop: str) -> None:
    with pytest.raises(ValueError):
        paths.path(api, PathKey(prefix), Path(hop))


def learned(api: Generation, prefix: str, hop: str, **fields: Any) -> Any:
    """A path as the watch tells it."""
    message = paths.path(api, PathKey(prefix), Path(hop))
    for name, value in ({"neighbor_ip": "10.0.0.2"} | fields).items():
        setattr(message, name, value)
    return message


def told(api: Generation, *messages: Any) -> Any:
    """What an event with these paths says."""
    pb = api.pb
    return paths.event_of(api, parsed(pb.WatchEventResponse(table=pb.WatchEventResponse.TableEvent(paths=messages))))


@both
def test_local_paths_are_told_apart_one_by_one(api: Generation) -> None:
    nobody = "<nil>" if api.name == "v3" else ""
    event = told(
        api,
        learned(api, "10.1.0.0/24", "10.0.0.1", neighbor_ip=nobody),
        learned(api, "10.2.0.0/24", "10.0.0.2"),
        learned(api, "fd00:2::/64", "fd00::2"),
        learned(api, "10.3.0.0/24", "10.0.0.3", is_withdraw=True),
    )
    assert event == Paths(
        (
            PathUpdate("10.1.0.0/24", "10.0.0.1", local=True),
            PathUpdate("10.2.0.0/24", "10.0.0.2", source="10.0.0.2"),
            PathUpdate("fd00:2::/64", "fd00::2", source="10.0.0.2"),
            PathUpdate("10.3.0.0/24", withdrawn=True, source="10.0.0.2"),
        ),
        delta=api.name == "v4",
    )


@both
def test_what_is_no_unicast_route_is_passed_over(api: Generation) -> None:
    other = learned(api, "10.2.0.0/24", "10.0.0.2")
    other.family.safi = 128
    nonsense = learned(api, "10.2.0.0/24", "10.0.0.2")
    if api.name == "v3":
        nonsense.nlri.type_url = "type.googleapis.com/apipb.EVPNIPPrefixRoute"
    else:
        nonsense.nlri.ClearField("prefix")
    hopless = learned(api, "10.2.0.0/24", "10.0.0.2")
    del hopless.pattrs[:]
    assert told(api, other, nonsense, hopless).updates == ()


@both
def test_a_withdrawal_needs_no_attributes(api: Generation) -> None:
    bare = learned(api, "10.2.0.0/24", "10.0.0.2", is_withdraw=True)
    del bare.pattrs[:]
    assert told(api, bare).updates == (PathUpdate("10.2.0.0/24", withdrawn=True, source="10.0.0.2"),)


@both
def test_an_event_of_a_session_says_how_it_stands(api: Generation) -> None:
    pb = api.pb
    peer = pb.Peer(conf=pb.PeerConf(neighbor_address="10.0.0.2", peer_asn=64512, local_asn=64512), state=pb.PeerState(session_state=6))
    event = pb.WatchEventResponse(peer=pb.WatchEventResponse.PeerEvent(type=3, peer=peer))
    assert paths.event_of(api, parsed(event)) == PeerStatus("10.0.0.2", 64512, internal=True, state="established", up_once=True)


@both
def test_the_end_of_the_first_peers_is_an_event_of_its_own(api: Generation) -> None:
    pb = api.pb
    event = pb.WatchEventResponse(peer=pb.WatchEventResponse.PeerEvent(type=2))
    assert paths.event_of(api, parsed(event)) == PeersListed()


@both
@pytest.mark.parametrize(
    ("families", "listening"),
    [([], False), ([(False, False)], False), ([(True, False)], True), ([(True, True)], False), ([(True, True), (True, False)], True)],
)
def test_a_peer_owes_end_of_rib_for_each_family_that_it_named(api: Generation, families: list[tuple[bool, bool]], listening: bool) -> None:
    pb = api.pb
    entries = [
        pb.AfiSafi(mp_graceful_restart=pb.MpGracefulRestart(state=pb.MpGracefulRestartState(received=named, end_of_rib_received=heard)))
        for named, heard in families
    ]
    peer = pb.Peer(conf=pb.PeerConf(neighbor_address="10.0.0.2"), state=pb.PeerState(session_state=6), afi_safis=entries)
    assert speaker.status_of(parsed(peer)).listening is listening


@both
@pytest.mark.parametrize(("number", "state"), [(0, "unknown"), (1, "idle"), (3, "active"), (6, "established"), (99, "unknown")])
def test_states_bear_the_names_of_the_metrics(api: Generation, number: int, state: str) -> None:
    peer = api.pb.Peer(conf=api.pb.PeerConf(neighbor_address="10.0.0.2"), state=api.pb.PeerState(session_state=number))
    assert speaker.status_of(peer).state == state


@both
def test_a_session_that_was_up_once_is_remembered_by_its_uptime(api: Generation) -> None:
    pb = api.pb
    peer = pb.Peer(
        conf=pb.PeerConf(neighbor_address="10.0.0.2"),
        state=pb.PeerState(session_state=3),
        timers=pb.Timers(state=pb.TimersState(uptime=pb.Timestamp(seconds=1_700_000_000))),
    )
    assert speaker.status_of(peer).up_once
