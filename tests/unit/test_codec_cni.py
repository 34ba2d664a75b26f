"""CNI configuration text: our part edited, the rest kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.codec.cni import BadConfigError, edited, fresh, meets, mtu_of, plugin_types, read
from kube_router.model.state.links import CniConfig

WISH = CniConfig(("10.233.64.0/24", "fd00:64::/64"), 1480)


@pytest.mark.parametrize("as_list", [True, False])
def test_a_fresh_configuration_is_complete_and_says_what_is_wished(as_list):
    text = fresh(WISH, as_list=as_list)
    assert read(text) == WISH
    assert meets(text, WISH)
    assert ("plugins" in json.loads(text)) == as_list
    assert plugin_types(text) == (("bridge", "portmap", "host-local") if as_list else ("bridge", "host-local"))


def conflist(**bridge: object) -> str:
    plugins = [{"type": "loopback-like"}, {"type": "bridge", "bridge": "kube-bridge", **bridge}]
    return json.dumps({"cniVersion": "1.0.0", "name": "mine", "unknown": [1], "plugins": plugins})


def test_unknown_keys_and_other_plugins_stay_as_they_are():
    text = conflist(vlan=7, ipam={"type": "host-local", "dataDir": "/run/x", "ranges": []})
    conf = json.loads(edited(text, WISH))
    assert conf["unknown"] == [1]
    assert conf["name"] == "mine"
    assert conf["plugins"][0] == {"type": "loopback-like"}
    assert conf["plugins"][1]["vlan"] == 7
    assert conf["plugins"][1]["ipam"]["dataDir"] == "/run/x"
    assert conf["plugins"][1]["mtu"] == 1480


def test_stale_ranges_go_right_ones_keep_their_details_missing_ones_are_appended():
    detailed = [{"subnet": "10.233.64.0/24", "rangeStart": "10.233.64.10"}]
    text = conflist(ipam={"type": "host-local", "ranges": [[{"subnet": "10.233.99.0/24"}], detailed]})
    conf = json.loads(edited(text, WISH))
    assert conf["plugins"][1]["ipam"]["ranges"] == [detailed, [{"subnet": "fd00:64::/64"}]]


def test_a_legacy_subnet_is_folded_into_the_ranges():
    text = json.dumps({"cniVersion": "0.3.0", "name": "x", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.233.64.9/24"}})
    conf = json.loads(edited(text, WISH))
    assert conf["ipam"] == {"type": "host-local", "ranges": [[{"subnet": "10.233.64.9/24"}], [{"subnet": "fd00:64::/64"}]]}
    assert read(edited(text, WISH)).ranges == WISH.ranges


def test_without_a_managed_mtu_the_file_keeps_its_own():
    text = edited(conflist(mtu=1280), CniConfig(WISH.ranges, 0))
    assert json.loads(text)["plugins"][1]["mtu"] == 1280
    assert meets(text, CniConfig(WISH.ranges, 0))


@pytest.mark.parametrize("as_list", [True, False])
def test_r29_ranges_of_an_earlier_life_go_and_a_range_spelled_in_two_ways_stands_once(as_list):
    ranges = [[{"subnet": "10.233.64.7/24"}], [{"subnet": "10.233.64.0/24"}], [{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:0064::/64"}]]
    plugin = {"type": "bridge", "bridge": "kube-bridge", "ipam": {"type": "host-local", "ranges": ranges}}
    text = json.dumps({"name": "x", "plugins": [plugin]} if as_list else {"name": "x", **plugin})
    once = edited(text, WISH)
    conf = json.loads(once)
    found = (conf["plugins"][0] if as_list else conf)["ipam"]["ranges"]
    assert found == [[{"subnet": "10.233.64.7/24"}], [{"subnet": "fd00:0064::/64"}]]
    assert edited(once, WISH) == once


def test_r29_in_a_set_of_several_ranges_only_the_stale_one_goes():
    two = [{"subnet": "10.9.0.0/24"}, {"subnet": "10.233.64.0/24", "rangeStart": "10.233.64.10"}]
    conf = json.loads(edited(conflist(ipam={"type": "host-local", "ranges": [two]}), WISH))
    assert conf["plugins"][1]["ipam"]["ranges"] == [two[1:], [{"subnet": "fd00:64::/64"}]]


@pytest.mark.parametrize(
    "plugin",
    [{"type": "bridge"}, {"type": "bridge", "ipam": {}}, {"type": "bridge", "ipam": {"type": "host-local", "ranges": None}}],
)
@pytest.mark.parametrize("as_list", [True, False])
def test_r29_a_plugin_without_address_management_gets_one(plugin, as_list):
    text = json.dumps({"name": "x", "plugins": [plugin]} if as_list else {"name": "x", **plugin})
    once = edited(text, WISH)
    assert meets(once, WISH)
    assert read(once).ranges == WISH.ranges
    assert "host-local" in plugin_types(once)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"mtu": 1280}, (1280, False)),
        ({"mtu": 1480, "kube-router.io/mtu": 1480}, (1480, True)),
        ({"mtu": 1280, "kube-router.io/mtu": 1480}, (1280, False)),  # somebody changed what we wrote: it is theirs now
        ({"kube-router.io/mtu": 1480}, (0, False)),
        ({"mtu": "1280"}, (0, False)),
        ({"mtu": True}, (0, False)),
        ({}, (0, False)),
    ],
)
def test_u073_an_mtu_that_somebody_chose_is_told_from_one_that_we_wrote(keys, expected):
    assert mtu_of(conflist(**keys)) == expected


def test_u073_an_mtu_that_we_write_bears_our_mark_and_one_of_an_earlier_version_gets_it():
    unmarked = conflist(mtu=1480, ipam={"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in WISH.ranges]})
    assert not meets(unmarked, WISH)
    assert mtu_of(edited(unmarked, WISH)) == (1480, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"plugins": {}}', '"plugins" must be a list'),
        ('{"plugins": [{"type": "ptp"}]}', 'no plugin of type "bridge"'),
        ('{"type": "bridge", "ipam": 1}', '"ipam" must be an object'),
        ('{"type": "bridge", "ipam": {"ranges": [1]}}', '"ipam.ranges" must be'),
    ],
)
def test_a_file_that_cannot_be_edited_is_named_with_what_would_be_right(text, words):
    with pytest.raises(BadConfigError, match=words.replace("[", "\\[")):
        edited(text, WISH)


subnets = st.sampled_from(["10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64", "bogus"])
groups = st.lists(st.lists(subnets.map(lambda s: {"subnet": s}), max_size=2), max_size=4)


@given(groups, st.lists(st.sampled_from(["10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64"]), unique=True), st.sampled_from([0, 1400]))
def test_after_editing_the_wish_is_met_and_editing_again_changes_nothing(ranges, wanted, mtu):
    wish = CniConfig(tuple(wanted), mtu)
    once = edited(conflist(ipam={"type": "host-local", "ranges": ranges}), wish)
    assert meets(once, wish)
    assert edited(once, wish) == once
