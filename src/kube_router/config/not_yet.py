"""Flags that ask for something this version does not do yet: known, checked, and refused with one clear line.

A row goes when its part comes; the table is meant to become empty. A flag is refused only when its value asks for what
is missing and the controller that would do it is on: a default never is, nor is a setting of something switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kube_router.config.faults import Fault
from kube_router.config.flag_table import BY_NAME
from kube_router.config.flags import Owner
from kube_router.config.options import Options


@dataclass(frozen=True, slots=True)
class NotYet:
    """`asks` tells whether the options ask for the missing part, `part` names it."""

    flag: str
    asks: Callable[[Options], bool]
    part: str


NOT_YET: Final[tuple[NotYet, ...]] = (
    NotYet("enable-pprof", lambda o: o.enable_pprof, "profiling over HTTP"),
    NotYet("netpol-default-deny", lambda o: o.netpol_default_deny, "denying pods whose policies are not in place"),
    NotYet("run-loadbalancer", lambda o: o.run_loadbalancer, "the load-balancer allocator"),
    NotYet("use-nftables-for-netpol", lambda o: o.use_nftables_for_netpol, "the nftables backend"),
)


def not_yet_faults(options: Options) -> Iterator[Fault]:
    """A fault for each row whose missing part is asked for."""
    for row in NOT_YET:
        if row.asks(options) and any(_is_on(owner, options) for owner in BY_NAME[row.flag].owners):
            yield Fault(f"--{row.flag}", None, f"asks for {row.part}, which this version does not do yet", "leave it out")


def _is_on(owner: Owner, options: Options) -> bool:
    return {
        "core": True,
        "router": options.run_router,
        "proxy": options.run_service_proxy,
        "firewall": options.run_firewall,
        "loadbalancer": options.run_loadbalancer,
    }[owner]
