"""Services through IPVS: cold starts, one endpoint that changes, and what an idle node costs.

"Cold" is from caches listed to the last write acknowledged, against the C tools (`ipvsadm -R`, `ipset restore`, `iptables-restore`,
`ip -batch`) that put back the very state that it left. Then single endpoint changes from event to kernel, with messages and processes
counted, in nodes of 100 to 10,000 Services: the cost must not grow.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Final

from bench.frame import Row, emulation_factor, progress, timed, tool
from bench.proxy_node import ENDPOINTS, NODE_ADDRESS, ProxyNode, check, clear, endpoints, many_endpoints, service, vip
from kube_router.app.service_metrics import meter_services
from kube_router.model.names import DUMMY
from kube_router.model.objects import Kind
from kube_router.telemetry.exposition import render
from kube_router.telemetry.metrics import Registry

TITLE = "Services with 4 endpoints each: cold start, one endpoint, memory"
NEEDS = frozenset({"root", "netns", "veth", "dummy", "ip_vs", "ipset", "iptables_nft", "xt_set"})

COLD: Final = (1_000, 5_000)
LARGE: Final = 5_000
GROWING: Final = (100, 1_000, 10_000)
TIMES: Final = 21  # single changes of a kind
_FEW: Final = 10
_OTHERS: Final = 1_000  # Services beside those with many endpoints
_ROLLING, _SURGE = 100, 25  # endpoints of a Deployment that is rolled out, and how many at a time (25 % by default)
_LARGE_SERVICE: Final = 1_000
FLAT: Final = 1.5  # what counts as flat, in medians of a noisy machine

UPLINK: Final = f"""\
link add up0 type veth peer name up1
link set up0 addrgenmode none up
link set up1 addrgenmode none up
addr add {NODE_ADDRESS}/24 dev up0
"""


def measure() -> Iterator[Row]:
    """All figures of the case."""
    tool("ip", "-batch", "-", text=UPLINK)
    _warm_up()
    for services in COLD:
        progress(f"cold, {services} Services")
        node, cold, floor = _cold(services)
        yield Row(measure=f"cold, {services:,} Services", ours=cold, unit="s", floor=floor, most_ratio=1.5)
        if services == LARGE:
            yield from _single_changes(node, services)
            yield from _audit(node)
            yield from _one_service(node, services)
            yield from _scrapes(node, services)
            node.close()
            yield from _restart(services)
        else:
            node.close()
    yield from _flatness()
    yield from _large_services()
    yield _memory()


def _warm_up() -> None:
    """Modules of the kernel and of Python load once for all: starting the process is a figure of `bench start`."""
    progress("a few Services first, so that every module is loaded")
    clear()
    node = ProxyNode()
    node.list_all(_FEW)
    node.sync()
    _floor(_FEW)
    node.close()


def _cold(services: int) -> tuple[ProxyNode, float, float]:
    """A filled node, seconds that it took, and seconds that the C tools take to put the same state back."""
    clear()
    node = ProxyNode()
    node.list_all(services)
    gc.collect()
    begin = time.perf_counter()
    node.sync()
    cold = time.perf_counter() - begin
    check(services)
    floor = _floor(services)
    check(services)
    return node, cold, floor


def _floor(services: int) -> float:
    """Take the state away, and have it put back by the tools."""
    routes = "".join(
        f"addr add {vip(n)}/32 dev {DUMMY} scope link\n"
        f"route replace local {vip(n)} dev {DUMMY} table local proto kernel scope host src {NODE_ADDRESS}\n"
        for n in range(services)
    )
    servers, sets, rules = tool("ipvsadm", "-Sn"), tool("ipset", "save"), tool("iptables-nft-save")
    clear()
    begin = time.perf_counter()
    tool("ip", "link", "add", DUMMY, "type", "dummy")
    tool("ip", "link", "set", DUMMY, "up")
    tool("ipvsadm", "-R", text=servers)
    tool("ipset", "restore", text=sets)
    tool("iptables-nft-restore", text=rules)
    tool("ip", "-batch", "-", text=routes)
    return time.perf_counter() - begin


def _single_changes(node: ProxyNode, services: int) -> Iterator[Row]:
    if node.sync(audit=True):
        raise RuntimeError("what the tools put back is not what was there")
    messages, forks = node.messages(), node.commands.forks
    took = _one_endpoint(node, services)
    sent, forked = node.messages() - messages, node.commands.forks - forks
    yield Row(measure=f"one endpoint of {services:,} Services: event to kernel", ours=took, unit="ms", most=10)
    yield Row(measure="  netlink messages for each", ours=sent / TIMES, unit="messages", most=2)
    yield Row(measure="  processes started for all", ours=forked, unit="processes", most=0)


def _one_endpoint(node: ProxyNode, services: int) -> float:
    """Median of milliseconds from the event to the kernel's answer, Services chosen over the whole range."""
    times = []
    for n in range(TIMES):
        node.cache.put(endpoints(services * n // TIMES, generation=1))
        times.append(timed(node.sync))
    return statistics.median(times)


def _one_service(node: ProxyNode, services: int) -> Iterator[Row]:
    """A Service that is new, with its endpoints, and its end."""
    came, went = [], []
    messages, forks = node.messages(), node.commands.forks
    for n in range(TIMES):
        number = services + n
        node.cache.put(service(number))
        node.cache.put(endpoints(number))
        came.append(timed(node.sync))
    sent, forked = node.messages() - messages, node.commands.forks - forks
    for n in range(TIMES):
        for kind, name in ((Kind.SERVICE, service(services + n).name), (Kind.ENDPOINT_SLICE, endpoints(services + n).name)):
            node.cache.remove(kind, name)
        went.append(timed(node.sync))
    yield Row(measure=f"one Service more than {services:,}: event to kernel", ours=statistics.median(came), unit="ms", most=20)
    yield Row(measure="  netlink messages for each", ours=sent / TIMES, unit="messages", most=1 + ENDPOINTS + 2)
    yield Row(measure="  processes started for each (set entries)", ours=forked / TIMES, unit="processes", most=1)
    yield Row(measure="  its end", ours=statistics.median(went), unit="ms", most=20)


def _large_services() -> Iterator[Row]:
    """Services with many endpoints, among a thousand others: a rolling update, and one endpoint that changes."""
    progress("Services with many endpoints")
    for draining in (False, True):
        clear()
        node = ProxyNode(draining=draining)
        node.list_all(_OTHERS)
        first = _OTHERS * (ENDPOINTS + 1) + 1000
        node.cache.put(service(_OTHERS))
        pods = list(range(first, first + _ROLLING))
        _replace(node, [], pods)
        node.sync()
        messages, began = node.messages(), time.perf_counter()
        now = pods
        for step in range(_SURGE, _ROLLING + 1, _SURGE):
            after = pods[step:] + [each + 1000 for each in pods[:step]]
            _replace(node, now, after)
            node.sync()
            now = after
        if draining:
            node.sync()  # the grace time is none, and nobody is connected
        took, sent = 1000 * (time.perf_counter() - began), node.messages() - messages
        what = f"rolling update of {_ROLLING} endpoints, {_SURGE} at a time" + (", drained" if draining else "")
        yield Row(measure=what, ours=took, unit="ms", most=100)
        yield Row(measure="  netlink messages for each endpoint replaced", ours=sent / _ROLLING, unit="messages", most=3 if draining else 2)
        node.close()
    clear()
    node = ProxyNode()
    node.list_all(_OTHERS)
    node.sync()
    first = _OTHERS * (ENDPOINTS + 1) + 1000
    node.cache.put(service(_OTHERS))
    pods = list(range(first, first + _LARGE_SERVICE))
    _replace(node, [], pods)
    yield Row(measure=f"a Service of {_LARGE_SERVICE:,} endpoints appears", ours=timed(node.sync), unit="ms", most=200)
    times = []
    for n in range(TIMES):
        after = [*pods[:n], *pods[n + 1 :], pods[n] + 1000]
        _replace(node, pods, after)
        pods = after
        times.append(timed(node.sync))
    yield Row(measure="  one endpoint of it changes", ours=statistics.median(times), unit="ms", most=20)
    node.close()


def _replace(node: ProxyNode, before: Sequence[int], after: Sequence[int]) -> None:
    """The last Service has these pods now."""
    kept = {piece.name for piece in many_endpoints(_OTHERS, after)}
    for piece in many_endpoints(_OTHERS, before):
        if piece.name not in kept:
            node.cache.remove(Kind.ENDPOINT_SLICE, piece.name)
    for piece in many_endpoints(_OTHERS, after):
        node.cache.put(piece)


def _audit(node: ProxyNode) -> Iterator[Row]:
    """What looking at everything costs, spread over the period in which it happens once."""
    begin = time.process_time() + _children_time()
    if node.sync(audit=True):
        raise RuntimeError("an audit of a settled node wrote something")
    spent = time.process_time() + _children_time() - begin
    period = node.options.ipvs_sync_period
    factor = emulation_factor()
    yield Row(
        measure="processor while nothing changes, audits",
        ours=100 * spent / factor / period,
        unit="% of a core",
        most=0.5,
        note=f"{spent:.2f} s" + (f" / {factor:.1f}" if factor != 1 else "") + f" every {period:.0f} s, children included",
    )


def _scrapes(node: ProxyNode, services: int) -> Iterator[Row]:
    """Reading all counters and writing them down; and what an endpoint that changes meanwhile feels of it."""
    metrics = Registry()
    metrics.expose(["proxy"])
    meter_services(node.cycle, metrics=metrics)

    def scrape() -> None:
        text = render(metrics.collect())
        if text.count("kube_router_service_total_connections{") != services:
            raise RuntimeError("a scrape does not show every Service")

    yield Row(measure=f"scrape of {services:,} Services", ours=timed(scrape) / 1000, unit="s", most=1)

    def scrape_some() -> None:
        for _ in range(_FEW):
            scrape()

    scraping = Thread(target=scrape_some)
    scraping.start()
    took = _one_endpoint(node, services)
    meanwhile = scraping.is_alive()
    scraping.join()
    note = "" if meanwhile else "scrapes ended before"
    yield Row(measure=f"one endpoint of {services:,} Services, during scrapes", ours=took, unit="ms", most=20, note=note)


def _restart(services: int) -> Iterator[Row]:
    """A daemon that starts over what an earlier one left; some endpoints are of another generation by then."""
    node = ProxyNode()
    node.list_all(services)
    for n in range(TIMES):
        node.cache.put(endpoints(services * n // TIMES, generation=1))
    begin = time.perf_counter()
    written = node.sync()
    yield Row(measure="restart over it: observed and compared", ours=time.perf_counter() - begin, unit="s")
    yield Row(measure="restart over it: writes", ours=written, unit="writes", most=0)
    node.close()


def _flatness() -> Iterator[Row]:
    """The same change in nodes of growing size."""
    took: dict[int, float] = {}
    for services in GROWING:
        progress(f"one endpoint among {services}")
        clear()
        node = ProxyNode()
        node.list_all(services)
        node.sync()
        took[services] = _one_endpoint(node, services)
        node.close()
    least, most = min(GROWING), max(GROWING)
    yield Row(
        measure=f"one endpoint: {most:,} Services against {least:,}",
        ours=took[most] / took[least],
        unit="times",
        most=FLAT,
        note=", ".join(f"{services:,}: {each:.2f} ms" for services, each in took.items()),
    )


def _memory() -> Row:
    """In a process of its own, for this one has measured much by now."""
    progress("memory")
    clear()
    resident = float(tool(sys.executable, "-m", "bench.proxy_node", str(LARGE)))
    return Row(measure=f"resident memory, proxy alone, {LARGE:,} Services", ours=resident, unit="MiB", most=120)


def _children_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
