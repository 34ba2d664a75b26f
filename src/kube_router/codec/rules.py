"""Rule text, spelled exactly as `iptables-save` prints it, so that what is wanted and what is observed compare as strings.

A rule is the text behind `-A CHAIN `: header (addresses, links, protocol), matches in the order given, target. The
functions here are the only place that knows the spelling of each; text put together otherwise may load well and yet
differ for ever from what the kernel's tools print. Both backends of iptables 1.8 print the same text.

    rule(ACCEPT, comment("pods may talk out"), in_link="kube-bridge")
    rule(jump("KUBE-POD-FW-X"), match_set("KUBE-POD-X", "dst"), ports("tcp", 80, 90), protocol="tcp")
    rule(reject(family), match_set("kube-router-local-ips", "dst", negate=True))

Reading and writing whole tables is codec/tables.py. Nothing here checks what a rule means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kube_router.kit.net import Family, host_prefix

ACCEPT: Final = "-j ACCEPT"
DROP: Final = "-j DROP"
RETURN: Final = "-j RETURN"
CLAMP_MSS: Final = "-j TCPMSS --clamp-mss-to-pmtu"

PHYSDEV_BRIDGED: Final = "-m physdev --physdev-is-bridged"
TCP_SYN: Final = "-m tcp --tcp-flags SYN,RST SYN"

COMMENT_BYTES: Final = 255  # XT_MAX_COMMENT_LEN of linux/netfilter/xt_comment.h, less the closing zero
CHAIN_NAME_BYTES: Final = 28  # XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, less the closing zero

# The IANA names by which iptables prints protocols; other protocols are given by number or by their name in /etc/protocols.
_PROTOCOL_NAMES: Final = {"icmpv6": "ipv6-icmp", "1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "132": "sctp"}
ICMP_PROTOCOL: Final[dict[Family, str]] = {4: "icmp", 6: "ipv6-icmp"}

# ICMP types by their names in RFC 792 and RFC 4443; `iptables-save` prints numbers.
ICMP_TYPES: Final[dict[Family, dict[str, int]]] = {
    4: {"echo-reply": 0, "destination-unreachable": 3, "echo-request": 8, "time-exceeded": 11, "parameter-problem": 12},
    6: {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "router-solicitation": 133,
        "router-advertisement": 134,
        "neighbor-solicitation": 135,
        "neighbor-advertisement": 136,
    },
}
_ICMP_MATCH: Final[dict[Family, str]] = {4: "-m icmp --icmp-type", 6: "-m icmp6 --icmpv6-type"}
_UNREACHABLE: Final[dict[Family, str]] = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}

_STATES: Final = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")  # order of libxt_conntrack
_UNQUOTED: Final = frozenset("_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

# Instructions of packet filter programs (linux/bpf_common.h), and where the 32-bit words of both addresses stand in a header.
_LOAD, _COPY, _JUMP_IF_EQUAL, _ANSWER = 0x20, 0x07, 0x1D, 0x06  # LD|W|ABS, MISC|TAX, JMP|JEQ|X, RET|K
_LOAD_OCTET, _AND, _JUMP_IF = 0x30, 0x54, 0x15  # LD|B|ABS, ALU|AND|K, JMP|JEQ|K
_COMPARISON: Final = 4  # instructions for a word
_ADDRESS_WORDS: Final[dict[Family, tuple[tuple[int, int], ...]]] = {4: ((12, 16),), 6: tuple((8 + 4 * n, 24 + 4 * n) for n in range(4))}

_LIMIT_SCALE: Final = 10_000  # XT_LIMIT_SCALE of linux/netfilter/xt_limit.h: ticks a second
_LIMIT_UNITS: Final = {"day": _LIMIT_SCALE * 86_400, "hour": _LIMIT_SCALE * 3_600, "min": _LIMIT_SCALE * 60, "sec": _LIMIT_SCALE}
_LIMIT_BURST: Final = 5  # default of libxt_limit, not printed


def rule(
    target: str,
    *matches: str,
    source: str = "",
    destination: str = "",
    in_link: str = "",
    out_link: str = "",
    protocol: str = "",
) -> str:
    """A whole rule: `target` is one of the constants or comes from `jump`, `goto`, `reject`, ... ("" only counts); empty matches
    are left out.

    Header values may start with "!" to be negated; ValueError when that leaves nothing. `source` and `destination` are a
    canonical address or CIDR; the whole world ("0.0.0.0/0", "::/0") is the same as none.
    """
    head = matching(*matches, source=source, destination=destination, in_link=in_link, out_link=out_link, protocol=protocol)
    return f"{head} {target}".strip()


def matching(*matches: str, source: str = "", destination: str = "", in_link: str = "", out_link: str = "", protocol: str = "") -> str:
    """What stands before the target, as `Jump.match` wants it; arguments as for `rule`."""
    parts = [
        _negatable("-s", source, _prefix),
        _negatable("-d", destination, _prefix),
        _negatable("-i", in_link, str),
        _negatable("-o", out_link, str),
        _negatable("-p", protocol, protocol_name),
        *matches,
    ]
    return " ".join(part for part in parts if part)


def protocol_name(protocol: str) -> str:
    """The name that `iptables-save` prints: lower case, "ipv6-icmp" for ICMPv6; "all" and "0" are no protocol."""
    name = _PROTOCOL_NAMES.get(protocol.lower(), protocol.lower())
    return "" if name in ("all", "0") else name


# -- matches --------------------------------------------------------------------------------------------------------------


def comment(text: str) -> str:
    """A comment; control characters become spaces, and it is cut to the 255 bytes that the kernel keeps."""
    visible = "".join(char if char.isprintable() else " " for char in text)
    kept = visible.encode()[:COMMENT_BYTES].decode(errors="ignore")
    return f"-m comment --comment {quoted(kept)}"


def match_set(name: str, *directions: str, negate: bool = False) -> str:
    """Packet fields against a set; one direction ("src" or "dst") per dimension of the set's type."""
    return f"-m set {_bang(negate)}--match-set {name} {','.join(directions)}"


