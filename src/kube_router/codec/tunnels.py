"""Tunnels as rtnetlink link messages (linux/if_link.h, linux/if_tunnel.h): IP in IP, IPv6 tunnels, both also inside generic UDP
encapsulation (GUE), and one VXLAN link.

A node of a large cluster has a thousand of them, so they are packed by hand and sent by the hundred (docs/adr/0007-batched-netlink.md).
What an encapsulation comes to is one table of attributes here: those of the original, as it makes the link itself (IP in IP) or has
`ip link` make it (GUE). It is written whole, and what a link is found to have beside it is named.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from kube_router.codec.netlink import CREATE, DUMP, EXCLUSIVE, NESTED, REQUEST, U16, U32, Message, Reply, attribute, attributes
from kube_router.codec.rtnetlink import packed, text
from kube_router.kit.net import Family, family_of
from kube_router.model.names import VXLAN_ID
from kube_router.model.state.tunnels import Tunnel

KINDS: Final = frozenset({"ipip", "ip6tnl", "vxlan"})

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18  # RTM_*
_IFINFO: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, changed flags
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 4, 18, 29
_INFO_KIND, _INFO_DATA = 1, 2
_SKIP_STATISTICS: Final = 8  # RTEXT_FILTER_SKIP_STATS
_UP: Final = 1  # IFF_UP

_GUE: Final = 2  # TUNNEL_ENCAP_GUE
_CSUM6: Final = 2  # TUNNEL_ENCAP_FLAG_CSUM6: UDP over IPv6 needs its checksum (RFC 8200 8.1)
_KERNELS_FLAGS: Final = 0xFFFF0000  # IP6_TNL_F_CAP_*: what the kernel found the addresses fit for


class _Field(NamedTuple):
    """An attribute of a tunnel: its number in the kernel, and the form of its value."""

    number: int
    form: struct.Struct


_BYTE: Final = struct.Struct("=B")
_PORT: Final = struct.Struct(">H")
_BIG: Final = struct.Struct(">I")

# IFLA_IPTUN_* and IFLA_VXLAN_*.
_IPTUN: Final = {
    "link": _Field(1, U32),
    "ttl": _Field(4, _BYTE),
    "tos": _Field(5, _BYTE),
    "encap limit": _Field(6, _BYTE),
    "flow": _Field(7, _BIG),
    "flags": _Field(8, U32),
    "protocol": _Field(9, _BYTE),
    "path MTU discovery": _Field(10, _BYTE),
    "encap": _Field(15, U16),
    "encap flags": _Field(16, U16),
    "encap source port": _Field(17, _PORT),
    "encap port": _Field(18, _PORT),
}
_VXLAN: Final = {
    "id": _Field(1, U32),
    "link": _Field(3, U32),
    "ttl": _Field(5, _BYTE),
    "tos": _Field(6, _BYTE),
    "learning": _Field(7, _BYTE),
    "port": _Field(15, _PORT),
    "checksum": _Field(18, _BYTE),
}
_LOCAL: Final[dict[str, dict[Family, int]]] = {"ipip": {4: 2}, "ip6tnl": {6: 2}, "vxlan": {4: 4, 6: 17}}
_REMOTE: Final[dict[str, dict[Family, int]]] = {"ipip": {4: 3}, "ip6tnl": {6: 3}, "vxlan": {4: 2, 6: 16}}


class FoundLink(NamedTuple):
    """A link of a dump; `number` is its index. `tunnel` is None for one of another kind, which `kind` then names."""

    name: str
    number: int
    kind: str
    tunnel: Tunnel | None


def new_tunnel(name: str, wish: Tunnel, *, index: int = 0) -> Message:
    """Makes a tunnel that is up; EEXIST where its name is taken. With `index` only that the present one keeps (after it went)."""
    head = _IFINFO.pack(0, 0, index, _UP, _UP) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
    return Message(_NEW_LINK, REQUEST | CREATE | EXCLUSIVE, head + _body(wish))


def change_tunnel(index: int, wish: Tunnel) -> Message:
    """Makes a tunnel that is there as wished; EOPNOTSUPP or EINVAL where the kernel wants a new one for that."""
    return Message(_NEW_LINK, REQUEST, _IFINFO.pack(0, 0, index, _UP, _UP) + _body(wish))


def tell_mtu(index: int, mtu: int) -> tuple[Message, Message]:
    """Has the kernel's IPv6 notice an MTU: changing an IPv6 tunnel moves the link's without a word to it, and setting what is set
    already says nothing either (net/ipv6/ip6_tunnel.c). One more than it is to be never makes a packet too big."""
    more, right = (
        Message(_NEW_LINK, REQUEST, _IFINFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_MTU, U32.pack(value))) for value in (mtu + 1, mtu)
    )
    return more, right


def delete_link(index: int) -> Message:
    """Takes a link away, with all routes and entries over it."""
    return Message(_DELETE_LINK, REQUEST, _IFINFO.pack(0, 0, index, 0, 0))


def dump_links() -> Message:
    """Asks for all links with their details."""
    mask = attribute(_IFLA_EXT_MASK, U32.pack(_SKIP_STATISTICS))
    return Message(_GET_LINK, REQUEST | DUMP, _IFINFO.pack(0, 0, 0, 0, 0) + mask)


def parse_link(reply: Reply) -> FoundLink:
    """One link of a dump."""
    _, _, index, flags, _ = _IFINFO.unpack_from(reply.payload)
    found = attributes(reply.payload[_IFINFO.size :])
    info = attributes(found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else {}
    kind = _string(info.get(_INFO_KIND))
    tunnel = None
    if kind in KINDS:
        data = attributes(info[_INFO_DATA]) if _INFO_DATA in info else {}
        mtu = U32.unpack(found[_IFLA_MTU])[0] if _IFLA_MTU in found else 0
        mac = bytes(found[_IFLA_ADDRESS]).hex(":") if kind == "vxlan" and _IFLA_ADDRESS in found else ""
        tunnel = _tunnel(kind, data, mtu=mtu, mac=mac, up=bool(flags & _UP))
    return FoundLink(_string(found.get(_IFLA_IFNAME)), index, kind, tunnel)


def _tunnel(kind: str, data: Mapping[int, memoryview], *, mtu: int, mac: str, up: bool) -> Tunnel:
    fields = _VXLAN if kind == "vxlan" else _IPTUN
    values = {name: _value(name, data[field.number], field.form) for name, field in fields.items() if field.number in data}
    port = values.get("port", 0) if kind == "vxlan" else values.get("encap port", 0) if values.get("encap") == _GUE else 0
    right = _attributes(kind, port)
    return Tunnel(
        kind,
        local=_address(data, _LOCAL[kind]),
        remote=_address(data, _REMOTE[kind]),
        port=port,
        mtu=mtu,
        mac=mac,
        up=up,
        odd=tuple(f"{name} {value}" for name, value in sorted(values.items()) if not _is_right(kind, name, value, right)),
    )


def _is_right(kind: str, name: str, value: int, right: Mapping[str, int]) -> bool:
    if kind == "ipip" and name == "protocol":
        # The kernel keeps it when a tunnel changes (ip_tunnel_update): any protocol, or IPv4 alone, which is all that we send.
        return value in (0, socket.IPPROTO_IPIP)
    return value == right.get(name, 0)


def _attributes(kind: str, port: int) -> dict[str, int]:
    """All attributes of a tunnel, but for its ends, that are not 0."""
    if kind == "vxlan":
        return {"id": VXLAN_ID, "port": port, "checksum": 1}
    if not port:
        return {}  # time to live and the rest from the packet inside
    gue = {"ttl": 225, "encap": _GUE, "encap port": port}
    if kind == "ipip":
        return gue | {"protocol": socket.IPPROTO_IPIP, "path MTU discovery": 1}
    return gue | {"protocol": socket.IPPROTO_IPV6, "encap limit": 4, "encap flags": _CSUM6}


def _body(wish: Tunnel) -> bytes:
    body = attribute(_IFLA_MTU, U32.pack(wish.mtu)) if wish.mtu else b""
    if wish.mac:
        body += attribute(_IFLA_ADDRESS, bytes.fromhex(wish.mac.replace(":", "")))
    info = attribute(_INFO_KIND, wish.kind.encode() + b"\0") + attribute(_INFO_DATA | NESTED, b"".join(_data(wish)))
    return body + attribute(_IFLA_LINKINFO | NESTED, info)


def _data(wish: Tunnel) -> Iterator[bytes]:
    family = family_of(wish.local)
    yield attribute(_LOCAL[wish.kind][family], packed(wish.local, family))
    if wish.remote:
        yield attribute(_REMOTE[wish.kind][family], packed(wish.remote, family))
    right = _attributes(wish.kind, wish.port)
    for name, (number, form) in _fields(wish.kind):
        yield attribute(number, form.pack(right.get(name, 0)))


def _fields(kind: str) -> Iterator[tuple[str, _Field]]:
    only = {"ipip": {"encap limit", "flow", "flags"}, "ip6tnl": {"tos", "path MTU discovery"}, "vxlan": {"link", "ttl", "tos"}}
    for name, field in (_VXLAN if kind == "vxlan" else _IPTUN).items():
        if name not in only[kind]:
            yield name, field


def _value(name: str, octets: memoryview, form: struct.Struct) -> int:
    value: int = form.unpack(octets[: form.size])[0]
    return value & ~_KERNELS_FLAGS if name == "flags" else value


def _address(data: Mapping[int, memoryview], numbers: Mapping[Family, int]) -> str:
    for family, number in numbers.items():
        if number in data and any(data[number]):
            return text(data[number], family)
    return ""


def _string(octets: memoryview | None) -> str:
    return "" if octets is None else bytes(octets).rstrip(b"\0").decode(errors="replace")
