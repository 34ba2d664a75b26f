"""Annotations of Nodes and Services are read as their formats say, and what is wrong with one is said in words."""

from __future__ import annotations

import base64

import pytest

from kube_router.codec import annotations as of
from kube_router.codec.annotation_peers import HIDDEN, hold_password, peers
from kube_router.codec.annotations import Reflector, Wrong
from kube_router.model.peers import ExternalPeer
from kube_router.model.secret import Secret
from kube_router.model.state.bgp import Bfd


def texts(**given: str) -> dict[str, str]:
    """peer_ips="..." is the annotation kube-router.io/peer.ips."""
    return {of.PREFIX + name.replace("__", "-").replace("_", "."): text for name, text in given.items()}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "asn"),
    [
        ("64512", 64512),
        (" 64512 ", 64512),
        ("0xfc00", 64512),
        ("0o176000", 64512),
        ("0176000", 64512),
        ("0b11", 3),
        ("4294967294", 4294967294),
    ],
)
def test_an_as_number_is_read_in_every_base_that_the_original_reads(text: str, asn: int) -> None:
    assert of.node_asn(texts(node_asn=text)) == asn


@pytest.mark.parametrize("text", ["", "0", "23456", "4294967295", "4294967296", "-1", "1.10", "64_512", "as64512", "0x", "٣"])
def test_what_is_no_as_number_is_refused(text: str) -> None:
    with pytest.raises(Wrong) as caught:
        of.node_asn(texts(node_asn=text))
    assert caught.value.annotation == of.NODE_ASN
    assert "number from 1" in caught.value.advice


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, None),
        ({"rr_server": "42"}, Reflector("server", "0.0.0.42")),
        ({"rr_server": "0x2a"}, Reflector("server", "0.0.0.42")),
        ({"rr_client": "10.0.0.1"}, Reflector("client", "10.0.0.1")),
        ({"rr_client": "1", "rr_server": "2"}, Reflector("server", "0.0.0.2")),
    ],
)
def test_a_cluster_id_is_a_number_or_an_address_and_comes_out_as_a_dotted_quad(given, wanted) -> None:
    assert of.reflector(texts(**given)) == wanted


@pytest.mark.parametrize("given", [{"rr_server": "fd00::1"}, {"rr_client": "one"}, {"rr_server": "1", "rr_client": "4294967296"}])
def test_a_wrong_cluster_id_is_refused(given) -> None:
    with pytest.raises(Wrong):
        of.reflector(texts(**given))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, None),
        ({"path__prepend_as": "65000", "path__prepend_repeat-n": "3"}, (65000, 3)),
        ({"path__prepend_as": "0xfde8", "path__prepend_repeat-n": "3"}, (65000, 3)),
        ({"path__prepend_as": "65000", "path__prepend_repeat-n": "0"}, None),
    ],
)
def test_prepending_takes_two_annotations(given, wanted) -> None:
    assert of.prepend(texts(**given)) == wanted


@pytest.mark.parametrize(
    ("given", "blamed"),
    [
        ({"path__prepend_as": "65000"}, of.PREPEND_AS),
        ({"path__prepend_repeat-n": "3"}, of.PREPEND_REPEAT),
        ({"path__prepend_as": "65000", "path__prepend_repeat-n": "256"}, of.PREPEND_REPEAT),
        ({"path__prepend_as": "x", "path__prepend_repeat-n": "1"}, of.PREPEND_AS),
    ],
)
def test_half_a_prepend_is_refused(given, blamed) -> None:
    with pytest.raises(Wrong) as caught:
        of.prepend(texts(**given))
    assert caught.value.annotation == blamed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ()),
        ("65000:1", ("65000:1",)),
        ("no-export, 4294967041", ("65535:65281",)),
        ("internet,blackhole,1", ("0:0", "65535:666", "0:1")),
        ("65000:2,65000:1,65000:2", ("65000:2", "65000:1")),
    ],
)
def test_communities_are_numbers_pairs_or_well_known_names(text: str, wanted: tuple[str, ...]) -> None:
    assert of.communities({of.COMMUNITIES: text}) == wanted


@pytest.mark.parametrize("text", ["65000:65536", "No-Export", "1:2:3", "4294967296", "65000:1,,65000:2", ":", "65000:"])
def test_one_wrong_community_makes_the_list_wrong(text: str) -> None:
    with pytest.raises(Wrong):
        of.communities({of.COMMUNITIES: text})