def ports(protocol: str, first: int, last: int | None = None) -> str:
    """Destination port or inclusive range of tcp, udp or sctp; needs the same `protocol` in the header."""
    return _port_match(protocol, "--dport", first, last)


def source_ports(protocol: str, first: int, last: int | None = None) -> str:
    """Source port or inclusive range of tcp, udp or sctp; needs the same `protocol` in the header."""
    return _port_match(protocol, "--sport", first, last)


def multiport(*pieces: int | tuple[int, int]) -> str:
    """Destination port among up to 15 numbers and ranges (a range counts twice); needs a protocol in the header."""
    return "-m multiport --dports " + ",".join(_range(*piece) if isinstance(piece, tuple) else str(piece) for piece in pieces)


def ctstate(*states: str, negate: bool = False) -> str:
    """State of the connection, any of those named; ValueError for an unknown state."""
    if unknown := set(states) - set(_STATES):
        raise ValueError(f"unknown connection states {sorted(unknown)}")
    return f"-m conntrack {_bang(negate)}--ctstate {','.join(state for state in _STATES if state in states)}"


def addrtype(*, source: str = "", destination: str = "") -> str:
    """Kind of address by the routing table ("LOCAL", "UNICAST", ...), as route lookup sees it on this host."""
    parts = ("--src-type", source), ("--dst-type", destination)
    return "-m addrtype " + " ".join(f"{option} {kind}" for option, kind in parts if kind)


def icmp_type(family: Family, name: str) -> str:
    """ICMP type by name (ICMP_TYPES); needs `protocol=ICMP_PROTOCOL[family]`. KeyError for a name that the family lacks."""
    return f"{_ICMP_MATCH[family]} {ICMP_TYPES[family][name]}"


def match_mark(value: int, mask: int = 0xFFFFFFFF, *, negate: bool = False) -> str:
    """Mark of the packet under a mask."""
    masked = "" if mask == 0xFFFFFFFF else f"/{mask:#x}"
    return f"-m mark {_bang(negate)}--mark {value:#x}{masked}"


def limit(rate: int, unit: str, *, burst: int = _LIMIT_BURST) -> str:
    """At most `rate` packets a "sec", "min", "hour" or "day" on average, after a burst. `iptables-save` prints the rate in the
    largest unit in which the kernel's period keeps its precision, so does this."""
    period = _LIMIT_UNITS[unit] // rate
    printed = "day"
    for name, ticks in list(_LIMIT_UNITS.items())[1:]:
        if period > ticks or ticks // period < ticks % period:
            break
        printed = name
    text = f"-m limit --limit {_LIMIT_UNITS[printed] // period}/{printed}"
    return text if burst == _LIMIT_BURST else f"{text} --limit-burst {burst}"


def ipvs(*, protocol: int = 0, address: str = "", port: int = 0, direction: str = "", method: str = "") -> str:
    """Packets of IPVS connections: of any, or by protocol number, VIP address and port, direction ("ORIGINAL", "REPLY") and forwarding
    method ("GATE", "IPIP", "MASQ"). Any of these implies that the connection is one of IPVS, which is printed only alone."""
    parts = (
        f"--vproto {protocol}" if protocol else "",
        f"--vaddr {address}" if address else "",
        f"--vport {port}" if port else "",
        f"--vdir {direction}" if direction else "",
        f"--vmethod {method}" if method else "",
    )
    return "-m ipvs " + (" ".join(part for part in parts if part) or "--ipvs")


