"""Per-Service counters of IPVS, read in one dump when somebody scrapes; off the control path, on a socket of its own.

A kernel service belongs to the Service that our ledger says wants it; others on this node have no series, as with the original. One that
the kernel knows by mark (direct server return, clients of the cluster under traffic policy Local) has the address and port that the mark
stands for; what the kernel counts apart is added up where Service, address, protocol and port are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from kube_router.app.reporting import ref_of
from kube_router.codec.ipvs import GENL_NAME, Packer
from kube_router.codec.ipvs_stats import ServiceStats, parse_counters
from kube_router.codec.netlink import Reply
from kube_router.control.cycle import Cycle
from kube_router.kit.net import FAMILIES
from kube_router.model import names
from kube_router.model.objects import Ref
from kube_router.model.state.ipvs import Destination
from kube_router.model.state.netfilter import Member, SetMember
from kube_router.plan.ledger import Ledger
from kube_router.telemetry.metrics import METRICS, Registry, Sample, Values
from kube_router.telemetry.pace import paced

_COLUMNS: Final = (
    "service_total_connections",
    "service_packets_in",
    "service_packets_out",
    "service_bytes_in",
    "service_bytes_out",
    "service_cps",
    "service_pps_in",
    "service_pps_out",
    "service_bps_in",
    "service_bps_out",
)
_MARKS: Final = frozenset(names.set_name(base, family) for base in (names.SERVICE_MARKS, names.CLUSTER_MARKS) for family in FAMILIES)
_REFUSALS: Final = ("VIPRefused", "PortTaken")  # reasons of notes on Services: a whole address, a port of one

Dump = Callable[[], Sequence[Reply]]


def meter_services(cycle: Cycle, *, metrics: Registry = METRICS, dump: Dump | None = None) -> None:
    """From now on scrapes read IPVS; `cycle` is the proxy's. `dump`: all services as the kernel tells them."""
    ask = dump or dump_services

    def read() -> Iterator[Sample]:
        began = time.perf_counter()
        replies = ask()
        yield Sample("controller_ipvs_services", (), len(replies))
        yield from series(replies, cycle.ledger)
        metrics.histogram("controller_ipvs_metrics_export_time").observe(time.perf_counter() - began)

    metrics.at_scrape("ipvs", read)
    metrics.at_scrape("draining", lambda: [Sample("draining_destinations", (), _draining(cycle.ledger))])
    metrics.at_scrape("refused", lambda: _refused(cycle))


def dump_services() -> Sequence[Reply]:
    """All services of this network namespace; nothing where the kernel has no IPVS."""
    from kube_router.apply.kernel.netlink_socket import GENERIC, NetlinkSocket

    socket = NetlinkSocket(GENERIC)
    try:
        family = socket.generic_family(GENL_NAME)
        return socket.dump(Packer(family).dump_services()) if family else []
    finally:
        socket.close()


def series(replies: Iterable[Reply], ledger: Ledger) -> Iterator[Sample]:
    """Counters of a dump, one set for each Service, address, protocol and port."""
    counted: dict[Values, ServiceStats] = {}
    for reply in paced(replies):
        key, stats = parse_counters(reply)
        owner = ref_of(ledger.winner(key))
        if owner is None:
            continue
        place = _marked(key.mark, ledger, owner) if key.mark else (key.address, names.PROTOCOLS.get(key.protocol, ""), str(key.port))
        if place is None:
            continue
        labels = (owner.name.namespace, owner.name.name, *place)
        known = counted.get(labels)
        counted[labels] = stats if known is None else known.plus(stats)
    return chain.from_iterable(map(Sample, _COLUMNS, [labels] * len(_COLUMNS), stats) for labels, stats in counted.items())


def _marked(mark: int, ledger: Ledger, owner: Ref) -> tuple[str, str, str] | None:
    """Address, protocol and port that a mark of this Service stands for."""
    for key, value in ledger.wants(owner).items():
        if isinstance(key, SetMember) and isinstance(value, Member) and value.mark == mark and key.set in _MARKS:
            address, _, at = key.entry.partition(",")
            protocol, _, port = at.partition(":")
            return address, protocol, port
    return None


def _draining(ledger: Ledger) -> int:
    return sum(1 for value in list(ledger.merged.values()) if type(value) is Destination and not value.weight)


def _refused(cycle: Cycle) -> Iterable[Sample]:
    found = dict.fromkeys(_REFUSALS, 0)
    for note in cycle.notes():
        if note.reason in found:
            found[note.reason] += 1
    return [Sample("refused_vips", (reason,), number) for reason, number in found.items()]
