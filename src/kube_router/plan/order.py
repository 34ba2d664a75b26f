"""The order in which kinds of change happen, with the reason for each place.

Everything a controller changes in one pass is sorted by this table; inside a row by key, so that equal plans are equal
sequences. Neighbouring rows that belong to one target go to it as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from kube_router.kit.net import FAMILIES
from kube_router.model import names
from kube_router.model.state import Change, Key
from kube_router.model.state.bgp import (
    AssignmentKey,
    DefinedSetKey,
    DefinedSetMember,
    NeighborKey,
    PathKey,
    PolicyKey,
    SpeakerKey,
)
from kube_router.model.state.cluster import AnnotationKey
from kube_router.model.state.direct import DeliveryKey, MarkRuleKey, PodPortKey, PodTunnelKey, PodVipKey
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import AddressKey, FileKey, LinkKey, RouteKey, RuleKey, SysctlKey
from kube_router.model.state.listeners import HealthPortKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey, SetKey, SetMember
from kube_router.model.state.tunnels import FdbKey, FouKey, NeighbourKey, TunnelKey

Action = Literal["put", "delete"]


class Row(NamedTuple):
    """Changes of one kind, and why they come here. `sets`: of entries, those of these sets only, which no other row then means."""

    key: type[Key]
    action: Action
    reason: str
    sets: frozenset[str] = frozenset()


# Sets whose entries send packets into chains, as jumps do.
GATES: Final = frozenset(names.set_name(name, family) for name in (names.ISOLATED_EGRESS, names.ISOLATED_INGRESS) for family in FAMILIES)


ORDER: Final[tuple[Row, ...]] = (
    Row(LinkKey, "put", "addresses and routes need their link; CNI plugins need the bridge"),
    Row(FouKey, "put", "the other end may send as soon as it has its tunnel"),
    Row(TunnelKey, "put", "entries and routes need their tunnel"),
    Row(FdbKey, "put", "where a node is, before packets look for it"),
    Row(NeighbourKey, "put", "nobody answers on a tunnel: without its entry a route leads nowhere"),
    Row(SysctlKey, "put", "the first packet through a new link, rule or service already needs them"),
    Row(IpvsTimeoutsKey, "put", "the first connection already has them"),
    Row(SetKey, "put", "members and rules name sets that must exist"),
    Row(VirtualServerKey, "put", "the kernel refuses a destination without its service (ESRCH)"),
    Row(PodTunnelKey, "put", "a pod gets packets of a Service once it can take them in"),
    Row(PodVipKey, "put", "on the tunnel"),
    Row(PodPortKey, "put", "before the first packet, whose connection would keep the port that it came with"),
    Row(DestinationKey, "put", "new destinations before old ones go, so that a service is never without one"),
    Row(DeliveryKey, "put", "what looks into the table next is delivered"),
    Row(MarkRuleKey, "put", "before the first packet bears the mark: it would be sent on instead"),
    Row(SetMember, "put", "a member lets packets in, or marks them: what serves or judges them by now stands"),
    Row(SetMember, "delete", "what no policy judges any more stays out of chains that forget it next", GATES),
    Row(ChainKey, "put", "rules after the sets that they name, and after the members that they judge"),
    Row(JumpKey, "put", "packets enter a chain once it is complete"),
    Row(LeftoverKey, "put", "never: nobody wants what the original left"),
    Row(SetMember, "put", "so do these packets: until their chains stand they are judged as before", GATES),
    Row(AddressKey, "put", "an address draws packets: service, members and rules stand by now, no host process answers"),
    Row(RouteKey, "put", "a route draws packets too; it may use an address as source"),
    Row(RuleKey, "put", "packets look into a table once its routes stand"),
    Row(HealthPortKey, "put", "load balancers send traffic to a node that answers: all that serves it stands"),
    Row(FileKey, "put", "runtimes start pods as soon as they see the file: the bridge and its rules stand"),
    Row(AnnotationKey, "put", "others send to these addresses: links and routes stand"),
    Row(SpeakerKey, "put", "nothing else can be told to a speaker that has not started"),
    Row(NeighborKey, "delete", "a peer that goes is gone before rules forget it, which would let it say what it likes"),
    Row(DefinedSetKey, "put", "statements name sets"),
    Row(DefinedSetMember, "put", "an empty neighbour set would match every neighbour; a path is judged when it is announced"),
    Row(PolicyKey, "put", "an assignment names policies"),
    Row(AssignmentKey, "put", "without a policy everything is exported: it stands before paths and peers"),
    Row(PathKey, "put", "a peer that comes up finds all paths"),
    Row(NeighborKey, "put", "last: sessions start with policies and paths in place"),
    Row(PathKey, "delete", "withdrawn while policies still stand; a withdrawal bypasses export policy"),
    Row(AssignmentKey, "delete", "before the policies that it names"),
    Row(PolicyKey, "delete", "before the sets that its statements name"),
    Row(DefinedSetMember, "delete", "after its neighbour, its path and the statements: until then rules hold for it"),
    Row(DefinedSetKey, "delete", "after the statements that named it"),
    Row(SpeakerKey, "delete", "stopping the speaker ends every session"),
    Row(AnnotationKey, "delete", "others stop sending first"),
    Row(FileKey, "delete", "no new pod starts on a network that goes"),
    Row(HealthPortKey, "delete", "load balancers stop sending first"),
    Row(RuleKey, "delete", "nobody looks into a table that is emptied next"),
    Row(RouteKey, "delete", "stop drawing packets first"),
    Row(NeighbourKey, "delete", "once no route leads to it"),
    Row(FdbKey, "delete", "as the neighbours behind it"),
    Row(TunnelKey, "delete", "once no route goes over it: new ones have taken their place by now"),
    Row(FouKey, "delete", "once no tunnel of ours would be answered there"),
    Row(AddressKey, "delete", "the address goes before what serves it"),
    Row(LeftoverKey, "delete", "what does its work by now stands; it may name sets that go"),
    Row(JumpKey, "delete", "a chain in use cannot go"),
    Row(ChainKey, "delete", "after the jump; before the sets that it names"),
    Row(SetMember, "delete", "after the address: until then its packets must be admitted"),
    Row(MarkRuleKey, "delete", "no packet is marked any more"),
    Row(DeliveryKey, "delete", "once no packet looks into its table"),
    Row(DestinationKey, "delete", "once new ones serve; of a service that goes, once nothing draws packets to it"),
    Row(PodPortKey, "delete", "once nothing is sent to the pod any more"),
    Row(PodVipKey, "delete", "as the port"),
    Row(PodTunnelKey, "delete", "takes addresses along, so these were asked about first"),
    Row(VirtualServerKey, "delete", "takes its destinations along"),
    Row(SetKey, "delete", "a set that a rule names cannot be destroyed"),
    Row(IpvsTimeoutsKey, "delete", "as with sysctls, only our interest ends"),
    Row(SysctlKey, "delete", "values that the admin may rely on by now are left; only our interest ends"),
    Row(LinkKey, "delete", "takes addresses and routes along, so these were asked about first"),
)

_KEY: Final = attrgetter("key")
_RANK: Final[dict[tuple[type[Key], Action, bool], int]] = {(row.key, row.action, bool(row.sets)): n for n, row in enumerate(ORDER)}


def rank(change: Change) -> int:
    """Row number of a change; KeyError for a kind without a row, which is a bug in the vocabulary."""
    key = change.key
    gate = isinstance(key, SetMember) and key.set in GATES
    return _RANK[type(key), "delete" if change.after is None else "put", gate]


def ordered(changes: Iterable[Change]) -> list[Change]:
    """All changes, in order."""
    # Row by row: a row has keys of one kind, which compare faster by themselves than inside a pair with their rank.
    rows: dict[int, list[Change]] = {}
    for change in changes:
        rows.setdefault(rank(change), []).append(change)
    return [change for number in sorted(rows) for change in sorted(rows[number], key=_KEY)]
