"""Which controllers run, with which periods; and those that do not, whose leftovers go."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from kube_router.cache.cache import View
from kube_router.config.options import Options
from kube_router.control.absent import Absent
from kube_router.control.controller import Controller, Keeper
from kube_router.control.datapath import DatapathController
from kube_router.control.draining import Connections, Draining, ending
from kube_router.control.fib import FibController
from kube_router.control.marks import Holder, MarkBook
from kube_router.control.netpol import NetpolController
from kube_router.control.proxy import ProxyController
from kube_router.control.routing import RoutingController
from kube_router.control.speaker import SpeakerController
from kube_router.control.stranded import StrandedController
from kube_router.model.state import Key
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import LinkKey

_LOOK_AT_OWN_NODE: Final = 15.0  # seconds; it is in the cache, looking costs nothing


class Running(msgspec.Struct, frozen=True):
    """A controller that runs; `audit` is the period of its audits in seconds."""

    controller: Controller
    audit: float


def running(options: Options, found_marks: Callable[[], Mapping[Holder, int]]) -> Iterator[Running]:
    """Controllers that the options ask for. `found_marks` tells which marks of Services an earlier run left."""
    if options.run_router:
        yield Running(RoutingController(options), options.routes_sync_period)
        yield Running(SpeakerController(options), options.routes_sync_period)
        yield Running(FibController(options), options.injected_routes_sync_period)
        yield Running(DatapathController(options), _LOOK_AT_OWN_NODE)
        if options.enable_cni:
            yield Running(StrandedController(options), options.routes_sync_period)
    if options.run_service_proxy:
        yield Running(ProxyController(options, kernel=kernel_version(), marks=MarkBook(found_marks)), options.ipvs_sync_period)
    if options.run_firewall:
        yield Running(NetpolController(options), options.iptables_sync_period)


def keeper(controller: Controller, options: Options, view: View, connections: Connections) -> Keeper | None:
    """Who keeps for a while what this controller lets go; `connections` asks IPVS."""
    if not (isinstance(controller, ProxyController) and options.ipvs_graceful_termination):
        return None
    return Draining(options.ipvs_graceful_period, connections=connections, ends=ending(view), claim_of=controller.claim_of)


def absent(options: Options) -> Iterator[Absent]:
    """Controllers that are switched off. The bridge stays: another's CNI configuration may put pods on it."""
    missing = not_in_this_kernel()
    if not options.run_router:
        yield Absent(RoutingController.name, RoutingController.writes, spare=(LinkKey,))
        yield Absent(FibController.name, FibController.writes)
    if not options.run_service_proxy:
        yield Absent(ProxyController.name, ProxyController.writes, spare=missing)
    if not options.run_firewall:
        yield Absent(NetpolController.name, NetpolController.writes)


def everything() -> tuple[Absent, ...]:
    """All controllers as absent, in the order in which a cleanup goes. The speaker keeps what it was told: it ends with the pod."""
    return (
        Absent(NetpolController.name, NetpolController.writes),
        Absent(ProxyController.name, ProxyController.writes, spare=not_in_this_kernel()),
        Absent(FibController.name, FibController.writes),
        Absent(RoutingController.name, RoutingController.writes),
    )


def not_in_this_kernel() -> tuple[type[Key], ...]:
    """Kinds of which nothing can be left over, since the kernel has not loaded what holds them; loading it to look would be absurd."""
    return () if Path("/proc/net/ip_vs").exists() else (VirtualServerKey, DestinationKey, IpvsTimeoutsKey)


def kernel_version() -> tuple[int, int]:
    """Version and patch level of the running kernel, such as (6, 1)."""
    numbers = platform.release().split("-")[0].split(".")
    return int(numbers[0]), int(numbers[1])