@pytest.mark.parametrize(
    ("read", "annotation", "text", "wanted"),
    [
        (of.import_reject, of.IMPORT_REJECT, " 10.1.2.3/16 , fd00::/48", ("10.1.0.0/16", "fd00::/48")),
        (of.local_addresses, of.LOCAL_ADDRESSES, "10.0.0.1, FD00:0::1", ("10.0.0.1", "fd00::1")),
        (of.pod_cidrs, of.POD_CIDRS, "10.1.0.0/24, fd00:1::/64", ("10.1.0.0/24", "fd00:1::/64")),
        (of.pod_cidr, of.POD_CIDR, " 10.1.0.0/24", ("10.1.0.0/24",)),
        (of.pod_cidrs, of.POD_CIDRS, " ", ()),
    ],
)
def test_lists_are_trimmed_and_canonical_in_both_families(read, annotation: str, text: str, wanted: tuple[str, ...]) -> None:
    assert read({annotation: text}) == wanted


@pytest.mark.parametrize(
    ("read", "annotation", "text"),
    [
        (of.import_reject, of.IMPORT_REJECT, "10.1.0.0/16,10.0.0.1"),
        (of.import_reject, of.IMPORT_REJECT, "::ffff:10.0.0.0/104"),
        (of.local_addresses, of.LOCAL_ADDRESSES, "10.0.0.1,host"),
        (of.local_addresses, of.LOCAL_ADDRESSES, "0.0.0.0"),
        (of.local_addresses, of.LOCAL_ADDRESSES, "ff02::1"),
        (of.pod_cidrs, of.POD_CIDRS, "10.1.0.0/24,"),
        (of.pod_cidr, of.POD_CIDR, "10.1.0.0/24,10.2.0.0/24"),
    ],
)
def test_one_wrong_item_makes_a_list_wrong(read, annotation: str, text: str) -> None:
    with pytest.raises(Wrong) as caught:
        read({annotation: text})
    assert caught.value.annotation == annotation


@pytest.mark.parametrize(("text", "wanted"), [("1", True), ("T", True), ("true", True), ("f", False), ("FALSE", False), ("0", False)])
def test_booleans_of_services_are_those_of_go(text: str, wanted: bool) -> None:
    assert of.advertises(texts(service_advertise_clusterip=text), "clusterip") is wanted
    assert of.advertises({}, "clusterip") is None


@pytest.mark.parametrize("text", ["yes", "", "tRUE"])
def test_what_is_no_boolean_is_refused(text: str) -> None:
    with pytest.raises(Wrong):
        of.advertises(texts(service_advertise_externalip=text), "externalip")


def test_a_service_is_local_when_it_says_exactly_true() -> None:
    assert of.is_local(texts(service_local="true"))
    assert not of.is_local(texts(service_local="false"))
    with pytest.raises(Wrong):
        of.is_local(texts(service_local="True"))


@pytest.mark.parametrize(("text", "wanted"), [("rr", "rr"), (" mh ", "mh"), ("lc", "lc"), ("dh", "dh"), ("sh", "sh")])
def test_schedulers_are_those_of_the_original(text: str, wanted: str) -> None:
    assert of.scheduler(texts(service_scheduler=text)) == wanted
    assert of.scheduler({}) == "rr"


@pytest.mark.parametrize("text", ["", "wlc", "RR"])
def test_other_schedulers_are_refused(text: str) -> None:
    with pytest.raises(Wrong):
        of.scheduler(texts(service_scheduler=text))


@pytest.mark.parametrize(("text", "wanted"), [("", 0), ("flag-1", 0x8), ("flag-2, flag-1", 0x18), ("flag-3", 0x20)])
def test_flags_of_schedulers_are_bits_of_the_kernel(text: str, wanted: int) -> None:
    assert of.scheduler_flags(texts(service_schedflags=text)) == wanted


def test_one_unknown_flag_makes_them_all_wrong() -> None:
    with pytest.raises(Wrong):
        of.scheduler_flags(texts(service_schedflags="flag-1,flag-4"))


# -- peers ------------------------------------------------------------------------------------------------------------

YAML = f"""
- remoteip: 10.0.0.2
  remoteasn: 65001
  port: 1790
  localip: 10.0.0.9
  password: {b64("hunter2")}
  bfd: {{enabled: true, detection_multiplier: 5}}
  colour: blue
- remoteip: "fd00::2"
  remoteasn: 4200000000
  bfd: {{enabled: false, port: 3785}}
"""


