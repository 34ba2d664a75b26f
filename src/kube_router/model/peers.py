"""External BGP peers as people name them, by flags or by annotations of a node."""

from __future__ import annotations

import msgspec

from kube_router.model.secret import Secret
from kube_router.model.state.bgp import Bfd


class ExternalPeer(msgspec.Struct, frozen=True):
    """A peer outside the cluster. `local` "": our primary address. `bfd` None: not watched."""

    address: str
    asn: int
    port: int = 179
    local: str = ""
    password: Secret | None = None
    bfd: Bfd | None = None
