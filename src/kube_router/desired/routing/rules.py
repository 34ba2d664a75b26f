"""What goes to whom: defined sets, the two policies of statements over them, and their assignment to the speaker.

| path                        | to a node's session | from a reflector   | to an external peer      | accepted from anybody |
|-----------------------------|---------------------|--------------------|--------------------------|-----------------------|
| own pod ranges              | yes                 | yes                | with --advertise-pod-cidr |                      |
| another node's pod ranges   | no                  | yes                | no                       | yes                   |
| VIPs announced by this node | no                  | no                 | yes                      | no                    |
| learned from outside        | no                  | no                 | no                       | yes                   |
| default routes              | no                  | no                 | no                       | no                    |

Names are the original's. No statement ever names an empty neighbour set, which would match every neighbour: this node is a member of
its sets of nodes, and the other family's twins are named by no statement, as no session of a node is of that family. An empty set of
VIPs matches nothing, and its statements stand as soon as there is somebody to send VIPs to: the first VIP changes no policy.
"""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired
from kube_router.desired.routing.speaker import primary
from kube_router.kit.net import FAMILIES, Family, family_of, host_prefix, of_family
from kube_router.model import names
from kube_router.model.names import bgp_set
from kube_router.model.objects import Node
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSet,
    DefinedSetKey,
    DefinedSetMember,
    Listed,
    NeighborKey,
    PolicyKey,
    Statement,
)

_SET = DefinedSet()
_LISTED = Listed()
_DEFAULT: dict[Family, str] = {4: "0.0.0.0/0 0..0", 6: "::/0 0..0"}


def rules(own: Node | None, options: Options) -> Desired:
    """Defined sets with this node's part of them, the two policies and their assignments.

    Without our Node object nothing, as there is no speaker then.
    """
    if own is None or not own.addresses:
        return NOTHING
    pods = tuple(cidr for cidr in own.pod_cidrs if family_of(cidr) in options.families)
    state: dict[Key, Value] = {}
    for family in FAMILIES:
        for base, prefixes in (
            (names.BGP_PODS, [exactly(cidr) for cidr in of_family(pods, family)]),
            (names.BGP_VIPS, []),
            (names.BGP_DEFAULT_ROUTE, [_DEFAULT[family]]),
            (names.BGP_CUSTOM_REJECT, []),
        ):
            state |= _defined("prefix", bgp_set(base, family), prefixes)
        for base in (names.BGP_NODE_PEERS, names.BGP_ALL_PEERS):
            state |= _defined("neighbor", bgp_set(base, family), [host_prefix(a) for a in of_family((primary(own),), family)])
    return Desired(state | _policies(own, {family for family in FAMILIES if of_family(pods, family)}))


def memberships(of: Iterable[Key]) -> dict[Key, Value]:
    """The set members that go with sessions with nodes."""
    return {
        DefinedSetMember("neighbor", bgp_set(base, family_of(key.address)), host_prefix(key.address)): _LISTED
        for key in of
        if isinstance(key, NeighborKey)
        for base in (names.BGP_NODE_PEERS, names.BGP_ALL_PEERS)
    }


def exactly(cidr: str) -> str:
    """A member that matches this prefix and nothing inside it."""
    length = cidr.partition("/")[2]
    return f"{cidr} {length}..{length}"


def _defined(kind: str, name: str, members: Iterable[str]) -> dict[Key, Value]:
    return {DefinedSetKey(kind, name): _SET} | {DefinedSetMember(kind, name, member): _LISTED for member in members}


def _policies(own: Node, pods: set[Family]) -> dict[Key, Value]:
    mesh = family_of(primary(own))
    nodes, everybody = bgp_set(names.BGP_NODE_PEERS, mesh), bgp_set(names.BGP_ALL_PEERS, mesh)
    exports = tuple(_statement(bgp_set(names.BGP_PODS, family), nodes, accept=True) for family in FAMILIES if family in pods)
    imports = tuple(
        _statement(bgp_set(base, family), everybody, accept=False)
        for base in (names.BGP_VIPS, names.BGP_DEFAULT_ROUTE)
        for family in FAMILIES
    )
    return {
        PolicyKey(names.BGP_EXPORT): BgpPolicy(exports),
        PolicyKey(names.BGP_IMPORT): BgpPolicy(imports),
        AssignmentKey("export"): Assignment((names.BGP_EXPORT,), default_accept=False),
        AssignmentKey("import"): Assignment((names.BGP_IMPORT,), default_accept=True),
    }


def _statement(prefixes: str, neighbors: str, *, accept: bool) -> Statement:
    return Statement(prefixes + neighbors, prefixes, neighbors, accept)
