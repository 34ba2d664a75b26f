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

from collections.abc import Container, Iterable, Iterator

import msgspec

from kube_router.codec import annotations as said
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired
from kube_router.desired.routing.datapath import session_addresses
from kube_router.desired.routing.external import external_peers
from kube_router.desired.routing.speaker import best, reflects
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
_LONGEST: dict[Family, int] = {4: 32, 6: 128}
_REFLECTED = "reflected"  # a statement of ours: the original's reflectors have no policies at all


class Terms(msgspec.Struct, frozen=True):
    """What flags and annotations of this node say beside its addresses and pod ranges.

    `externals`: addresses of its external peers. `prepend` (AS number, times), `communities` ("65000:1") and `next_hop_self` are
    for what is sent to these. `reject`: prefixes that nobody may send us, nor anything inside them. `reflects`: it is a route
    reflector. `mesh`: it peers with nodes.
    """

    externals: tuple[str, ...] = ()
    prepend: tuple[int, int] | None = None
    communities: tuple[str, ...] = ()
    next_hop_self: bool = False
    reject: tuple[str, ...] = ()
    reflects: bool = False
    pods_to_externals: bool = True
    mesh: bool = True


def terms(own: Node, options: Options) -> Terms:
    """What this node's flags and annotations say. Of the prefixes to reject those of a family that is off count as well."""
    return Terms(
        externals=tuple(peer.address for peer in external_peers(own, options)),
        prepend=said.prepend(own.annotations),
        communities=said.communities(own.annotations),
        next_hop_self=options.override_nexthop,
        reject=said.import_reject(own.annotations),
        reflects=reflects(own, options),
        pods_to_externals=options.advertise_pod_cidr,
        mesh=options.enable_ibgp,
    )


def rules(own: Node | None, terms: Terms, options: Options) -> Desired:
    """Defined sets with this node's part of them, the two policies and their assignments.

    Without our Node object nothing, as there is no speaker then.
    """
    if own is None or not own.addresses:
        return NOTHING
    pods = tuple(cidr for cidr in own.pod_cidrs if family_of(cidr) in options.families)
    return Desired(
        {
            **_prefix_sets(pods, terms),
            **_neighbor_sets(own, terms),
            PolicyKey(names.BGP_EXPORT): BgpPolicy((*_exports_to_nodes(own, pods, terms), *_exports_to_externals(own, pods, terms))),
            PolicyKey(names.BGP_IMPORT): BgpPolicy(_imports(own, terms)),
            AssignmentKey("export"): Assignment((names.BGP_EXPORT,), default_accept=False),
            AssignmentKey("import"): Assignment((names.BGP_IMPORT,), default_accept=True),
        }
    )


def memberships(of: Iterable[Key], externals: Container[str] = ()) -> dict[Key, Value]:
    """The set members that go with sessions with nodes. A node that is an external peer as well is sent what such a one is sent."""
    return {
        DefinedSetMember("neighbor", bgp_set(base, family_of(key.address)), host_prefix(key.address)): _LISTED
        for key in of
        if isinstance(key, NeighborKey) and key.address not in externals
        for base in (names.BGP_NODE_PEERS, names.BGP_ALL_PEERS)
    }


def exactly(cidr: str) -> str:
    """A member that matches this prefix and nothing inside it."""
    length = cidr.partition("/")[2]
    return f"{cidr} {length}..{length}"


def _and_inside(cidr: str) -> str:
    return f"{cidr} {cidr.partition('/')[2]}..{_LONGEST[family_of(cidr)]}"


def _prefix_sets(pods: Iterable[str], terms: Terms) -> dict[Key, Value]:
    state: dict[Key, Value] = {}
    for family in FAMILIES:
        state |= _defined("prefix", bgp_set(names.BGP_PODS, family), map(exactly, of_family(pods, family)))
        state |= _defined("prefix", bgp_set(names.BGP_VIPS, family), ())  # each Service adds its own
        state |= _defined("prefix", bgp_set(names.BGP_DEFAULT_ROUTE, family), (_DEFAULT[family],))
        state |= _defined("prefix", bgp_set(names.BGP_CUSTOM_REJECT, family), map(_and_inside, of_family(terms.reject, family)))
    return state


