"""Which external and load-balancer addresses of Services are let in, for whoever serves or announces them.

Anybody who may write a Service may name any address in it; strict validation keeps them from drawing away traffic of
others. It knows nothing of who serves what, and cluster IPs, which the API server hands out, do not come here.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kube_router.config.options import Options
from kube_router.kit.net import contains

EXTERNAL: Final = "external IP"
LOAD_BALANCER: Final = "load-balancer IP"
_FLAGS: Final = {EXTERNAL: "--service-external-ip-range", LOAD_BALANCER: "--loadbalancer-ip-range"}


class Ranges(msgspec.Struct, frozen=True):
    """Canonical CIDRs: of cluster IPs, and where external and load-balancer IPs may lie. `strict` off lets all in."""

    strict: bool
    cluster: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    load_balancer: tuple[str, ...] = ()


def ranges(options: Options) -> Ranges:
    """What the flags say."""
    return Ranges(
        strict=options.strict_external_ip_validation,
        cluster=options.service_cluster_ip_range,
        external=options.service_external_ip_range,
        load_balancer=options.loadbalancer_ip_range,
    )


def refusal(address: str, kind: str, allowed: Ranges) -> str:
    """Why an address of this kind (EXTERNAL or LOAD_BALANCER) is not let in, with what would be right; empty when it is."""
    if is_special(address):
        return f"{kind} {address} is refused: no router leads to loopback, link-local, multicast and the like; choose a unicast address"
    if not allowed.strict:
        return ""
    flag = _FLAGS[kind]
    within = allowed.external if kind == EXTERNAL else allowed.load_balancer
    if not within:
        return f"{kind} {address} is refused: {flag} names no range; name one, or set --strict-external-ip-validation=false"
    inside = next((cidr for cidr in allowed.cluster if contains(cidr, address)), "")
    if inside:
        return f"{kind} {address} is refused: it lies in {inside}, the range of cluster IPs; choose one from {flag}"
    if not any(contains(cidr, address) for cidr in within):
        return f"{kind} {address} is refused: it is not in {flag} ({', '.join(within)}); choose one from there, or extend the flag"
    return ""


def is_special(address: str) -> bool:
    """Whether an address means something else than one host in a network (RFC 6890, RFC 4291): whoever claimed it would take
    over what this host says to itself or to all."""
    if ":" in address:
        return address in ("::", "::1") or address.startswith(("fe8", "fe9", "fea", "feb", "ff", "::ffff:"))
    return address.startswith(("0.", "127.", "169.254.")) or int(address.partition(".")[0]) >= 224
