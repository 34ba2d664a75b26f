"""What a Service is judged by, beside itself and its slices: the node, the options, and who else claims what it claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kube_router.config.options import Options
from kube_router.desired.external_ips import Ranges
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.model.objects import Claim, Service

# Other Services that make a claim, with the asker among them.
Rivals = Callable[[Claim], Iterable[Service]]
# Why an address that a Service brings along cannot be served here, whatever the ranges say; "" when it can.
Obstacle = Callable[[str], str]


class Context(NamedTuple):
    """One pass's answers; `allowed` is what the flags say of external and load-balancer IPs."""

    around: Surroundings
    options: Options
    allowed: Ranges
    rivals: Rivals
    obstacle: Obstacle
