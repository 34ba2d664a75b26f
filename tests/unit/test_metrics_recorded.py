"""Series of Services of the recorded cluster: all that kube-router 2.11 had, by the same labels, and those that it lacked."""

from __future__ import annotations

import asyncio
import json

from kube_router.app.service_metrics import series
from kube_router.cache.cache import Cache
from kube_router.codec.objects import decode_item
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle
from kube_router.control.proxy import ProxyController
from kube_router.model.state.ipvs import VirtualServerKey
from kube_router.telemetry.catalog import SERVICE
from tests.engine import Recorder, inline
from tests.fakes import FakeTarget, World
from tests.ipvs_dump import service_reply
from tests.unit.test_proxy_recorded import DATA, recorded, recorded_links

Series = tuple[str, ...]

# Node ports of the secondary family (B18), direct server return, and a Service that had no slice when the original was recorded.
LACKED: set[Series] = {
    ("shop", "np", "fd00:50::50", "tcp", "30080"),
    ("shop", "lb", "fd00:50::50", "tcp", "30081"),
    ("shop", "dsr", "203.0.113.11", "tcp", "8080"),
}


def theirs() -> dict[str, set[Series]]:
    """Series by metric."""
    found: dict[str, set[Series]] = {}
    for line in recorded("metrics").splitlines():
        if line.startswith("kube_router_service_"):
            name, _, rest = line.partition("{")
            labels = dict(pair.split("=") for pair in rest.partition("}")[0].split(","))
            assert labels.keys() == set(SERVICE)
            found.setdefault(name.removeprefix("kube_router_"), set()).add(tuple(labels[label].strip('"') for label in SERVICE))
    return found


def ours() -> dict[str, set[Series]]:
    """Series by metric, of the kernel that our proxy leaves behind."""
    options = defaults(
        node_name="node1",
        enable_ipv6=True,
        service_cluster_ip_range=("10.233.0.0/18", "fd00:233::/112"),
        service_external_ip_range=("203.0.113.0/24",),
        loadbalancer_ip_range=("198.51.100.0/24",),
    )
    controller, cache, world = ProxyController(options, kernel=(6, 1)), Cache(), World()
    of = {kind.value: kind for kind in controller.reads}
    for item in json.loads((DATA / "cluster.json").read_text())["items"]:
        if item["kind"] in of:
            cache.put(decode_item(of[item["kind"]], json.dumps(item).encode()).object)
    for link in recorded_links():
        cache.put(link)
    feed = cache.feed(controller.reads)
    targets = [FakeTarget(world, controller.writes)]
    cycle = Cycle(controller, feed=feed, view=cache.view, targets=targets, report=Recorder(), call=inline)
    assert asyncio.run(cycle.sync()).good
    dump = [service_reply(key, (0,) * 10) for key in world.state if isinstance(key, VirtualServerKey)]
    found: dict[str, set[Series]] = {}
    for sample in series(dump, cycle.ledger):
        found.setdefault(sample.name, set()).add(sample.labels)
    return found


def test_every_series_of_the_original_is_there_and_those_that_it_lacked():
    had, have = theirs(), ours()
    assert had.keys() == have.keys()
    for metric, labels in had.items():
        assert have[metric] == labels | LACKED, metric
