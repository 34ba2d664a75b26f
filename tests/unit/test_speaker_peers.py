"""Which sessions a node has, with nodes and with routers outside, as flags and annotations say, and what each of them is like."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from kube_router.codec.annotations import PREFIX
from kube_router.config.options import Options, defaults
from kube_router.control.speaker import EXTERNALS, RULES, SELF, SpeakerController
from kube_router.desired import NOTHING
from kube_router.desired.routing.external import external
from kube_router.desired.routing.peers import neighbor
from kube_router.desired.routing.speaker import itself
from kube_router.model.objects import Kind, Name, Node, Ref, Rejected
from kube_router.model.secret import Secret
from kube_router.model.state.bgp import Bfd, Neighbor, NeighborKey, Speaker, SpeakerKey
from tests.unit.test_speaker_desired import store

OWN_ADDRESSES, OTHER_ADDRESSES = ("192.168.50.50", "fd00:50::50"), ("192.168.50.51", "fd00:50::51")
ROUTER, SIX_ROUTER = "192.168.50.1", "fd00:50::1"


def flags(**given: Any) -> Options:
    return defaults(**({"node_name": "node1", "enable_ipv6": True, "router_id": "generate"} | given))


def node(name: str, addresses: tuple[str, ...], **annotations: str) -> Node:
    return Node(
        Name("", name), addresses=addresses, annotations={PREFIX + key.replace("_", "."): text for key, text in annotations.items()}
    )


def own(addresses: tuple[str, ...] = OWN_ADDRESSES, **annotations: str) -> Node:
    return node("node1", addresses, **annotations)


def other(addresses: tuple[str, ...] = OTHER_ADDRESSES, **annotations: str) -> Node:
    return node("node2", addresses, **annotations)


def between(mine: Node, theirs: Node, options: Options) -> Neighbor | None:
    """The session that the first has with the second."""
    found = list(neighbor(theirs, mine, store(mine, theirs).view.nodes, options).state.values())
    assert all(isinstance(value, Neighbor) for value in found)
    return found[0] if found else None  # type: ignore[return-value]


def sessions(mine: Node, options: Options) -> dict[str, Neighbor]:
    """Those with external peers, by address."""
    return {key.address: value for key, value in external(mine, options).state.items()}  # type: ignore[attr-defined, misc]


# -- nodes ------------------------------------------------------------------------------------------------------------

PER_NODE = flags(nodes_full_mesh=False)


@pytest.mark.parametrize(
    ("options", "mine", "theirs", "asn"),
    [
        (flags(), {}, {}, 64512),
        (flags(), {"node_asn": "65001"}, {"node_asn": "65002"}, 64512),
        (PER_NODE, {"node_asn": "65001"}, {"node_asn": "0xfde9"}, 65001),
        (PER_NODE, {"node_asn": "65001"}, {"node_asn": "65002"}, None),
        (PER_NODE, {"node_asn": "65001"}, {}, None),
        (PER_NODE, {}, {"node_asn": "65001"}, None),
        (flags(enable_ibgp=False), {}, {}, None),
        (flags(enable_ibgp=False, nodes_full_mesh=False), {"node_asn": "65001"}, {"node_asn": "65001"}, None),
    ],
)
@pytest.mark.parametrize("family", [4, 6])
def test_nodes_of_one_as_have_a_session(
    options: Options, mine: dict[str, str], theirs: dict[str, str], asn: int | None, family: int
) -> None:
    order = slice(None) if family == 4 else slice(None, None, -1)
    session = between(own(OWN_ADDRESSES[order], **mine), other(OTHER_ADDRESSES[order], **theirs), options)
    assert (session.asn if session else None) == asn


ROLES: dict[str, dict[str, str]] = {"none": {}, "server": {"rr_server": "42"}, "client": {"rr_client": "42"}}


@pytest.mark.parametrize(
    ("mine", "theirs", "linked", "cluster_id"),
    [
        ("none", "none", True, ""),
        ("server", "client", True, "0.0.0.42"),
        ("client", "server", True, ""),
        ("server", "server", True, "0.0.0.42"),
        ("server", "none", True, "0.0.0.42"),
        ("none", "server", True, ""),
        ("client", "client", False, ""),
        ("client", "none", False, ""),
        ("none", "client", False, ""),
    ],
)
def test_route_reflectors_have_sessions_with_all_and_their_clients_with_them_alone(
    mine: str, theirs: str, linked: bool, cluster_id: str
) -> None:
    session = between(own(**ROLES[mine]), other(**ROLES[theirs]), flags())
    assert (session is not None) == linked
    if session is not None:
        assert session.cluster_id == cluster_id


@pytest.mark.parametrize("mine", ROLES)
@pytest.mark.parametrize("theirs", ROLES)
def test_both_ends_agree_on_whether_there_is_a_session(mine: str, theirs: str) -> None:
    one, two = own(**ROLES[mine]), other(**ROLES[theirs])
    assert (between(one, two, flags()) is None) == (between(two, one, flags(node_name="node2")) is None)


@pytest.mark.parametrize("before", ROLES)
@pytest.mark.parametrize("after", ROLES)
def test_u069_a_node_that_becomes_a_client_keeps_its_session_with_the_reflector(before: str, after: str) -> None:
    reflector = own(**ROLES["server"])
    assert between(reflector, other(**ROLES[before]), flags()) == between(reflector, other(**ROLES[after]), flags())


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_u055_a_session_carries_both_families_with_graceful_restart_and_without(restart: bool, family: int) -> None:
    order = slice(None) if family == 4 else slice(None, None, -1)
    session = between(own(OWN_ADDRESSES[order]), other(OTHER_ADDRESSES[order]), flags(bgp_graceful_restart=restart))
    assert session is not None
    assert session.families == (4, 6)
    assert session.local_address == OWN_ADDRESSES[order][0]


# -- routers outside, by flags ----------------------------------------------------------------------------------------

ONE = {"peer_router_ips": (ROUTER,), "peer_router_asns": (65001,)}
PLAIN = Neighbor(65001, "192.168.50.50", families=(4, 6))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, PLAIN),
        ({"peer_router_ports": (1790,)}, msgspec.structs.replace(PLAIN, port=1790)),
        ({"peer_router_passwords": (Secret("x"),)}, msgspec.structs.replace(PLAIN, password=Secret("x"))),
        ({"peer_router_passwords": (Secret(""),)}, PLAIN),
        ({"peer_router_multihop_ttl": 1}, PLAIN),
        ({"peer_router_multihop_ttl": 5}, msgspec.structs.replace(PLAIN, multihop_ttl=5)),
        ({"bgp_holdtime": 30.0}, msgspec.structs.replace(PLAIN, hold_time=30)),
        ({"enable_ipv6": False}, msgspec.structs.replace(PLAIN, families=(4,))),
        ({"bgp_port": 1790, "enable_ibgp": False}, PLAIN),
        ({"bgp_graceful_restart": True}, msgspec.structs.replace(PLAIN, restart_time=90, deferral_time=5)),
        (
            {"enable_bfd": True, "bfd_port": 3785, "bfd_detection_multiplier": 5, "bfd_desired_min_tx_interval": 300},
            msgspec.structs.replace(PLAIN, bfd=Bfd(3785, 5, 300, 1000)),
        ),
    ],
)
def test_a_peer_of_flags_is_what_the_flags_say(given: dict[str, Any], wanted: Neighbor) -> None:
    assert sessions(own(), flags(**(ONE | given))) == {ROUTER: wanted}


def test_flags_that_name_peers_outweigh_all_annotations() -> None:
    assert set(sessions(own(peer_ips="192.168.50.9", peer_asns="65009"), flags(**ONE))) == {ROUTER}


@pytest.mark.parametrize(("addresses", "local"), [(OWN_ADDRESSES, "fd00:50::50"), (("fd00:50::50",), "fd00:50::50")])
def test_a_peer_is_spoken_to_from_our_address_of_its_family(addresses: tuple[str, ...], local: str) -> None:
    options = flags(peer_router_ips=("FD00:50:0::1",), peer_router_asns=(65001,))
    assert sessions(own(addresses), options)[SIX_ROUTER].local_address == local


@pytest.mark.parametrize(("addresses", "peer"), [(("192.168.50.50",), SIX_ROUTER), (("fd00:50::50",), ROUTER)])
def test_a_peer_of_a_family_that_this_node_lacks_is_named_and_bothers_no_other(addresses: tuple[str, ...], peer: str) -> None:
    good = next(address for address in (ROUTER, SIX_ROUTER) if address != peer)
    desired = external(own(addresses), flags(peer_router_ips=(ROUTER, SIX_ROUTER), peer_router_asns=(65001, 65001)))
    assert list(desired.state) == [NeighborKey(good)]
    assert [(note.reason, peer in note.message) for note in desired.notes] == [("NoPeerSession", True)]


def test_r24_no_peer_is_waited_for_longer_than_five_seconds_after_a_restart() -> None:
    options = flags(**ONE, bgp_graceful_restart=True, bgp_graceful_restart_deferral_time=360.0)
    inside = between(own(), other(), options)
    assert inside is not None
    assert inside.deferral_time == sessions(own(), options)[ROUTER].deferral_time == 5


# -- routers outside, by annotations ----------------------------------------------------------------------------------


def test_peers_of_lists_are_what_they_say() -> None:
    secret = base64.b64encode(b"hunter2").decode()
    said = own(
        peer_ips=f"{ROUTER},{SIX_ROUTER}",
        peer_asns="65001,65002",
        peer_ports="1790,179",
        peer_passwords=f"{secret},",
        peer_localips=",fd00:50::99",
    )
    assert sessions(said, flags()) == {
        ROUTER: msgspec.structs.replace(PLAIN, port=1790, password=Secret("hunter2")),
        SIX_ROUTER: Neighbor(65002, "fd00:50::99", families=(4, 6)),
    }


def test_peers_of_yaml_are_watched_as_each_says_and_not_as_flags_say() -> None:
    said = own(peers=f"[{{remoteip: {ROUTER}, remoteasn: 65001, bfd: {{enabled: true}}}}, {{remoteip: 192.168.50.2, remoteasn: 65001}}]")
    assert sessions(said, flags(enable_bfd=True, bfd_port=3785)) == {
        ROUTER: msgspec.structs.replace(PLAIN, bfd=Bfd()),
        "192.168.50.2": PLAIN,
    }


# -- the speaker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "annotations", "wanted"),
    [
        (flags(), {"node_asn": "65001"}, Speaker(64512, "1.2.3.4", 179, OWN_ADDRESSES)),
        (PER_NODE, {"node_asn": "65001"}, Speaker(65001, "1.2.3.4", 179, OWN_ADDRESSES)),
        (flags(), {"bgp-local-addresses": "192.168.60.50"}, Speaker(64512, "1.2.3.4", 179, ("192.168.60.50",))),
        (flags(), {"bgp-local-addresses": "192.168.60.50,fd00:60::50"}, Speaker(64512, "1.2.3.4", 179, ("192.168.60.50", "fd00:60::50"))),
        (flags(enable_ipv4=False), {"bgp-local-addresses": "192.168.60.50"}, Speaker(64512, "1.2.3.4", 179, ("fd00:50::50",))),
    ],
)
def test_r33_the_speaker_is_what_flags_and_annotations_say_in_both_families(options: Options, annotations, wanted: Speaker) -> None:
    """An IPv6 local address is as good as an IPv4 one."""
    with_id = flags(**{name: getattr(options, name) for name in ("nodes_full_mesh", "enable_ipv4")}, router_id="1.2.3.4")
    assert itself(own(**annotations), with_id).state[SpeakerKey()] == wanted


def test_r34_the_speaker_chooses_equal_paths_together() -> None:
    speaker = itself(own(), flags()).state[SpeakerKey()]
    assert isinstance(speaker, Speaker)
    assert speaker.multipath


def test_without_an_as_number_nothing_is_told_to_the_speaker_and_the_node_says_why() -> None:
    controller = SpeakerController(flags(nodes_full_mesh=False, **ONE))
    cache = store(own(), other(node_asn="65001"))
    for item in (RULES, EXTERNALS, Ref(Kind.NODE, Name("", "node2"))):
        assert controller.want(item, cache.view) == NOTHING
    desired = controller.want(SELF, cache.view)
    assert desired.state == {}
    assert [note.reason for note in desired.notes] == ["NoASN"]
    assert "kube-router.io/node.asn" in desired.notes[0].message


def test_r23_a_wrong_annotation_is_told_on_our_node_with_what_is_in_force() -> None:
    fault = Rejected("kube-router.io/node.asn", "many", "not an AS number", "give a number", True)
    notes = itself(msgspec.structs.replace(own(), rejected=(fault,)), flags()).notes
    assert [(note.about, note.reason) for note in notes] == [(Ref(Kind.NODE, Name("", "node1")), "BadAnnotation")]
    for word in ("kube-router.io/node.asn", "many", "not an AS number", "give a number", "last good value stays in force"):
        assert word in notes[0].message


# -- what touches what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "touches_sessions"),
    [
        ({}, {"peer_ips": ROUTER, "peer_asns": "65001"}, False),
        ({"node_bgp_communities": "65000:1"}, {"node_bgp_communities": "65000:2"}, False),
        ({}, {"rr_server": "1"}, True),
        ({"node_asn": "65001"}, {"node_asn": "65002"}, True),
    ],
)
def test_r25_our_annotations_touch_sessions_with_nodes_only_where_they_depend_on_them(before, after, touches_sessions: bool) -> None:
    controller, cache = SpeakerController(flags()), store(own(**before), other())
    feed = cache.feed(controller.reads)
    feed.take()
    cache.put(own(**after))
    touched = set(controller.touched(feed.take(), cache.view))
    assert touched >= {SELF, RULES, EXTERNALS}
    assert (Ref(Kind.NODE, Name("", "node2")) in touched) == touches_sessions


def test_u069_annotations_of_other_nodes_touch_their_sessions() -> None:
    controller, cache = SpeakerController(flags()), store(own(), other())
    feed = cache.feed(controller.reads)
    feed.take()
    cache.put(other(rr_client="1"))
    assert set(controller.touched(feed.take(), cache.view)) == {Ref(Kind.NODE, Name("", "node2"))}
