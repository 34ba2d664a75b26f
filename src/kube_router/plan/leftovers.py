"""Rules that the original puts straight into built-in chains, where no chain of ours tells whose they are: known by their shape alone.

Each shape is one that nobody else writes by chance: sets of ours by name, the original's own comments, an empty comment behind a match
on IPVS, the bridge of ours. A rule that sets a mark has no such sign; what tells it is the mark itself, a hash of address, protocol
and port, which whoever asks must be able to check.

They are never wanted. They go once what does their work stands (plan/order.py), and with a cleanup.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from kube_router.kit.net import canonical_address
from kube_router.model import names
from kube_router.model.objects import Claim
from kube_router.plan.ownership import PROXY, ROUTING

# Whether a mark is one that the original gives to packets to a claim.
Proof = Callable[[int, Claim], bool]


class _Shape(NamedTuple):
    owner: str
    table: str
    builtins: tuple[str, ...]
    rule: re.Pattern[str]


_IPVS: Final = r"-m ipvs (?:--ipvs )?--vdir ORIGINAL --vmethod MASQ"
_ACCEPTED: Final = (
    r'-o \S+ -m comment --comment "allow outbound node port traffic on node interface with which node ip is associated"'
    rf'|-o {names.BRIDGE} -m comment --comment "allow inbound traffic to pods"'
    rf'|-i {names.BRIDGE} -m comment --comment "allow outbound traffic from pods"'
)
_SET: Final = rf"-m set (?:! )?--match-set (?:{re.escape(names.IPV6_SET_PREFIX)})?"
_SHAPES: Final = (
    _Shape(
        PROXY,
        "nat",
        ("POSTROUTING",),
        re.compile(rf'(?:! -s \S+ ! -d \S+ )?{_IPVS} -m comment --comment "" -j (?:SNAT --to-source \S+|MASQUERADE)(?: --random-fully)?'),
    ),
    _Shape(
        ROUTING,
        "nat",
        ("POSTROUTING",),
        re.compile(
            rf"{_SET}{names.POD_SUBNETS} src {_SET}{names.POD_SUBNETS} dst {_SET}{names.NODE_IPS} dst -j MASQUERADE(?: --random-fully)?"
        ),
    ),
    _Shape(ROUTING, "filter", ("FORWARD",), re.compile(rf"(?:{_ACCEPTED}) -j ACCEPT")),
    _Shape(
        PROXY,
        "mangle",
        ("PREROUTING",),
        re.compile(rf"-s \S+ -i {names.BRIDGE} -p tcp -m tcp --sport \d+ --tcp-flags SYN,RST SYN -j TCPMSS --set-mss \d+"),
    ),
)
_MARKED: Final = re.compile(
    r"-d (?P<address>\S+)/(?:32|128) -p (?P<protocol>tcp|udp|sctp) -m (?P=protocol) --dport (?P<port>\d+) "
    r"-j MARK --set-xmark (?P<mark>0x[0-9a-f]+)/0xffffffff"
)
_MARKING: Final = ("PREROUTING", "OUTPUT")
_TARGETS: Final = ("SNAT", "MASQUERADE", "ACCEPT", "TCPMSS", "MARK")


def owner(table: str, builtin: str, rule: str, proof: Proof) -> str | None:
    """Controller that takes a rule of a built-in chain for the original's; None when it is somebody else's."""
    if not any(f"-j {target}" in rule for target in _TARGETS):
        return None
    if marked := marking(table, builtin, rule):
        return PROXY if proof(marked[1], marked[0]) else None
    return next(
        (shape.owner for shape in _SHAPES if shape.table == table and builtin in shape.builtins and shape.rule.fullmatch(rule)), None
    )


def marking(table: str, builtin: str, rule: str) -> tuple[Claim, int] | None:
    """Address, protocol and port, and the mark that the rule gives to packets to it; None for a rule of another shape."""
    found = _MARKED.fullmatch(rule) if table == "mangle" and builtin in _MARKING else None
    if found is None:
        return None
    try:
        address = canonical_address(found["address"])
    except ValueError:
        return None
    return Claim(address, found["protocol"].upper(), int(found["port"])), int(found["mark"], 16)
