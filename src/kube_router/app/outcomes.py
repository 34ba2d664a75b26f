"""What a pass came to, as health and metrics show it: when one was last good, how long it took, what is wrong now.

A pass that ended early makes its controller unready, with the reason. One in which something of one object was refused or could not be
worked out is no reason to call the node unready: that is told on the object. But it is no success either, and is not counted as one.
"""

from __future__ import annotations

import time
from typing import Final

from kube_router.app.reporting import Reporting
from kube_router.control.cycle import Outcome
from kube_router.telemetry.health import Health
from kube_router.telemetry.logging import get_logger
from kube_router.telemetry.metrics import METRICS

_PASS_TIMES: Final = {
    "routing": "controller_routes_sync_time",
    "speaker": "controller_bgp_internal_peers_sync_time",
    "fib": "host_routes_sync_time",
    "proxy": "controller_ipvs_services_sync_time",
    "netpol": "controller_iptables_sync_time",
}


def passed(name: str, outcome: Outcome, seconds: float, *, health: Health, reporting: Reporting) -> None:
    """A pass of this controller ended, after so long."""
    if name in _PASS_TIMES:
        METRICS.histogram(_PASS_TIMES[name]).observe(seconds)
    if outcome.failure:
        health.failing(name, outcome.failure)
        return
    health.synced(name)
    if outcome.good:
        reporting.good(name)
        METRICS.gauge("controller_last_success_timestamp_seconds", {"controller": name}).set(time.time())
    if outcome.written:
        get_logger(name).step("pass", written=outcome.written, drift=outcome.drifted, milliseconds=round(seconds * 1000, 1))
