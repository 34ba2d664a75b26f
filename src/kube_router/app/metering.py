"""Metrics that come from what controllers hold and what tools took, by the original's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from kube_router.app.service_metrics import meter_services
from kube_router.control.runner import Runner
from kube_router.model.state import Key
from kube_router.model.state.links import RouteKey
from kube_router.model.state.netfilter import ChainKey, SetKey
from kube_router.plan import ownership
from kube_router.telemetry.metrics import METRICS, Sample

_HELD: Final[dict[str, tuple[str, type[Key]]]] = {
    "host_routes_synced": (ownership.FIB, RouteKey),
    "controller_policy_chains": (ownership.NETPOL, ChainKey),
    "controller_policy_ipsets": (ownership.NETPOL, SetKey),
}


def meter(runners: Iterable[Runner]) -> None:
    """From now on scrapes count what these controllers hold."""
    of = {runner.name: runner for runner in runners}
    for metric, (controller, kind) in _HELD.items():
        if controller in of:
            METRICS.at_scrape(metric, _counter(metric, of[controller], kind))
    if ownership.PROXY in of:
        meter_services(of[ownership.PROXY].cycle)


def _counter(metric: str, runner: Runner, kind: type[Key]) -> Callable[[], list[Sample]]:
    def read() -> list[Sample]:
        return [Sample(metric, (), sum(1 for key in list(runner.cycle.ledger.held) if type(key) is kind))]

    return read


def tool_ran(tool: str, feed: str, seconds: float) -> None:
    """A run of a netfilter tool took so long; one run of `ipset restore` writes both families."""
    if "tables" in tool:
        family = "v6" if tool.startswith("ip6") else "v4"
        action = "restore" if "restore" in tool else "save"
        METRICS.histogram(f"controller_iptables_{family}_{action}_time").observe(seconds)
    elif tool == "ipset" and feed:
        for family in ("v4", "v6") if "inet6" in feed else ("v4",):
            METRICS.histogram(f"controller_policy_ipset_{family}_restore_time").observe(seconds)
