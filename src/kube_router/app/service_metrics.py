"""Per-Service counters of IPVS, read in one dump when somebody scrapes; off the control path, on a socket of its own.

A kernel service belongs to the Service that our ledger says wants it; others on this node have no series, as with the original.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from kube_router.codec.ipvs import GENL_NAME, Packer, parse_service
from kube_router.codec.ipvs_stats import ServiceStats, parse_stats
from kube_router.control.runner import Runner
from kube_router.model.names import PROTOCOLS
from kube_router.model.objects import Ref
from kube_router.model.state.ipvs import VirtualServerKey
from kube_router.telemetry.metrics import METRICS, Sample

_COLUMNS: Final = (
    ("service_total_connections", "connections"),
    ("service_packets_in", "packets_in"),
    ("service_packets_out", "packets_out"),
    ("service_bytes_in", "bytes_in"),
    ("service_bytes_out", "bytes_out"),
    ("service_cps", "connection_rate"),
    ("service_pps_in", "packet_rate_in"),
    ("service_pps_out", "packet_rate_out"),
    ("service_bps_in", "byte_rate_in"),
    ("service_bps_out", "byte_rate_out"),
)


def meter_services(runner: Runner) -> None:
    """From now on scrapes read IPVS; `runner` is the proxy's."""
    METRICS.at_scrape("ipvs", lambda: list(_read(runner)))


def _read(runner: Runner) -> Iterator[Sample]:
    from kube_router.apply.kernel.netlink_socket import GENERIC, NetlinkSocket

    began = time.perf_counter()
    socket = NetlinkSocket(GENERIC)
    try:
        family = socket.generic_family(GENL_NAME)
        replies = socket.dump(Packer(family).dump_services()) if family else []
    finally:
        socket.close()
    yield Sample("controller_ipvs_services", (), len(replies))
    for reply in replies:
        key, _ = parse_service(reply)
        yield from _series(key, runner.cycle.ledger.owners(key), parse_stats(reply))
    METRICS.histogram("controller_ipvs_metrics_export_time").observe(time.perf_counter() - began)


def _series(key: VirtualServerKey, owners: tuple[object, ...], stats: ServiceStats) -> Iterator[Sample]:
    owner = next((owner for owner in owners if isinstance(owner, Ref)), None)
    if owner is None:
        return
    protocol = PROTOCOLS.get(key.protocol, str(key.protocol))
    labels = (owner.name.namespace, owner.name.name, key.address, protocol, str(key.port))
    for metric, field in _COLUMNS:
        yield Sample(metric, labels, getattr(stats, field))
