"""What goes to whom: defined sets, the two policies of statements over them, and their assignment to the speaker.

| path                     | to another node | from another node        |
|--------------------------|-----------------|--------------------------|
| own pod ranges           | yes             |                          |
| anything else            | no              | accepted, but for:       |
| default routes, our VIPs |                 | rejected                 |

No statement ever names an empty neighbour set, which would match every neighbour: it is left out. Names are the original's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired
from kube_router.desired.routing.speaker import primary
from kube_router.kit.net import FAMILIES, Family, family_of, host_prefix, of_family
from kube_router.model.objects import Node
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSet,
    DefinedSetKey,
    PolicyKey,
    Statement,
)

EXPORT: Final = "kube_router_export"
IMPORT: Final = "kube_router_import"
PODS: Final = "podcidrdefinedset"
VIPS: Final = "servicevipsdefinedset"
DEFAULT_ROUTE: Final = "defaultroutedefinedset"
CUSTOM_REJECT: Final = "customimportrejectdefinedset"
IBGP_PEERS: Final = "iBGPpeerset"
ALL_PEERS: Final = "allpeerset"


def twin(name: str, family: Family) -> str:
    """Name of a defined set in a family."""
    return name if family == 4 else name + "v6"


def rules(own: Node | None, nodes: Iterable[Node], options: Options) -> Desired:
    """Defined sets, the two policies and their assignments. Without our Node object nothing, as there is no speaker then."""
    if own is None or not own.addresses:
        return NOTHING
    peers = sorted({primary(node) for node in nodes if node.addresses})
    pods = tuple(cidr for cidr in own.pod_cidrs if family_of(cidr) in options.families)
    sets = {**_prefix_sets(pods), **_neighbor_sets(peers)}
    return Desired({**sets, **_policies(sets)})


def _prefix_sets(pods: tuple[str, ...]) -> dict[Key, Value]:
    sets: dict[Key, Value] = {}
    for family in FAMILIES:
        exact = (f"{cidr} {length}..{length}" for cidr in of_family(pods, family) for length in [cidr.partition("/")[2]])
        default = "0.0.0.0/0 0..0" if family == 4 else "::/0 0..0"
        for name, members in ((PODS, tuple(sorted(exact))), (VIPS, ()), (DEFAULT_ROUTE, (default,)), (CUSTOM_REJECT, ())):
            sets[DefinedSetKey("prefix", twin(name, family))] = DefinedSet(members)
    return sets


def _neighbor_sets(peers: list[str]) -> dict[Key, Value]:
    sets: dict[Key, Value] = {}
    for family in FAMILIES:
        members = DefinedSet(tuple(sorted(host_prefix(address) for address in peers if family_of(address) == family)))
        for name in (IBGP_PEERS, ALL_PEERS):
            sets[DefinedSetKey("neighbor", twin(name, family))] = members
    return sets


def _policies(sets: dict[Key, Value]) -> dict[Key, Value]:
    exports = _statements(sets, prefixes=(PODS,), neighbors=IBGP_PEERS, accept=True)
    imports = _statements(sets, prefixes=(VIPS, DEFAULT_ROUTE, CUSTOM_REJECT), neighbors=ALL_PEERS, accept=False)
    return {
        PolicyKey(EXPORT): BgpPolicy(exports),
        PolicyKey(IMPORT): BgpPolicy(imports),
        AssignmentKey("export"): Assignment((EXPORT,), default_accept=False),
        AssignmentKey("import"): Assignment((IMPORT,), default_accept=True),
    }


def _statements(sets: dict[Key, Value], *, prefixes: tuple[str, ...], neighbors: str, accept: bool) -> tuple[Statement, ...]:
    """One statement for each pair of a prefix set and a neighbour set that both have members, in the original's order."""
    return tuple(
        Statement(prefix_set + neighbor_set, prefix_set, neighbor_set, accept)
        for neighbor_set in _filled(sets, "neighbor", (neighbors,))
        for prefix_set in _filled(sets, "prefix", prefixes)
    )


def _filled(sets: dict[Key, Value], kind: str, names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        for family in FAMILIES:
            value = sets[DefinedSetKey(kind, twin(name, family))]
            if isinstance(value, DefinedSet) and value.members:
                found.append(twin(name, family))
    return found
