"""The order table holds what the kernel demands, and what packets must never meet."""

from __future__ import annotations

import pytest

from kube_router.model.state import Change, Key
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey, Link, LinkKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from kube_router.plan.order import ORDER, ordered

SERVER = VirtualServerKey("10.233.0.1", 6, 443)
PAIRS = {
    LinkKey("kube-dummy-if"): Link("dummy"),
    SetKey("kube-router-service-ips"): SetSpec("hash:ip", 4),
    SERVER: VirtualServer(),
    DestinationKey(SERVER, "10.233.64.2", 6443): Destination(),
    SetMember("kube-router-service-ips", "10.233.0.1"): Member(),
    ChainKey(4, "filter", "KUBE-ROUTER-SERVICES"): Chain(()),
    JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES"): Jump(),
    AddressKey("kube-dummy-if", "10.233.0.1/32"): Address(),
}


def kinds(changes: list[Change]) -> list[type[Key]]:
    return [type(change.key) for change in changes]


def test_a_service_comes_before_its_destinations_then_members_rules_and_address_last():
    came = kinds(ordered(Change(k, None, v) for k, v in reversed(PAIRS.items())))
    assert came == [LinkKey, SetKey, VirtualServerKey, DestinationKey, SetMember, ChainKey, JumpKey, AddressKey]


def test_removal_goes_the_other_way():
    went = kinds(ordered(Change(k, v, None) for k, v in PAIRS.items()))
    assert went == [AddressKey, JumpKey, ChainKey, SetMember, DestinationKey, VirtualServerKey, SetKey, LinkKey]


def test_new_destinations_come_before_old_ones_go():
    new, old = DestinationKey(SERVER, "10.233.64.9", 1), DestinationKey(SERVER, "10.233.64.1", 1)
    steps = ordered([Change(old, Destination(), None), Change(new, None, Destination())])
    assert [step.key for step in steps] == [new, old]


@pytest.mark.parametrize("action", ["put", "delete"])
def test_every_kind_of_key_has_one_row_with_a_reason(action):
    import kube_router.model.state.bgp
    import kube_router.model.state.cluster
    import kube_router.model.state.ipvs
    import kube_router.model.state.links
    import kube_router.model.state.netfilter  # noqa: F401  the imports register the subclasses

    rows = [row for row in ORDER if row.action == action]
    assert all(row.reason for row in rows)
    rows = [row for row in rows if not row.sets]
    assert sorted(row.key.__name__ for row in rows) == sorted(kind.__name__ for kind in Key.__subclasses__())


def test_a_pod_is_sent_to_its_chains_once_they_stand_and_kept_out_before_they_go():
    gate, member, chain = (
        SetMember("KUBE-POD-INGRESS", "10.0.0.1"),
        SetMember("KUBE-POD-X", "10.0.0.1"),
        ChainKey(4, "filter", "KUBE-POD-FW-X"),
    )
    dispatch = ChainKey(4, "filter", "KUBE-NWPLCY-INGRESS")
    coming = [
        Change(gate, None, Member()),
        Change(chain, None, Chain(())),
        Change(dispatch, Chain(()), Chain(())),
        Change(member, None, Member()),
    ]
    assert [change.key for change in ordered(coming)] == [member, dispatch, chain, gate]
    going = [
        Change(gate, Member(), None),
        Change(chain, Chain(()), None),
        Change(dispatch, Chain(()), Chain(())),
        Change(member, Member(), None),
    ]
    assert [change.key for change in ordered(going)] == [gate, dispatch, chain, member]
