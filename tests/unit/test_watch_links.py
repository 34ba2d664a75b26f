"""What the cache should know of links, and what of ours was disturbed, from single notices."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.cache.cache import Cache
from kube_router.codec.netlink import Reply, attribute
from kube_router.codec.notices import (
    AddressGone,
    AddressSeen,
    EntryGone,
    LinkGone,
    LinkSeen,
    RouteGone,
    RouteReplaced,
    RuleGone,
    Told,
    WayOut,
    WaysChanged,
    filter_program,
    parse,
    ways_out,
)
from kube_router.model.objects import Interface, Kind, Name, Ref
from kube_router.model.state import Key
from kube_router.model.state.links import AddressKey, LinkKey, RouteKey, RuleKey
from kube_router.model.state.tunnels import FdbKey, NeighbourKey, TunnelKey
from kube_router.watch.events import Event, Put, Removed, Replaced, write
from kube_router.watch.linktable import Disturbance, LinkTable

ETH = LinkSeen(link=2, name="eth0", kind="", up=True, mtu=1500, master=0)
DUMMY = LinkSeen(link=3, name="kube-dummy-if", kind="dummy", up=True, mtu=1500, master=0)
BRIDGE = LinkSeen(link=4, name="kube-bridge", kind="bridge", up=True, mtu=1500, master=0)
PORT = LinkSeen(link=5, name="veth1", kind="veth", up=True, mtu=1500, master=4)
ETH_ADDRESS = AddressSeen(2, "192.168.0.1/24")


def interface(link: LinkSeen, *addresses: str) -> Interface:
    return Interface(name=Name("", link.name), index=link.link, kind=link.kind, up=link.up, mtu=link.mtu, addresses=addresses)


def table(*told: Told) -> LinkTable:
    """A table that was listed and has told everything."""
    made = LinkTable()
    made.replace(told)
    made.complete()
    assert not made.disturbance()
    return made


def after(made: LinkTable, *told: Told) -> tuple[list[Event], Disturbance]:
    for one in told:
        made.hear(one)
    return made.take(), made.disturbance()


def changed(link: LinkSeen, /, **attributes: object) -> LinkSeen:
    return link._replace(**attributes)  # type: ignore[arg-type]


# -- what the cache should know -------------------------------------------------------------------------------------------


def test_a_complete_list_has_links_with_sorted_addresses() -> None:
    made = LinkTable()
    made.replace([ETH, AddressSeen(2, "fd00::1/64"), AddressSeen(2, "192.168.0.9/24"), AddressSeen(2, "192.168.0.10/24")])
    assert made.complete() == Replaced(Kind.INTERFACE, (interface(ETH, "192.168.0.10/24", "192.168.0.9/24", "fd00::1/64"),))


@pytest.mark.parametrize(
    ("told", "there"),
    [
        ([PORT], False),
        ([PORT, AddressSeen(5, "fe80::1/64")], False),
        ([PORT, AddressSeen(5, "169.254.1.1/16")], False),
        ([PORT, AddressSeen(5, "192.168.0.1/24")], True),
        ([changed(PORT, master=0)], False),
        ([changed(PORT, master=0), AddressSeen(5, "192.168.0.1/24")], True),
        ([changed(PORT, kind="", master=0)], True),
        ([changed(PORT, kind="", master=9)], False),
        ([BRIDGE], True),
    ],
)
def test_ports_and_veths_without_an_address_of_their_own_stay_out(told: list[Told], there: bool) -> None:
    made = LinkTable()
    made.replace(told)
    assert len(made.complete().objects) == there


def test_addresses_that_we_write_ourselves_are_no_news() -> None:
    made = table(DUMMY)
    events, disturbance = after(made, *(AddressSeen(3, f"10.96.0.{n}/32") for n in range(100)))
    assert (events, disturbance) == ([], Disturbance())
    made.hear(changed(DUMMY, mtu=9000))
    assert made.take() == [Put(interface(changed(DUMMY, mtu=9000)))]


def test_a_pod_that_comes_and_goes_is_no_news() -> None:
    made = table(ETH, BRIDGE)
    events, disturbance = after(
        made,
        changed(PORT, master=0, up=False),
        changed(PORT, master=0),
        PORT,
        AddressSeen(5, "fe80::1/64"),
        AddressGone(5, "fe80::1/64"),
        changed(PORT, up=False),
        LinkGone(5),
    )
    assert (events, disturbance) == ([], Disturbance())


def test_changes_are_told_once() -> None:
    made = table(ETH)
    assert after(made, ETH_ADDRESS)[0] == [Put(interface(ETH, "192.168.0.1/24"))]
    assert after(made, ETH_ADDRESS, ETH)[0] == []
    assert after(made, AddressGone(2, "192.168.0.1/24"), ETH_ADDRESS)[0] == []
    assert after(made, changed(ETH, mtu=1400))[0] == [Put(interface(changed(ETH, mtu=1400), "192.168.0.1/24"))]
    assert after(made, LinkGone(2))[0] == [Removed(Ref(Kind.INTERFACE, Name("", "eth0")))]
    assert after(made, LinkGone(2))[0] == []


def test_a_renamed_link_is_gone_by_its_old_name() -> None:
    made = table(ETH)
    events, _ = after(made, changed(ETH, name="lan"))
    assert events == [Removed(Ref(Kind.INTERFACE, Name("", "eth0"))), Put(interface(changed(ETH, name="lan")))]


def test_a_name_that_goes_to_another_link_stays() -> None:
    made = table(ETH)
    other = changed(ETH, link=9)
    events, _ = after(made, LinkGone(2), other)
    assert events == [Put(interface(other))]


names = st.sampled_from(["eth0", "eth1", "kube-dummy-if"])
indexes = st.sampled_from([2, 3])
prefixes = st.sampled_from(["10.0.0.1/24", "10.0.0.2/24", "fe80::1/64", "fd00::1/128"])
notices = st.one_of(
    st.builds(
        LinkSeen, indexes, names, st.sampled_from(["", "veth"]), st.booleans(), st.sampled_from([1400, 1500]), st.sampled_from([0, 4])
    ),
    st.builds(LinkGone, indexes),
    st.builds(AddressSeen, indexes, prefixes),
    st.builds(AddressGone, indexes, prefixes),
    st.builds(RouteGone, prefixes, st.sampled_from([254, 255]), st.sampled_from([2, 17]), indexes, st.booleans()),
)


def kernel(history: Iterable[Told]) -> list[Told]:
    """What a dump says after a history; no two links have one name, and addresses go with their link."""
    links: dict[int, LinkSeen] = {}
    addresses: dict[int, dict[str, AddressSeen]] = {}
    for told in history:
        match told:
            case LinkSeen(link=link):
                links[link] = told
            case LinkGone(link=link):
                links.pop(link, None)
                addresses.pop(link, None)
            case AddressSeen(link=link, prefix=prefix):
                addresses.setdefault(link, {})[prefix] = told
            case AddressGone(link=link, prefix=prefix):
                addresses.get(link, {}).pop(prefix, None)
    return [*links.values(), *(address for one in addresses.values() for address in one.values())]


def possible(history: list[Told]) -> list[Told]:
    """The history without what a kernel would not say: a name that another link has."""
    links: dict[int, str] = {}
    kept = []
    for told in history:
        if isinstance(told, LinkGone):
            links.pop(told.link, None)
        if isinstance(told, LinkSeen):
            if any(name == told.name and link != told.link for link, name in links.items()):
                continue
            links[told.link] = told.name
        kept.append(told)
    return kept


@settings(deadline=None)  # machines that run tests are busy
@given(st.lists(st.lists(notices, max_size=6), max_size=5))
def test_notices_lead_to_what_a_new_list_would_say(bursts: list[list[Told]]) -> None:
    made, cache = LinkTable(), Cache()
    made.replace([])
    write([made.complete()], cache)
    history: list[Told] = []
    for burst in bursts:
        kept = possible(history + burst)[len(possible(history)) :]
        history += kept
        write(after(made, *kept)[0], cache)
        fresh = LinkTable()
        fresh.replace(kernel(history))
        assert dict(cache.view.interfaces) == {found.name: found for found in fresh.complete().objects}  # type: ignore[union-attr]


# -- what was disturbed -----------------------------------------------------------------------------------------------------

ALL_ROUTES = frozenset({RouteKey})


@pytest.mark.parametrize(
    ("told", "keys", "kinds"),
    [
        ([RouteGone("10.2.0.0/24", 254, 17, 2, False)], {RouteKey("10.2.0.0/24", 254)}, set()),
        ([RouteGone("10.2.0.0/24", 254, 4, 2, False)], set(), set()),
        ([RouteGone("10.96.0.1/32", 255, 2, 3, True)], {AddressKey("kube-dummy-if", "10.96.0.1/32")}, set()),
        ([RouteGone("192.168.0.1/32", 255, 2, 2, True)], set(), set()),
        ([AddressGone(3, "10.96.0.1/32")], {AddressKey("kube-dummy-if", "10.96.0.1/32")}, set()),
        ([AddressGone(2, "192.168.0.1/24")], set(), {RouteKey, AddressKey}),
        ([AddressGone(5, "fe80::1/64")], set(), set()),
        ([AddressGone(77, "10.0.0.1/24")], set(), set()),
        ([changed(ETH, up=False)], {LinkKey("eth0")}, {RouteKey}),
        ([changed(DUMMY, up=False)], {LinkKey("kube-dummy-if")}, {RouteKey, AddressKey}),
        ([changed(PORT, up=False)], set(), set()),
        ([changed(ETH, mtu=1400)], set(), set()),
        ([LinkGone(2)], {LinkKey("eth0"), AddressKey("eth0", "192.168.0.1/24")}, {RouteKey}),
        ([LinkGone(5)], set(), set()),
        ([LinkGone(77)], set(), set()),
        ([AddressSeen(3, "10.96.0.9/32"), AddressSeen(2, "10.0.0.9/24")], set(), set()),
    ],
)
def test_losses_are_told_by_key_and_silent_losses_by_kind(told: list[Told], keys: set[object], kinds: set[type]) -> None:
    made = table(ETH, DUMMY, BRIDGE, PORT, ETH_ADDRESS, AddressSeen(3, "10.96.0.1/32"), AddressSeen(5, "fe80::1/64"))
    _, disturbance = after(made, *told)
    assert (disturbance.keys, disturbance.kinds) == (keys, kinds)
    assert not made.disturbance()


def test_a_link_that_comes_up_again_may_take_routes_again() -> None:
    made = table(changed(ETH, up=False))
    _, disturbance = after(made, ETH)
    assert disturbance.kinds == ALL_ROUTES


def test_after_lost_notices_everything_counts_as_disturbed() -> None:
    made = table(ETH)
    made.replace([ETH])
    assert made.disturbance().kinds == {LinkKey, AddressKey, RouteKey, RuleKey, TunnelKey, FdbKey, NeighbourKey}
    assert made.complete().objects == (interface(ETH),)  # type: ignore[attr-defined]


# -- octets -------------------------------------------------------------------------------------------------------------------


def link_payload(*, family: int = 0, flags: int = 1, attributes: bytes = b"") -> memoryview:
    return memoryview(struct.pack("=BxHiII", family, 1, 7, flags, 0) + attributes)


def test_what_a_bridge_says_of_its_port_is_not_taken_for_the_link() -> None:
    assert parse(17, link_payload()) == LinkGone(7)
    assert parse(17, link_payload(family=7)) is None
    assert parse(16, link_payload(family=7)) is None


def test_a_link_is_read_with_kind_and_master() -> None:
    body = (
        attribute(3, b"veth1\0")
        + attribute(4, struct.pack("=I", 1400))
        + attribute(10, struct.pack("=I", 4))
        + attribute(18 | 0x8000, attribute(1, b"veth\0"))
    )
    assert parse(16, link_payload(attributes=body)) == LinkSeen(7, "veth1", "veth", True, 1400, 4)
    assert parse(16, link_payload(flags=0, attributes=body)) == LinkSeen(7, "veth1", "veth", False, 1400, 4)


def test_an_address_that_another_host_has_counts_as_gone() -> None:
    body = attribute(1, bytes(15) + b"\x01") + attribute(8, struct.pack("=I", 0x88))
    assert parse(20, memoryview(struct.pack("=BBBBI", 10, 128, 0x88, 0, 7) + body)) == AddressGone(7, "::1/128")
    assert parse(20, memoryview(struct.pack("=BBBBI", 10, 128, 0x80, 0, 7) + attribute(1, bytes(15) + b"\x01"))) == AddressSeen(
        7, "::1/128"
    )


def test_of_a_point_to_point_link_our_own_address_counts() -> None:
    body = attribute(1, bytes([10, 0, 0, 2])) + attribute(2, bytes([10, 0, 0, 1]))
    assert parse(20, memoryview(struct.pack("=BBBBI", 2, 32, 0, 0, 7) + body)) == AddressSeen(7, "10.0.0.1/32")


TUNNEL = LinkSeen(link=7, name="tun-cae1aae1758", kind="ipip", up=True, mtu=1480, master=0)
VXLAN = LinkSeen(link=8, name="kube-vxlan", kind="vxlan", up=True, mtu=1450, master=0)


def test_tunnels_of_ours_are_no_news_whatever_addresses_the_kernel_gives_them() -> None:
    made = table(ETH)
    told = [TUNNEL, AddressSeen(7, "fe80::5efe:c0a8:3232/64"), VXLAN, changed(TUNNEL, mtu=1400)]
    assert after(made, *told) == ([], Disturbance())
    foreign = changed(TUNNEL, link=9, name="tun-vpn")
    assert after(made, foreign)[0] == [Put(interface(foreign))]


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        ([LinkGone(7)], TunnelKey("tun-cae1aae1758")),
        ([changed(TUNNEL, up=False)], TunnelKey("tun-cae1aae1758")),
        ([RouteReplaced("10.233.65.0/24", 254)], RouteKey("10.233.65.0/24")),
        ([RuleGone("10.233.64.0/24", 77)], RuleKey("10.233.64.0/24", 77)),
        ([RouteGone("192.168.60.52/32", 77, 3, 7, True)], RouteKey("192.168.60.52/32", 77)),
        ([EntryGone(8, True, "192.168.60.52", "02:00:00:00:00:01")], FdbKey("kube-vxlan", "02:00:00:00:00:01")),
        ([EntryGone(8, False, "fd00:60::52", "02:00:00:00:00:01")], NeighbourKey("kube-vxlan", "fd00:60::52")),
    ],
)
def test_what_is_taken_from_the_overlay_is_told_by_key(told: list[Told], lost: Key) -> None:
    made = table(ETH, TUNNEL, VXLAN)
    assert after(made, *told) == ([], Disturbance(frozenset({lost})))


def test_entries_of_other_links_are_nobodys() -> None:
    made = table(ETH, VXLAN)
    assert after(made, EntryGone(2, False, "192.168.0.9", "02:00:00:00:00:01"))[1] == Disturbance()


def test_with_a_wanted_tunnel_all_that_went_over_it_counts_as_lost() -> None:
    lost = Disturbance(frozenset({TunnelKey("tun-cae1aae1758")}))
    assert lost.concerning({TunnelKey("tun-cae1aae1758")}) == {TunnelKey, RouteKey, FdbKey, NeighbourKey}
    assert lost.concerning(()) == set(), "one that we took away ourselves"


def test_a_lost_default_route_has_a_prefix() -> None:
    body = attribute(4, struct.pack("=I", 2)) + attribute(15, struct.pack("=I", 300))
    head = struct.pack("=BBBBBBBBI", 10, 0, 0, 0, 252, 17, 0, 1, 0)
    assert parse(25, memoryview(head + body)) == RouteGone("::/0", 300, 17, 2, False)


GATEWAY = WayOut(2, "192.168.0.254")


def test_gateways_of_default_routes_are_told_with_their_link() -> None:
    made = LinkTable()
    made.replace([ETH, ETH_ADDRESS, BRIDGE])
    made.replace_ways([GATEWAY, WayOut(2, "fe80::1"), WayOut(4, "10.0.0.1")])
    assert {link.name.name: link.gateways for link in made.complete().objects if isinstance(link, Interface)} == {
        "eth0": ("192.168.0.254",),
        "kube-bridge": ("10.0.0.1",),
    }
    made.replace_ways([WayOut(2, "192.168.0.253")])
    assert {event.object.gateways for event in made.take() if isinstance(event, Put)} == {("192.168.0.253",), ()}
    made.replace_ways([WayOut(2, "192.168.0.253")])
    assert made.take() == []


DEFAULT4 = RouteGone("0.0.0.0/0", 254, 16, 2, False)


@pytest.mark.parametrize(
    ("told", "doubtful"),
    [
        (WaysChanged(), True),
        (DEFAULT4, True),
        (DEFAULT4._replace(prefix="::/0"), True),
        (RouteReplaced("0.0.0.0/0", 254), True),
        (changed(ETH, up=False), True),
        (LinkGone(2), True),
        (AddressGone(2, "192.168.0.1/24"), True),
        (DEFAULT4._replace(table=77), False),
        (DEFAULT4._replace(prefix="10.0.0.0/8"), False),
        (RouteReplaced("10.0.0.0/8", 254), False),
        (LinkGone(4), False),
        (changed(ETH, mtu=1400), False),
        (AddressSeen(2, "192.168.0.2/24"), False),
    ],
)
def test_default_routes_are_asked_for_anew_when_they_may_have_changed(told: Told, doubtful: bool) -> None:
    made = table(ETH, ETH_ADDRESS, BRIDGE)
    made.replace_ways([GATEWAY])
    made.hear(told)
    assert made.ways_doubtful == doubtful
    made.replace_ways([GATEWAY])
    assert not made.ways_doubtful


def test_ways_out_are_read_from_a_dump_of_the_main_table() -> None:
    def route(length: int, table: int, *attributes: bytes) -> Reply:
        return Reply(24, 0, 0, memoryview(struct.pack("=BBBBBBBBI", 2, length, 0, 0, table, 16, 0, 1, 0) + b"".join(attributes)))

    link, gateway = attribute(4, struct.pack("=I", 2)), attribute(5, bytes([192, 168, 0, 254]))
    through = attribute(9, struct.pack("=HBBi", 16, 0, 0, 3) + attribute(5, bytes([10, 0, 0, 1])))
    found = [
        route(0, 254, link, gateway),
        route(0, 254, link),
        route(24, 254, link, gateway),
        route(0, 77, link, gateway),
        route(0, 254, through),
    ]
    assert list(ways_out(found)) == [GATEWAY, WayOut(3, "10.0.0.1")]
    assert parse(24, found[0].payload) == WaysChanged()
    assert parse(24, found[2].payload) is None
    assert parse(24, found[0].payload, 0x100) == RouteReplaced("0.0.0.0/0", 254)


def test_the_filter_drops_notices_of_new_neighbours_and_of_routes_that_take_no_others_place() -> None:
    def verdict(kind: int, flags: int = 0, length: int = 24) -> int:
        """Run the program as the kernel does."""
        message = struct.pack("=IHHIIBB", 16, kind, flags, 0, 0, 2, length)
        program, at, accumulator = filter_program(), 0, 0
        while True:
            code, yes, no, operand = program[at]
            at += 1
            if code == 0x28:
                accumulator = int.from_bytes(message[operand : operand + 2], "big")
            elif code == 0x30:
                accumulator = message[operand]
            elif code == 0x15:
                at += yes if accumulator == operand else no
            elif code == 0x45:
                at += yes if accumulator & operand else no
            elif code == 0x06:
                return operand
            else:
                raise AssertionError(f"instruction {code:#x}")

    assert [kind for kind in range(16, 36) if not verdict(kind)] == [24, 28]
    assert [kind for kind in range(16, 36) if not verdict(kind, 0x100)] == [28]
    assert [kind for kind in range(16, 36) if not verdict(kind, length=0)] == [28], "default routes are few, and lead to gateways"