def _neighbor_sets(own: Node, terms: Terms) -> dict[Key, Value]:
    nodes = _own_ends(own, terms)  # each session with a node adds its own
    state: dict[Key, Value] = {}
    for family in FAMILIES:
        members = {names.BGP_ALL_PEERS: (*nodes, *terms.externals)}
        if terms.mesh:
            members[names.BGP_NODE_PEERS] = nodes
        if terms.externals:
            members[names.BGP_EXTERNAL_PEERS] = terms.externals
        for base, addresses in members.items():
            state |= _defined("neighbor", bgp_set(base, family), map(host_prefix, of_family(addresses, family)))
    return state


def _defined(kind: str, name: str, members: Iterable[str]) -> dict[Key, Value]:
    return {DefinedSetKey(kind, name): _SET} | {DefinedSetMember(kind, name, member): _LISTED for member in members}


def _exports_to_nodes(own: Node, pods: Iterable[str], terms: Terms) -> Iterator[Statement]:
    for nodes in _twins(names.BGP_NODE_PEERS, _own_ends(own, terms)):
        for prefixes in _twins(names.BGP_PODS, pods):
            yield Statement(prefixes + nodes, prefixes, nodes, accept=True)
        if terms.reflects:
            # What came from a node's session and not from outside; nodes send nothing but their own pod ranges.
            yield Statement(_REFLECTED + nodes, "", nodes, accept=True, source="internal")


def _exports_to_externals(own: Node, pods: Iterable[str], terms: Terms) -> Iterator[Statement]:
    sets = [(names.BGP_VIPS, family) for family in FAMILIES]
    if terms.pods_to_externals:
        sets += [(names.BGP_PODS, family) for family in FAMILIES if of_family(pods, family)]
    for of in _families(terms.externals):
        neighbors = bgp_set(names.BGP_EXTERNAL_PEERS, of)
        for base, family in sets:
            prefixes = bgp_set(base, family)
            yield Statement(
                prefixes + neighbors,
                prefixes,
                neighbors,
                accept=True,
                prepend=terms.prepend,
                communities=terms.communities,
                next_hop=_next_hop(
                    own, of, pods_of=family if base == names.BGP_PODS else None, to_self=terms.next_hop_self and family == of
                ),
            )


def _next_hop(own: Node, of: Family, *, pods_of: Family | None, to_self: bool) -> str:
    """What an external peer of a family is told. The session's own address serves its own family alone; a route of the other one keeps
    this node's address of that. The network for pod traffic is none of the peer's."""
    if to_self or (pods_of == of and of_family(own.datapath, of)):
        return "self"
    return best(own, pods_of) if pods_of is not None and of_family(own.datapath, pods_of) else ""


def _imports(own: Node, terms: Terms) -> tuple[Statement, ...]:
    everybody = (*_own_ends(own, terms), *terms.externals)
    prefixes = [
        *(bgp_set(base, family) for base in (names.BGP_VIPS, names.BGP_DEFAULT_ROUTE) for family in FAMILIES),
        *_twins(names.BGP_CUSTOM_REJECT, terms.reject),
    ]
    return tuple(
        Statement(one + neighbors, one, neighbors, accept=False) for neighbors in _twins(names.BGP_ALL_PEERS, everybody) for one in prefixes
    )


def _own_ends(own: Node, terms: Terms) -> tuple[str, ...]:
    """Our addresses in sessions with nodes: of each family of theirs there is one."""
    return session_addresses(own) if terms.mesh else ()


def _twins(base: str, entries: Iterable[str]) -> list[str]:
    """Names of the sets that these entries fill."""
    return [bgp_set(base, family) for family in _families(entries)]


def _families(entries: Iterable[str]) -> list[Family]:
    return sorted({family_of(entry) for entry in entries})
