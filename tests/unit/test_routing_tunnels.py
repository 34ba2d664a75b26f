"""Which next hops are reached through which tunnels, by encapsulation, type and family."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.config.options import defaults
from kube_router.desired.routing.around import surroundings
from kube_router.desired.routing.mtu import pod_mtu
from kube_router.desired.routing.tunnels import link_address, link_local, overlay, plain_name, tunnel, tunnel_name, way
from kube_router.model.names import VXLAN_LINK, is_tunnel
from kube_router.model.objects import Interface, Name, Node
from kube_router.model.state.links import Hop, Route, RouteKey, Rule, RuleKey
from kube_router.model.state.tunnels import Fdb, FdbKey, Fou, FouKey, Neighbour, NeighbourKey, Tunnel, TunnelKey

NODE = Node(Name("", "node1"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"), addresses=("192.168.50.50", "fd00:50::50"))
NEAR = Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51"))
FAR = Node(Name("", "node3"), addresses=("192.168.60.52", "fd00:60::52"))
LINKS = (
    Interface(Name("", "lo"), mtu=65536, addresses=("127.0.0.1/8", "::1/128")),
    Interface(Name("", "up0"), mtu=1500, addresses=("192.168.50.50/24", "fd00:50::50/64")),
)
COLLIDING = ("2.13.0.4", "21.3.0.4")


def options(encap="ipip", **more):
    return defaults(node_name="node1", enable_ipv6=True, overlay_encap=encap, **more)


def found(hop, given, peer=None, rivals=(), node=NODE):
    return way(hop, surroundings(node, LINKS, given), peer, rivals=rivals, options=given)


@pytest.mark.parametrize(
    ("hop", "name"),
    [
        ("10.0.0.1", "tun-e443169117a"),
        ("192.168.60.52", "tun-cae1aae1758"),
        ("fd00:60::52", "tun-43e00a7a482"),
        ("21.3.0.4", "tun-8bbcaad3138"),
        ("2.13.0.4", "tun-8bbcaad3138"),
    ],
)
def test_names_are_the_originals(hop, name):
    assert plain_name(hop) == name
    assert is_tunnel(name)


@pytest.mark.parametrize("order", [COLLIDING, COLLIDING[::-1]])
def test_r20_next_hops_of_one_name_get_two_whatever_came_first(order):
    names = [tunnel_name(hop, order) for hop in COLLIDING]
    assert names[0] == "tun-8bbcaad3138"
    assert names[1] != names[0]
    assert all(map(is_tunnel, names))


@given(st.sets(st.ip_addresses().map(str), min_size=1, max_size=6))
def test_r20_no_two_next_hops_share_a_tunnel(hops):
    rivals = {hop: [other for other in hops if plain_name(other) == plain_name(hop)] for hop in hops}
    assert len({tunnel_name(hop, rivals[hop]) for hop in hops}) == len(hops)


TUNNELS = {
    ("ipip", 4): Tunnel("ipip", "192.168.50.50", "192.168.60.52", mtu=1480),
    ("ipip", 6): Tunnel("ip6tnl", "fd00:50::50", "fd00:60::52", mtu=1452),
    ("fou", 4): Tunnel("ipip", "192.168.50.50", "192.168.60.52", 5555, mtu=1468),
    ("fou", 6): Tunnel("ip6tnl", "fd00:50::50", "fd00:60::52", 5555, mtu=1440),
}


@pytest.mark.parametrize(("encap", "family"), TUNNELS)
def test_a_node_behind_a_router_has_a_tunnel_and_a_way_for_pods_to_the_node_itself(encap, family):
    hop = FAR.addresses[family == 6]
    name = plain_name(hop)
    wanted = {
        TunnelKey(name): TUNNELS[encap, family],
        RouteKey(f"{hop}/{32 if family == 4 else 128}", 77): Route((Hop(link=name),)),
    }
    assert tunnel(found(hop, options(encap), FAR)).state == wanted
    assert tunnel(found(hop, options(encap))).state == wanted, "of a next hop that is no node, too, as the original has it"


@pytest.mark.parametrize("family", [4, 6])
def test_u103_vxlan_carries_both_families_over_the_nodes_first_addresses(family):
    hop = FAR.addresses[family == 6]
    mac = link_address("192.168.60.52")
    gateway = hop if family == 4 else link_local(mac)
    assert tunnel(found(hop, options("vxlan"), FAR)).state == {
        FdbKey(VXLAN_LINK, mac): Fdb("192.168.60.52"),
        NeighbourKey(VXLAN_LINK, gateway): Neighbour(mac),
        RouteKey(f"{hop}/{32 if family == 4 else 128}", 77): Route((Hop(gateway, VXLAN_LINK, onlink=family == 4),)),
    }


def test_link_local_addresses_come_from_link_addresses():
    assert link_local("02:11:22:33:44:55") == "fe80::11:22ff:fe33:4455"


def test_u103_both_ends_of_vxlan_come_to_the_same_link_address_without_asking():
    given = options("vxlan", overlay_vxlan_port=8472)
    theirs = overlay(FAR, surroundings(FAR, (Interface(Name("", "up0"), mtu=9000, addresses=("192.168.60.52/24",)),), given), given)
    assert theirs.state[TunnelKey(VXLAN_LINK)] == Tunnel("vxlan", "192.168.60.52", port=8472, mtu=8950, mac=link_address("192.168.60.52"))
    assert found("192.168.60.52", given, FAR).mac == link_address("192.168.60.52")
    assert int(link_address("192.168.60.52")[:2], 16) & 3 == 2, "locally administered, of one host"


def test_vxlan_needs_a_node_with_an_address_of_the_outer_family():
    assert "VXLAN needs" in found("fd00:60::52", options("vxlan")).refused
    assert not found("192.168.60.52", options("vxlan")).refused
    only6 = Node(Name("", "node3"), addresses=("fd00:60::52",))
    assert "VXLAN needs" in found("fd00:60::52", options("vxlan"), only6).refused


@pytest.mark.parametrize("encap", ["ipip", "fou", "vxlan"])
@pytest.mark.parametrize(
    ("hop", "peer", "subnet", "full"),
    [
        ("192.168.50.51", NEAR, False, True),
        ("fd00:50::51", NEAR, False, True),
        ("192.168.60.52", FAR, True, True),
        ("fd00:60::52", FAR, True, True),
        ("192.168.50.1", None, False, False),  # a router: nobody takes packets out of a tunnel there
        ("192.168.50.50", NODE, False, False),  # ourselves
    ],
)
def test_type_subnet_tunnels_across_routers_and_full_to_every_node(encap, hop, peer, subnet, full):
    assert bool(found(hop, options(encap), peer).link) is subnet
    assert bool(found(hop, options(encap, overlay_type="full"), peer).link) is full


@pytest.mark.parametrize("encap", ["ipip", "fou", "vxlan"])
def test_without_the_overlay_there_is_nothing(encap):
    given = options(encap, enable_overlay=False)
    assert found("192.168.60.52", given, FAR).refused
    assert overlay(NODE, surroundings(NODE, LINKS, given), given).state == {}


@pytest.mark.parametrize("encap", ["ipip", "fou", "vxlan"])
def test_a_next_hop_of_a_family_that_is_off_has_no_way(encap):
    given = defaults(node_name="node1", overlay_encap=encap)
    assert not found("192.168.60.52", given, FAR).refused
    assert found("fd00:60::52", given, FAR).refused == "of a family that is switched off"


def test_u062_pods_reach_every_address_of_a_node_behind_a_router_through_its_tunnel():
    many = Node(Name("", "node3"), addresses=("192.168.60.52", "fd00:60::52", "198.51.100.3", "fd00:61::3"))
    for hop, prefixes in (
        ("192.168.60.52", ["192.168.60.52/32", "198.51.100.3/32"]),
        ("fd00:60::52", ["fd00:60::52/128", "fd00:61::3/128"]),
    ):
        state = tunnel(found(hop, options(), many)).state
        assert [key.prefix for key in state if isinstance(key, RouteKey)] == prefixes
        assert {key.table for key in state if isinstance(key, RouteKey)} == {77}


RULES = {RuleKey("10.233.64.0/24", 77): Rule(), RuleKey("fd00:64::/64", 77): Rule()}


@pytest.mark.parametrize(
    ("encap", "beside"),
    [
        ("ipip", {FouKey(4, 5555): Fou(make=False), FouKey(6, 5555): Fou(make=False)}),
        ("fou", {FouKey(4, 5555): Fou(), FouKey(6, 5555): Fou()}),
        ("vxlan", {TunnelKey(VXLAN_LINK): Tunnel("vxlan", "192.168.50.50", port=4789, mtu=1450, mac=link_address("192.168.50.50"))}),
    ],
)
def test_r32_the_overlay_has_a_rule_for_each_pod_range_by_number_and_what_its_encapsulation_needs(encap, beside):
    given = options(encap)
    assert overlay(NODE, surroundings(NODE, LINKS, given), given).state == RULES | beside


def test_a_family_that_is_off_has_no_rule_and_no_listener():
    given = defaults(overlay_encap="fou")
    assert overlay(NODE, surroundings(NODE, LINKS, given), given).state == {
        RuleKey("10.233.64.0/24", 77): Rule(),
        FouKey(4, 5555): Fou(),
    }


@pytest.mark.parametrize(
    ("encap", "families", "primary", "mtu"),
    [
        ("ipip", (4,), 4, 1480),
        ("ipip", (4, 6), 4, 1452),
        ("fou", (4,), 4, 1468),
        ("fou", (4, 6), 4, 1440),
        ("vxlan", (4,), 4, 1450),
        ("vxlan", (4, 6), 4, 1450),
        ("vxlan", (4, 6), 6, 1430),
        ("vxlan", (6,), 6, 1430),
    ],
)
@pytest.mark.parametrize("kind", ["subnet", "full"])
def test_r21_the_mtu_of_pods_fits_through_the_tunnels(encap, families, primary, mtu, kind):
    node = Node(NODE.name, addresses=NODE.addresses if primary == 4 else NODE.addresses[::-1])
    given = defaults(enable_ipv4=4 in families, enable_ipv6=6 in families, overlay_encap=encap, overlay_type=kind)
    assert pod_mtu(node, LINKS, given) == mtu
    link = overlay(node, surroundings(node, LINKS, given), given).state.get(TunnelKey(VXLAN_LINK))
    assert link is None or link.mtu == mtu
    hops = [hop for hop in FAR.addresses if (6 if ":" in hop else 4) in families]
    ways = [way(hop, surroundings(node, LINKS, given), FAR, rivals=(), options=given) for hop in hops]
    assert all(one.tunnel is None or one.tunnel.mtu >= mtu for one in ways)


def test_r21_tunnels_follow_the_links_that_they_go_over():
    jumbo = (Interface(Name("", "up0"), mtu=9000, addresses=("192.168.50.50/24", "fd00:50::50/64")),)
    around = surroundings(NODE, jumbo, options())
    assert way("192.168.60.52", around, FAR, rivals=(), options=options()).tunnel.mtu == 8980
    kept = surroundings(NODE, jumbo, options(auto_mtu=False))
    assert way("192.168.60.52", kept, FAR, rivals=(), options=options()).tunnel.mtu == 0, "left to the kernel"
