"""What a Service is judged by, beside itself and its slices: the node, the options, and who else claims what it claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kube_router.config.options import Options
from kube_router.desired.external_ips import Ranges
from kube_router.desired.proxy.marks import MarkOf, candidates
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.model.objects import Claim, Service

# Other Services that make a claim, with the asker among them.
Rivals = Callable[[Claim], Iterable[Service]]
# Why an address that a Service brings along cannot be served here, whatever the ranges say; "" when it can.
Obstacle = Callable[[str], str]
# A yes or no about an address.
About = Callable[[str], bool]


class Context(NamedTuple):
    """One pass's answers; `allowed` is what the flags say of external and load-balancer IPs. `is_node`: an address of any node;
    `is_direct`: one that some Service wants to be answered directly, so that no link may have it."""

    around: Surroundings
    options: Options
    allowed: Ranges
    rivals: Rivals
    obstacle: Obstacle
    mark_of: MarkOf = lambda claim, kind: next(candidates(claim, kind))  # as if nobody else had one
    is_node: About = lambda _address: False
    is_direct: About = lambda _address: False
