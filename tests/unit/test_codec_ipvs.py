"""IPVS messages: what is packed is read back the same, and some are kept octet by octet."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.codec import ipvs
from kube_router.codec.netlink import DUMP, REQUEST, Message, Reply, attribute, attributes
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from tests.conftest import Golden

PACKER = ipvs.Packer(0x25)
WEB = VirtualServerKey("10.233.0.1", 6, 443, family=4)
WEB6 = VirtualServerKey("fd00:233::1", 17, 53, family=6)
MARK = VirtualServerKey("", 0, 0, mark=0x3FFF, family=4)

addresses4 = st.ip_addresses(v=4).map(str)
addresses6 = st.ip_addresses(v=6).map(str)
port_numbers = st.integers(1, 65535)
protocols = st.sampled_from([6, 17, 132])
servers = st.one_of(
    st.builds(VirtualServerKey, address=addresses4, protocol=protocols, port=port_numbers, family=st.just(4)),
    st.builds(VirtualServerKey, address=addresses6, protocol=protocols, port=port_numbers, family=st.just(6)),
    st.builds(
        VirtualServerKey,
        address=st.just(""),
        protocol=st.just(0),
        port=st.just(0),
        mark=st.integers(1, 2**32 - 1),
        family=st.sampled_from([4, 6]),
    ),
)
flags = st.integers(0, 0xFFFF).map(lambda bits: bits & ~ipvs.HASHED)


def values(key: VirtualServerKey) -> st.SearchStrategy[VirtualServer]:
    return st.builds(
        VirtualServer,
        scheduler=st.sampled_from(["rr", "lc", "mh", "wlc", "dh"]),
        flags=flags,
        timeout=st.integers(0, 86400),
        prefix=st.integers(0, 32) if key.family == 4 else st.integers(1, 128),
    )


def reply(message: Message) -> Reply:
    """A message as the kernel would send it: in a dump, services and destinations have the layout of requests."""
    return Reply(message.type, message.flags, 1, memoryview(message.payload))


@given(servers.flatmap(lambda key: st.tuples(st.just(key), values(key))))
def test_a_service_is_read_as_it_was_packed(service):
    key, value = service
    assert ipvs.parse_service(reply(PACKER.service(ipvs.NEW_SERVICE, key, value))) == (key, value)


@given(servers, st.one_of(addresses4, addresses6), port_numbers, st.integers(0, 65535), st.sampled_from([0, 1, 2, 3]))
def test_a_destination_is_read_as_it_was_packed(server, address, port, weight, forward):
    key, value = DestinationKey(server, address, port), Destination(weight, forward)
    assert ipvs.parse_destination(reply(PACKER.destination(ipvs.NEW_DEST, key, value)), server) == (key, value)


def dumped(key: DestinationKey, value: Destination, *, shuffled: bool) -> Reply:
    """A destination as kernels dump it (attributes in their order, then counters), or in another order."""
    packed = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}[6 if ":" in key.address else 4](key.address).packed
    family = socket.AF_INET6 if ":" in key.address else socket.AF_INET
    parts = [
        attribute(1, packed.ljust(16, b"\0")),
        attribute(2, key.port.to_bytes(2, "big")),
        attribute(3, struct.pack("=I", value.forward)),
        attribute(4, struct.pack("=I", value.weight)),
        attribute(15, b"\0"),
        *(attribute(kind, struct.pack("=I", 7)) for kind in (5, 6, 7, 8, 9)),
        attribute(11, struct.pack("=H", family)),
        attribute(10, attribute(1, struct.pack("=I", 12345))),
    ]
    nested = b"".join(reversed(parts) if shuffled else parts)
    return Reply(0x25, 2, 1, memoryview(bytes([ipvs.NEW_DEST, 1, 0, 0]) + attribute(2, nested)))


@given(servers, st.one_of(addresses4, addresses6), port_numbers, st.integers(0, 65535), st.sampled_from([0, 2]), st.booleans())
def test_a_destination_is_read_as_kernels_dump_it_and_in_any_other_order(server, address, port, weight, forward, shuffled):
    if forward == 0 and server.family != (6 if ":" in address else 4):
        forward = 2  # the kernel takes the other family for tunnels only
    key, value = DestinationKey(server, address, port), Destination(weight, forward)
    assert ipvs.parse_destination(dumped(key, value, shuffled=shuffled), server) == (key, value)


@given(servers, st.one_of(addresses4, addresses6), port_numbers)
def test_messages_are_whole_words_and_their_attributes_fill_them(server, address, port):
    for message in (
        PACKER.service(ipvs.NEW_SERVICE, server, VirtualServer(prefix=32)),
        PACKER.service(ipvs.DEL_SERVICE, server),
        PACKER.destination(ipvs.SET_DEST, DestinationKey(server, address, port), Destination()),
        PACKER.destination(ipvs.DEL_DEST, DestinationKey(server, address, port)),
    ):
        assert len(message.payload) % 4 == 0
        for nested in attributes(memoryview(message.payload)[4:]).values():
            assert attributes(nested)


@pytest.mark.parametrize(("prefix", "mask"), [(32, "255.255.255.255"), (24, "255.255.255.0"), (0, "0.0.0.0")])
def test_the_ipv4_persistence_mask_is_in_network_order(prefix, mask):
    payload = PACKER.service(ipvs.NEW_SERVICE, WEB, VirtualServer(flags=1, timeout=60, prefix=prefix)).payload
    netmask = attributes(attributes(memoryview(payload)[4:])[1])[9]
    assert bytes(netmask) == ipaddress.ip_address(mask).packed


def test_the_ipv6_persistence_mask_is_a_number_of_bits():
    payload = PACKER.service(ipvs.NEW_SERVICE, WEB6, VirtualServer(flags=1, timeout=60, prefix=128)).payload
    assert struct.unpack("=I", attributes(attributes(memoryview(payload)[4:])[1])[9]) == (128,)


def test_a_mask_that_is_no_prefix_is_told_from_every_prefix():
    good = PACKER.service(ipvs.NEW_SERVICE, WEB, VirtualServer(flags=1, timeout=60, prefix=32)).payload
    bad = good[:-4] + struct.pack("=I", 32)  # what the original writes: 32.0.0.0 on a little-endian machine
    _, value = ipvs.parse_service(Reply(0x25, 0, 1, memoryview(bad)))
    assert value.prefix == ipvs.NO_PREFIX


def test_the_kernels_own_flag_is_not_ours():
    payload = PACKER.service(ipvs.NEW_SERVICE, WEB, VirtualServer(flags=1 | ipvs.HASHED, prefix=32)).payload
    assert ipvs.parse_service(Reply(0x25, 0, 1, memoryview(payload)))[1].flags == 1


def test_dump_requests():
    assert PACKER.dump_services() == Message(0x25, REQUEST | DUMP, bytes([ipvs.GET_SERVICE, 1, 0, 0]))
    asked = PACKER.dump_destinations(WEB)
    assert asked.flags == REQUEST | DUMP
    assert socket.inet_aton("10.233.0.1") in asked.payload


@pytest.mark.parametrize("cut", [4, 8, 40])
def test_a_message_cut_short_is_a_value_error(cut):
    payload = PACKER.service(ipvs.NEW_SERVICE, WEB, VirtualServer()).payload[:cut]
    with pytest.raises(ValueError):
        ipvs.parse_service(Reply(0x25, 0, 1, memoryview(payload)))
    payload = PACKER.destination(ipvs.NEW_DEST, DestinationKey(WEB, "10.1.0.1", 80), Destination()).payload[:cut]
    with pytest.raises(ValueError):
        ipvs.parse_destination(Reply(0x25, 0, 1, memoryview(payload)), WEB)


def test_octets_are_as_kept(golden: Golden):
    """Little-endian: netlink is in the order of the machine, and the kept text comes from one of these."""
    sticky = VirtualServer("lc", flags=1, timeout=10800, prefix=32)
    dual = DestinationKey(WEB6, "fd00:64::7", 8053)
    messages = {
        "new service 10.233.0.1 tcp 443 lc, persistent 10800": PACKER.service(ipvs.NEW_SERVICE, WEB, sticky),
        "set service fd00:233::1 udp 53 rr": PACKER.service(ipvs.SET_SERVICE, WEB6, VirtualServer(prefix=128)),
        "new service mark 0x3fff rr": PACKER.service(ipvs.NEW_SERVICE, MARK, VirtualServer()),
        "delete service 10.233.0.1 tcp 443": PACKER.service(ipvs.DEL_SERVICE, WEB),
        "new destination 10.1.0.7:8443": PACKER.destination(ipvs.NEW_DEST, DestinationKey(WEB, "10.1.0.7", 8443), Destination()),
        "set destination [fd00:64::7]:8053 weight 0, tunnel": PACKER.destination(ipvs.SET_DEST, dual, Destination(0, 2)),
        "delete destination [fd00:64::7]:8053": PACKER.destination(ipvs.DEL_DEST, dual),
        "dump services": PACKER.dump_services(),
        "dump destinations of 10.233.0.1 tcp 443": PACKER.dump_destinations(WEB),
    }
    golden("netlink_ipvs.txt", "".join(f"{what}\n{rows(message)}\n" for what, message in messages.items()))


def rows(message: Message) -> str:
    text = message.payload.hex(" ", 4)
    lines = [text[n : n + 72].rstrip() for n in range(0, len(text), 72)]
    return f"  type {message.type:#x} flags {message.flags:#x}\n" + "".join(f"  {line}\n" for line in lines)