def test_peers_are_read_from_yaml() -> None:
    assert peers({of.PREFIX + "peers": YAML}) == (
        ExternalPeer("10.0.0.2", 65001, 1790, "10.0.0.9", Secret("hunter2"), Bfd(multiplier=5)),
        ExternalPeer("fd00::2", 4200000000),
    )


def test_peers_are_read_from_lists() -> None:
    given = texts(
        peer_ips="10.0.0.3, 10.0.0.2",
        peer_asns="65001,0xfdea",
        peer_ports="179,1790",
        peer_passwords=f",{b64('x')}",
        peer_localips="10.0.0.9,",
    )
    assert peers(given) == (ExternalPeer("10.0.0.2", 65002, 1790, "", Secret("x")), ExternalPeer("10.0.0.3", 65001, 179, "10.0.0.9"))


@pytest.mark.parametrize("given", [{}, {"peer_ips": "10.0.0.1"}, {"peer_asns": "65001"}, {"peers": ""}, {"peers": "[]", "peer_ips": "x"}])
def test_without_a_list_there_are_no_peers_and_yaml_counts_alone(given) -> None:
    assert peers(texts(**given)) == ()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"peer_ips": "10.0.0.1,10.0.0.2", "peer_asns": "65001"}, "1 items for the 2"),
        ({"peer_ips": "host", "peer_asns": "65001"}, "item 1 is not an IP address"),
        ({"peer_ips": "10.0.0.1", "peer_asns": "23456"}, "item 1 is not the AS number"),
        ({"peer_ips": "10.0.0.1,10.0.0.2", "peer_asns": "1,2", "peer_ports": "179,"}, "item 2 is not a port"),
        ({"peer_ips": "10.0.0.1", "peer_asns": "1", "peer_localips": "fd00::1"}, "of another family"),
        ({"peer_ips": "10.0.0.1,10.0.0.1", "peer_asns": "1,2"}, "peer 2 has the address of another"),
        ({"peers": "remoteip: 10.0.0.1"}, "not a list"),
        ({"peers": "- [1]"}, "entry 1 is not a map"),
        ({"peers": "- {remoteip: 10.0.0.1}"}, "entry 1 has no remoteasn"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 65535}"}, "remoteasn 65535 of entry 1"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: true}"}, "remoteasn of entry 1 is out of range"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, port: 65536}"}, "port of entry 1 is out of range"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, localip: x}"}, "localip of entry 1 is not an IP address"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, bfd: 3}"}, "bfd of entry 1 is not such a map"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, bfd: {detection_multiplier: 256}}"}, "detection_multiplier of entry 1"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, bfd: {desired_min_tx_interval: 4294968}}"}, "desired_min_tx_interval of entry 1"),
    ],
)
def test_what_is_wrong_with_peers_is_named(given, reason: str) -> None:
    with pytest.raises(Wrong) as caught:
        peers(texts(**given))
    assert reason in caught.value.reason
    assert caught.value.advice


@pytest.mark.parametrize(
    "given",
    [
        {"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, password: c2VjcmV0!}"},
        {"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, password: c2VjcmV0"},
        {"peers": "- remoteip: 10.0.0.1\n  password: c2VjcmV0\n bad: :"},
        {"peers": "- remoteip: 10.0.0.1\n  remoteasn: 1\n  password: &c2VjcmV0 *c2VjcmV0\n"},
        {"peers": "- {remoteip: c2VjcmV0, remoteasn: 1}"},
        {"peers": "- c2VjcmV0"},
        {"peers": "'c2VjcmV0'"},
        {"peer_ips": "10.0.0.1", "peer_asns": "1", "peer_passwords": "c2VjcmV0!"},
        {"peer_ips": "10.0.0.1", "peer_asns": "1", "peer_passwords": "c2VjcmV0,c2VjcmV0"},
    ],
)
def test_u098_no_fault_of_a_peer_quotes_what_may_be_a_password(given) -> None:
    with pytest.raises(Wrong) as caught:
        peers(texts(**given))
    wrong = caught.value
    assert "c2VjcmV0" not in f"{wrong} {wrong!r} {wrong.value} {wrong.__cause__!r}"
    assert wrong.__context__ is None or wrong.__suppress_context__
    assert wrong.value == HIDDEN


def test_it_is_known_whether_any_peer_has_a_password() -> None:
    assert hold_password(peers({of.PREFIX + "peers": YAML}))
    assert not hold_password(peers(texts(peer_ips="10.0.0.1", peer_asns="1", peer_passwords="")))
