"""The gate: what does not parse gives way to the last good text, on both sides of a restart."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.codec import annotations as of
from kube_router.codec.accepted import NODE_ITEMS, SERVICE_ITEMS, Gate
from kube_router.codec.annotations import PREFIX
from kube_router.model.objects import Kind, Name, Node, Pod, Ref, Rejected, Service

OWN, OTHER, WEB = Name("", "node1"), Name("", "node2"), Name("shop", "web")
GOOD_PEERS = f"- {{remoteip: 10.0.0.1, remoteasn: 65001, password: {base64.b64encode(b'hunter2').decode()}}}"


def node(name: Name = OWN, **annotations: str) -> Node:
    return Node(name, uid="u1", annotations={PREFIX + key.replace("_", "."): text for key, text in annotations.items()})


def passed(gate: Gate, value: Node | Service) -> dict[str, str]:
    admitted = gate.admit(value)
    assert isinstance(admitted, Node | Service)
    return {key.removeprefix(PREFIX): text for key, text in admitted.annotations.items()}


def test_what_is_right_passes_as_it_is() -> None:
    gate = Gate(OWN)
    for value in (node(node_asn="64512"), node(), Service(WEB, annotations={PREFIX + "service.local": "true"}), Pod(WEB)):
        assert gate.admit(value) is value


def test_a_wrong_text_leaves_the_last_good_one_in_force_and_is_told() -> None:
    gate = Gate(OWN)
    gate.admit(node(node_asn="64512", node_bgp_communities="65000:1"))
    admitted = gate.admit(node(node_asn="many", node_bgp_communities="65000:2"))
    assert isinstance(admitted, Node)
    assert dict(admitted.annotations) == {of.NODE_ASN: "64512", of.COMMUNITIES: "65000:2"}
    assert [(fault.annotation, fault.value, fault.held) for fault in admitted.rejected] == [(of.NODE_ASN, "many", True)]
    assert passed(gate, node(node_asn="64513")) == {"node.asn": "64513"}


def test_with_none_accepted_yet_the_item_is_absent() -> None:
    admitted = Gate(OWN).admit(node(node_asn="many"))
    assert isinstance(admitted, Node)
    assert not admitted.annotations
    assert [fault.held for fault in admitted.rejected] == [False]


def test_an_annotation_that_is_taken_away_is_forgotten() -> None:
    gate = Gate(OWN)
    gate.admit(node(node_asn="64512"))
    gate.admit(node())
    assert passed(gate, node(node_asn="many")) == {}


@pytest.mark.parametrize("again", ["forget", "list", "uid"])
def test_another_object_of_the_same_name_inherits_nothing(again: str) -> None:
    gate = Gate(OWN)
    gate.admit(node(node_asn="64512"))
    if again == "forget":
        gate.forget(Ref(Kind.NODE, OWN))
    elif again == "list":
        gate.forget_others(Kind.NODE, [OTHER])
    assert passed(gate, msgspec.structs.replace(node(node_asn="many"), uid="u2" if again == "uid" else "u1")) == {}


def test_annotations_of_one_item_are_accepted_or_refused_together() -> None:
    gate = Gate(OWN)
    both = {"path-prepend_as": "65000", "path-prepend_repeat-n": "3"}
    gate.admit(node(**both))
    assert passed(gate, node(**(both | {"path-prepend_as": "65001", "path-prepend_repeat-n": "many"}))) == {
        "path-prepend.as": "65000",
        "path-prepend.repeat-n": "3",
    }


def test_of_other_nodes_only_what_concerns_their_peers_passes() -> None:
    gate = Gate(OWN)
    admitted = gate.admit(node(OTHER, node_asn="64512", rr_client="x", peers=GOOD_PEERS, node_bgp_communities="x", unknown="kept"))
    assert isinstance(admitted, Node)
    assert dict(admitted.annotations) == {of.NODE_ASN: "64512", PREFIX + "unknown": "kept"}
    assert admitted.rejected == ()


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ({}, ("10.9.0.0/24",)),
        ({"pod-cidr": "10.1.0.0/24"}, ("10.1.0.0/24",)),
        ({"pod-cidr": "10.1.0.0/24", "pod-cidrs": " 10.2.0.0/24 ,fd00:2::/64"}, ("10.2.0.0/24", "fd00:2::/64")),
        ({"pod-cidr": "10.1.0.0/24", "pod-cidrs": "10.2.0.0"}, ("10.1.0.0/24",)),
        ({"pod-cidrs": "10.2.0.0/33"}, ("10.9.0.0/24",)),
    ],
)
@pytest.mark.parametrize("name", [OWN, OTHER])
def test_r31_pod_ranges_come_from_one_order_and_a_wrong_one_costs_nothing_else(name: Name, annotations, wanted) -> None:
    value = msgspec.structs.replace(node(name, **annotations), pod_cidrs=("10.9.0.0/24",))
    admitted = Gate(OWN).admit(value)
    assert isinstance(admitted, Node)
    assert admitted.pod_cidrs == wanted


def test_a_wrong_pod_range_leaves_the_last_good_one_in_force() -> None:
    gate = Gate(OWN)
    gate.admit(node(OTHER, **{"pod-cidrs": "10.2.0.0/24"}))
    admitted = gate.admit(node(OTHER, **{"pod-cidrs": "10.3.0.0/24,what"}))
    assert isinstance(admitted, Node)
    assert admitted.pod_cidrs == ("10.2.0.0/24",)


def test_an_address_that_this_host_does_not_have_is_no_local_address() -> None:
    here = {"10.0.0.1", "fd00::1"}
    gate = Gate(OWN, hosts=here.__contains__)
    assert passed(gate, node(**{"bgp-local-addresses": "10.0.0.1,fd00::1"})) == {"bgp-local-addresses": "10.0.0.1,fd00::1"}
    admitted = gate.admit(node(**{"bgp-local-addresses": "10.0.0.2"}))
    assert isinstance(admitted, Node)
    assert [fault.reason for fault in admitted.rejected] == ["this node has no such address"]
    assert passed(gate, node(**{"bgp-local-addresses": "10.0.0.2"})) == {"bgp-local-addresses": "10.0.0.1,fd00::1"}
    here.add("10.0.0.2")
    assert passed(gate, node(**{"bgp-local-addresses": "10.0.0.2"})) == {"bgp-local-addresses": "10.0.0.2"}


def test_a_wrong_annotation_of_a_service_is_told_on_it() -> None:
    gate = Gate(OWN)
    name = PREFIX + "service.advertise.clusterip"
    gate.admit(Service(WEB, annotations={name: "true"}))
    admitted = gate.admit(Service(WEB, annotations={name: "yes", "kube-router.io/service.scheduler": "rr"}))
    assert isinstance(admitted, Service)
    assert dict(admitted.annotations) == {name: "true", "kube-router.io/service.scheduler": "rr"}
    assert admitted.rejected == (Rejected(name, "yes", "neither true nor false", 'write "true" or "false"', True),)


# -- over a restart ---------------------------------------------------------------------------------------------------


def restarted(gate: Gate) -> Gate:
    after = Gate(OWN)
    after.load(gate.dump())
    return after


def test_a_restart_decides_the_same() -> None:
    gate = Gate(OWN)
    gate.admit(node(node_asn="64512"))
    wrong = node(node_asn="many")
    assert restarted(gate).admit(wrong) == gate.admit(wrong)


def test_u098_passwords_are_written_nowhere() -> None:
    gate = Gate(OWN)
    gate.admit(node(peers=GOOD_PEERS, node_asn="64512"))
    assert b"64512" in gate.dump()
    assert b"password" not in gate.dump()
    assert passed(gate, node(peers="wrong")) == {"peers": GOOD_PEERS}
    assert passed(restarted(gate), node(peers="wrong")) == {}


def test_peers_without_a_password_are_kept() -> None:
    gate = Gate(OWN)
    gate.admit(node(peers=GOOD_PEERS))
    plain = "- {remoteip: 10.0.0.1, remoteasn: 65001}"
    gate.admit(node(peers=plain))
    assert passed(restarted(gate), node(peers="wrong")) == {"peers": plain}


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b'{"version":9,"objects":[]}', b'{"version":1,"objects":[{"kind":"Dog"}]}'])
def test_what_is_no_dump_is_refused_with_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Gate(OWN).load(data)


def test_a_dump_of_texts_that_do_not_parse_is_no_danger() -> None:
    gate = Gate(OWN)
    gate.admit(node(node_asn="64512"))
    after = Gate(OWN)
    after.load(gate.dump().replace(b"64512", b"many!"))
    assert passed(after, node(node_asn="worse")) == {}


def test_there_is_something_to_write_down_only_when_an_acceptance_changed() -> None:
    gate = Gate(OWN)
    gate.admit(node(node_asn="64512"))
    assert gate.changed
    gate.changed = False
    for value in (node(node_asn="64512"), node(node_asn="many"), node(OTHER), Service(WEB)):
        gate.admit(value)
    assert not gate.changed


# -- the law ----------------------------------------------------------------------------------------------------------

SAID = {
    of.NODE_ASN: ["64512", "0x1", "many", ""],
    of.REFLECTOR_SERVER: ["1", "10.0.0.1", "one"],
    of.REFLECTOR_CLIENT: ["2", ""],
    of.PREPEND_AS: ["65000", "x"],
    of.PREPEND_REPEAT: ["2", "256"],
    of.COMMUNITIES: ["65000:1", "no-export", ","],
    of.IMPORT_REJECT: ["10.0.0.0/8", "10"],
    of.LOCAL_ADDRESSES: ["10.0.0.1", "0.0.0.0"],
    of.POD_CIDRS: ["10.1.0.0/24", "10.1.0.0"],
    of.POD_CIDR: ["10.2.0.0/24", "fd00::"],
    PREFIX + "peers": ["- {remoteip: 10.0.0.1, remoteasn: 65001}", "- 1", "["],
    PREFIX + "peer.ips": ["10.0.0.1", "x"],
    PREFIX + "peer.asns": ["65001", "1,2"],
    of.SERVICE_LOCAL: ["true", "True"],
    of.ADVERTISE + "clusterip": ["true", "0", "yes"],
}
said = st.fixed_dictionaries({}, optional={name: st.sampled_from(texts) for name, texts in SAID.items()})
things = st.one_of(
    st.builds(Node, name=st.sampled_from([OWN, OTHER]), uid=st.sampled_from(["u1", "u2"]), annotations=said),
    st.builds(Service, name=st.just(WEB), annotations=said),
)


@given(st.lists(things, max_size=12), st.frozensets(st.integers(0, 11)))
def test_whatever_passes_parses_and_no_restart_changes_what_passes(history, restart_at) -> None:
    lasting, restarting = Gate(OWN), Gate(OWN)
    for n, value in enumerate(history):
        if n in restart_at:
            restarting = restarted(restarting)
        admitted = lasting.admit(value)
        assert restarting.admit(value) == admitted
        assert isinstance(admitted, Node | Service)
        for item in NODE_ITEMS if isinstance(admitted, Node) else SERVICE_ITEMS:
            item.parse(admitted.annotations)
        assert restarted(lasting).dump() == lasting.dump()
