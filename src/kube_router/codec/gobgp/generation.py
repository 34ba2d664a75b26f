"""The two generations of GoBGP's API: what they are called, and how their messages differ.

Messages bear the same names and field numbers in both. They differ in the service's name; in enums, whose values named here
lie one higher in the fourth (zero means "unspecified" there); and in how NLRI and path attributes are wrapped (paths.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Message = Any  # a generated protobuf message; the generated modules carry no types


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation. `pb` is its generated module, `offset` what the enum values below are raised by."""

    name: str
    service: str
    pb: Any
    offset: int

    @property
    def table_global(self) -> int:
        """TableType: the global table."""
        return self.offset

    @property
    def set_prefix(self) -> int:
        """DefinedType: a set of prefixes."""
        return self.offset

    @property
    def set_neighbor(self) -> int:
        """DefinedType: a set of neighbours."""
        return 1 + self.offset

    @property
    def match_any(self) -> int:
        """MatchSet.Type: any member of the set matches."""
        return self.offset

    @property
    def community_add(self) -> int:
        """CommunityAction.Type: added to those that the route has."""
        return self.offset

    @property
    def longer_prefixes(self) -> int:
        """TableLookupPrefix.Type: a prefix and all inside it."""
        return 1 + self.offset

    @property
    def watch_best(self) -> int:
        """WatchEventRequest.Table.Filter.Type: best paths."""
        return self.offset

    @property
    def reset_in(self) -> int:
        """ResetPeerRequest.Direction: what was received is judged anew."""
        return self.offset

    @property
    def reset_out(self) -> int:
        """ResetPeerRequest.Direction: what is sent is judged anew."""
        return 1 + self.offset

    @property
    def tells_deltas(self) -> bool:
        """Whether an event names of a prefix's equal paths only those that changed."""
        return self.name != "v3"

    @property
    def has_bfd(self) -> bool:
        """Whether it watches sessions with BFD: since 4.5."""
        return self.name != "v3"

    @property
    def withdraws_softly(self) -> bool:
        """Whether a soft reset also withdraws what export policy now rejects: not before 4.6 (measured on 3.10)."""
        return self.name != "v3"


# Same numbers in both generations.
ACCEPT: Final = 1  # RouteAction
REJECT: Final = 2
IMPORT: Final = 1  # PolicyDirection
EXPORT: Final = 2
ESTABLISHED: Final = 6  # PeerState.SessionState

SERVICES: Final = {"v4": "api.GoBgpService", "v3": "apipb.GobgpApi"}  # the order in which we ask

# Reply of each call; streamed ones answer with many. Where nothing of the reply is read, any message decodes it.
REPLIES: Final = {
    "StartBgp": "Empty",
    "StopBgp": "Empty",
    "GetBgp": "GetBgpResponse",
    "AddPeer": "Empty",
    "UpdatePeer": "Empty",
    "DeletePeer": "Empty",
    "ResetPeer": "Empty",
    "AddPath": "Empty",
    "AddPathStream": "Empty",
    "DeletePath": "Empty",
    "AddDefinedSet": "Empty",
    "DeleteDefinedSet": "Empty",
    "AddStatement": "Empty",
    "DeleteStatement": "Empty",
    "AddPolicy": "Empty",
    "DeletePolicy": "Empty",
    "SetPolicyAssignment": "Empty",
}
STREAMS: Final = {
    "ListPeer": "ListPeerResponse",
    "ListPath": "ListPathResponse",
    "ListDefinedSet": "ListDefinedSetResponse",
    "ListStatement": "ListStatementResponse",
    "ListPolicy": "ListPolicyResponse",
    "ListPolicyAssignment": "ListPolicyAssignmentResponse",
    "WatchEvent": "WatchEventResponse",
}


def load(name: str) -> Generation:
    """A generation by its name in `SERVICES`; imports protobuf, so call it late."""
    if name == "v3":
        from kube_router.codec.gobgp.generated import gobgp_v3_pb2 as v3

        return Generation(name, SERVICES[name], v3, 0)
    from kube_router.codec.gobgp.generated import gobgp_v4_pb2 as v4

    return Generation(name, SERVICES[name], v4, 1)