def longer_than(size: int) -> str:
    """Packets of more octets than this, headers included. What a link put together on its way in (GRO) counts as one."""
    return f"-m length --length {size + 1}:65535"


def must_not_be_cut() -> str:
    """IPv4 packets whose sender forbids fragments; a program like that of `to_itself`."""
    return f'-m bpf --bytecode "5,{_LOAD_OCTET} 0 0 6,{_AND} 0 0 64,{_JUMP_IF} 0 1 64,{_ANSWER} 0 0 65535,{_ANSWER} 0 0 0"'


def to_itself(family: Family) -> str:
    """Packets whose source is their destination. No other match compares two fields; this one is a program in the machine language of
    packet filters (linux/filter.h), which compares the addresses word by word."""
    words = _ADDRESS_WORDS[family]
    program: list[str] = []
    for number, (source, destination) in enumerate(words):
        left = _COMPARISON * (len(words) - number - 1) + 1  # instructions between this comparison and the last, which says no
        program += [f"{_LOAD} 0 0 {destination}", f"{_COPY} 0 0 0", f"{_LOAD} 0 0 {source}", f"{_JUMP_IF_EQUAL} 0 {left} 0"]
    program += [f"{_ANSWER} 0 0 65535", f"{_ANSWER} 0 0 0"]
    return f'-m bpf --bytecode "{len(program)},{",".join(program)}"'


# -- targets --------------------------------------------------------------------------------------------------------------


def jump(chain: str) -> str:
    """Go to a chain and come back."""
    return f"-j {_chain_name(chain)}"


def goto(chain: str) -> str:
    """Go to a chain; its RETURN returns to our caller."""
    return f"-g {_chain_name(chain)}"


def reject(family: Family, reason: str = "") -> str:
    """Refuse with an ICMP error (port unreachable unless said otherwise) or "tcp-reset", which needs `protocol="tcp"`."""
    return f"-j REJECT --reject-with {reason or _UNREACHABLE[family]}"


def snat(address: str, *, random_fully: bool = True) -> str:
    """Rewrite the source; ports drawn at random lest parallel lookups collide in conntrack."""
    return f"-j SNAT --to-source {address}{' --random-fully' if random_fully else ''}"


def masquerade(*, random_fully: bool = True) -> str:
    """Rewrite the source to the outgoing link's address."""
    return f"-j MASQUERADE{' --random-fully' if random_fully else ''}"


def set_mark(value: int, mask: int = 0xFFFFFFFF) -> str:
    """Write the masked bits of the packet's mark, keep the others."""
    return f"-j MARK --set-xmark {value:#x}/{mask:#x}"


def map_mark(name: str, *directions: str) -> str:
    """Write into the packet's mark what the set says of its entry; a packet that is not in the set keeps its own. Mangle table only."""
    return f"-j SET --map-set {name} {','.join(directions)} --map-mark"


def set_mss(size: int) -> str:
    """Write the MSS option of SYN packets; needs `protocol="tcp"` and TCP_SYN."""
    return f"-j TCPMSS --set-mss {size}"


def nflog(group: int, prefix: str = "") -> str:
    """Copy to a netlink log group; prefix of 63 bytes at most."""
    return f"-j NFLOG {f'--nflog-prefix {quoted(prefix)} ' if prefix else ''}--nflog-group {group}"


# -- spelling -------------------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """Text as xtables writes and reads it: bare when of letters, digits, "_" and "-" only, else in quotes with escapes."""
    if text and _UNQUOTED.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    return f'"{escaped}"'


def _negatable(option: str, value: str, spell: Callable[[str], str]) -> str:
    negate = value.startswith("!")
    spelt = spell(value[1:].lstrip() if negate else value)
    if negate and not spelt:
        raise ValueError(f"{option} {value!r} excludes everything")
    return f"{_bang(negate)}{option} {spelt}" if spelt else ""


def _prefix(address: str) -> str:
    if not address or address.endswith("/0"):
        return ""
    return address if "/" in address else host_prefix(address)


def _bang(negate: bool) -> str:
    return "! " if negate else ""


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}:{last}"


def _port_match(protocol: str, option: str, first: int, last: int | None) -> str:
    name = protocol_name(protocol)
    if (first, last) == (0, 65535):
        return f"-m {name}"  # every port is no condition, and printed as none
    return f"-m {name} {option} {_range(first, first if last is None else last)}"


def _chain_name(chain: str) -> str:
    if len(chain) > CHAIN_NAME_BYTES or not chain or " " in chain:
        raise ValueError(f"{chain!r} cannot name a chain")
    return chain
