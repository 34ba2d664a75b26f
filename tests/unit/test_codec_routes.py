"""Route messages: as they are kept, and a law: what a message asks for is what a dump of it would tell."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.codec.netlink import CREATE, DUMP, EXCLUSIVE, REPLACE, REQUEST, Reply
from kube_router.codec.routes import Found, NextHop, delete_route, dump_routes, look_up, new_route, parse_route
from kube_router.codec.rtnetlink import ROUTE_MESSAGE
from kube_router.kit.net import family_of
from tests.conftest import Golden
from tests.unit.test_codec_ipvs import rows


def reply(payload: bytes) -> Reply:
    return Reply(24, 0, 1, memoryview(payload))


def test_messages_are_as_they_are_kept(golden: Golden) -> None:
    hops = (NextHop("192.168.0.1"), NextHop("192.168.0.2"))
    messages = {
        "new, one gateway": new_route("10.1.0.0/24", table=254, protocol=17, hops=hops[:1]),
        "new, one gateway, IPv6": new_route("fd01::/64", table=254, protocol=17, hops=(NextHop("fd00::1"),)),
        "replaced, two gateways": new_route("10.1.0.0/24", table=254, protocol=17, hops=hops, replace=True),
        "new, link, source, metric and table": new_route(
            "fd01::7/128", table=1000, protocol=17, metric=50, hops=(NextHop(link=7),), source="fd00::9"
        ),
        "new, gateway on a link": new_route("10.1.0.0/24", table=254, protocol=17, hops=(NextHop("192.168.0.1", 7, onlink=True),)),
        "new, three ways": new_route(
            "10.1.0.0/24", table=77, protocol=17, hops=(*hops[:1], NextHop(link=8), NextHop("192.168.0.3", 7, onlink=True))
        ),
        "delete": delete_route("10.1.0.0/24", table=254, protocol=17),
        "delete, IPv6": delete_route("fd01::/64", table=254, protocol=17),
        "look up": look_up("fd01::/64"),
        "dump": dump_routes(4, table=254, protocol=17),
        "dump, IPv6, another table": dump_routes(6, table=1000),
    }
    golden("netlink_routes.txt", "".join(f"{name}\n{rows(message)}" for name, message in messages.items()))


@pytest.mark.parametrize(
    ("replace", "flags"),
    [(False, REQUEST | CREATE | EXCLUSIVE), (True, REQUEST | CREATE | REPLACE)],
)
def test_only_a_replacement_may_take_the_place_of_a_route(replace: bool, flags: int) -> None:
    assert new_route("10.1.0.0/24", table=254, protocol=17, hops=(NextHop("10.0.0.1"),), replace=replace).flags == flags
    assert dump_routes(4, table=254).flags == REQUEST | DUMP


def networks(family: int) -> st.SearchStrategy[str]:
    bits = 32 if family == 4 else 128
    length = st.integers(0, bits)
    number = st.integers(0, 2**bits - 1)
    make = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    return st.builds(lambda n, size: str(make((n, size), strict=False)), number, length)


@given(st.data(), st.sampled_from([4, 6]))
def test_what_a_message_asks_for_is_what_is_read_of_it(data: st.DataObject, family: int) -> None:
    address = st.ip_addresses(v=4 if family == 4 else 6).map(str)
    prefix = data.draw(networks(family))
    links = st.integers(1, 2**31 - 1)
    hops = st.builds(NextHop, address, st.just(0) | links, st.booleans()) | st.builds(NextHop, st.just(""), links)
    assert family_of(prefix) == family
    wanted = Found(
        prefix=prefix,
        table=data.draw(st.sampled_from([254, 77, 1000])),
        protocol=data.draw(st.integers(1, 255)),
        metric=data.draw(st.integers(0, 1023)),
        hops=tuple(sorted(data.draw(st.sets(hops, max_size=4)))),
        source=data.draw(st.just("") | address),
    )
    message = new_route(
        wanted.prefix,
        table=wanted.table,
        protocol=wanted.protocol,
        metric=wanted.metric,
        hops=wanted.hops,
        source=wanted.source,
    )
    assert parse_route(reply(message.payload)) == wanted


@pytest.mark.parametrize(("tos", "flags"), [(4, 0), (0, 0x200)])
def test_routes_by_type_of_service_and_cached_destinations_are_no_plain_routes(tos: int, flags: int) -> None:
    assert parse_route(reply(ROUTE_MESSAGE.pack(2, 0, 0, tos, 254, 17, 0, 1, flags))) is None


def test_a_default_route_names_no_destination() -> None:
    for number, prefix in ((2, "0.0.0.0/0"), (10, "::/0")):
        found = parse_route(reply(ROUTE_MESSAGE.pack(number, 0, 0, 0, 254, 17, 0, 1, 0)))
        assert found is not None
        assert found.prefix == prefix


def test_next_hops_cut_short_are_a_value_error() -> None:
    message = new_route("10.1.0.0/24", table=254, protocol=17, hops=(NextHop("10.0.0.1"), NextHop("10.0.0.2")))
    payload = bytearray(message.payload)
    hops = payload.rindex(bytes((16, 0, 0, 0)))
    payload[hops] = 99
    with pytest.raises(ValueError, match="next hop of 99 octets"):
        parse_route(reply(bytes(payload)))
