"""Metrics: counted from any thread, shown by the original's names, in text that Prometheus reads."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kube_router.telemetry.catalog import CATALOG, EVERY_PROCESS, OURS, THE_ORIGINALS, Metric
from kube_router.telemetry.exposition import render
from kube_router.telemetry.metrics import BUCKETS, Registry, Sample
from kube_router.telemetry.process import read_process

SERVICE = "svc_namespace service_name service_vip protocol port"
# Name, type and labels of kube-router v2.11's metrics, as scraped.
AS_RECORDED = f"""
bgp_peer_info gauge address type asn state
build_info gauge goversion version
controller_bgp_advertisements_received counter
controller_bgp_advertisements_sent counter type
controller_bgp_internal_peers_sync_time histogram
controller_iptables_sync_time histogram
controller_iptables_v4_restore_time histogram
controller_iptables_v4_save_time histogram
controller_iptables_v6_restore_time histogram
controller_iptables_v6_save_time histogram
controller_ipvs_metrics_export_time histogram
controller_ipvs_services gauge
controller_ipvs_services_sync_time histogram
controller_policy_chains gauge
controller_policy_chains_sync_time histogram
controller_policy_ipset_v4_restore_time histogram
controller_policy_ipset_v6_restore_time histogram
controller_policy_ipsets gauge
controller_routes_sync_time histogram
host_routes_added counter
host_routes_removed counter
host_routes_sync_time histogram
host_routes_synced gauge
service_bps_in gauge {SERVICE}
service_bps_out gauge {SERVICE}
service_bytes_in counter {SERVICE}
service_bytes_out counter {SERVICE}
service_cps gauge {SERVICE}
service_packets_in counter {SERVICE}
service_packets_out counter {SERVICE}
service_pps_in gauge {SERVICE}
service_pps_out gauge {SERVICE}
service_total_connections counter {SERVICE}
"""
EVERYBODY = ("core", "router", "proxy", "firewall", "loadbalancer")


def shown(registry: Registry) -> str:
    return render(registry.collect())


def test_the_originals_metrics_have_their_names_types_and_labels() -> None:
    rows = {" ".join([metric.name, metric.kind, *metric.labels]) for metric in THE_ORIGINALS}
    assert rows == set(AS_RECORDED.strip().splitlines())


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_our_own_metrics_follow_the_conventions(metric: Metric) -> None:
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert metric.help.endswith(".")


def test_no_name_stands_twice() -> None:
    assert len({metric.exposed_name for metric in CATALOG}) == len(CATALOG)


def test_a_counter_keeps_its_name_without_total() -> None:
    registry = Registry()
    registry.expose(["router"])
    registry.counter("host_routes_added").inc()
    registry.counter("host_routes_added").inc(2)
    assert "# TYPE kube_router_host_routes_added counter\nkube_router_host_routes_added 3\n" in shown(registry)


def test_a_metric_without_labels_is_there_from_the_start_and_only_with_its_controller() -> None:
    registry = Registry()
    assert "host_routes_added" not in shown(registry)
    registry.expose(["router"])
    text = shown(registry)
    assert "kube_router_host_routes_added 0\n" in text
    assert "kube_router_host_routes_sync_time_count 0\n" in text
    assert "policy_chains" not in text
    assert "advertisements_sent" not in text


def test_a_histogram_counts_up_to_each_bound() -> None:
    registry = Registry()
    registry.expose(["router"])
    for seconds in (0.005, 0.0051, 0.3, 10, 11):
        registry.histogram("host_routes_sync_time").observe(seconds)
    lines = [line for line in shown(registry).splitlines() if line.startswith("kube_router_host_routes_sync_time")]
    bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    counts = [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5]
    name = "kube_router_host_routes_sync_time"
    assert lines == [
        *(f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, counts, strict=True)),
        f"{name}_sum 21.3101",
        f"{name}_count 5",
    ]


def test_a_block_is_timed_even_when_it_fails() -> None:
    registry = Registry()
    ticks = iter([1.0, 3.5])
    with pytest.raises(KeyError), registry.histogram("host_routes_sync_time").time(lambda: next(ticks)):
        raise KeyError
    assert registry.value("host_routes_sync_time") == 1
    registry.expose(["router"])
    assert "host_routes_sync_time_sum 2.5\n" in shown(registry)


def test_replacing_a_gauge_makes_the_series_not_named_disappear() -> None:
    registry = Registry()
    registry.expose(["router"])
    registry.replace("bgp_peer_info", {("10.0.0.2", "internal", "64512", "idle"): 1})
    registry.replace("bgp_peer_info", {("10.0.0.3", "external", "65001", "established"): 1})
    series = [line for line in shown(registry).splitlines() if line.startswith("kube_router_bgp_peer_info")]
    assert series == ['kube_router_bgp_peer_info{address="10.0.0.3",type="external",asn="65001",state="established"} 1']


def test_a_gauge_goes_up_and_down() -> None:
    registry = Registry()
    gauge = registry.gauge("controller_policy_chains")
    gauge.set(5)
    gauge.add(-2)
    assert registry.value("controller_policy_chains") == 3


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("counter", ("no_such",), KeyError),
        ("counter", ("host_routes_synced",), ValueError),
        ("counter", ("controller_bgp_advertisements_sent",), ValueError),
        ("counter", ("controller_bgp_advertisements_sent", {"kind": "x"}), ValueError),
        ("gauge", ("host_routes_added",), ValueError),
        ("gauge", ("host_routes_synced", {"x": "y"}), ValueError),
        ("histogram", ("host_routes_added",), ValueError),
        ("replace", ("bgp_peer_info", {("a",): 1}), ValueError),
        ("replace", ("host_routes_added", {(): 1}), ValueError),
    ],
)
def test_a_mistyped_metric_is_an_error(method: str, arguments: tuple[object, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        getattr(Registry(), method)(*arguments)


def test_a_counter_does_not_go_down() -> None:
    with pytest.raises(ValueError, match="cannot go down"):
        Registry().counter("host_routes_added").inc(-1)


def test_what_is_read_at_scrape_is_read_anew_each_time() -> None:
    registry = Registry()
    registry.expose(["proxy"])
    labels = ("default", "web", "10.96.0.1", "tcp", "80")
    readings = iter([[Sample("service_bytes_in", labels, 5)], []])
    registry.at_scrape("ipvs", lambda: next(readings))
    assert (
        'kube_router_service_bytes_in{svc_namespace="default",service_name="web",service_vip="10.96.0.1",protocol="tcp",port="80"} 5\n'
    ) in shown(registry)
    assert "service_bytes_in" not in shown(registry)


@pytest.mark.parametrize(
    "bad", [Sample("no_such", (), 1), Sample("service_bytes_in", ("a",), 1), Sample("host_routes_sync_time", (), 1), None]
)
def test_a_reader_that_fails_is_counted_and_costs_only_its_own_series(bad: Sample | None) -> None:
    registry = Registry()
    registry.expose(["router", "proxy"])
    good = Sample("controller_ipvs_services", (), 7)
    registry.at_scrape("ipvs", lambda: [good, bad])
    registry.at_scrape("other", lambda: [Sample("host_routes_synced", (), 4)])
    text = shown(registry)
    assert 'kube_router_scrape_errors_total{part="ipvs"} 1\n' in text
    assert "kube_router_host_routes_synced 4\n" in text
    assert "kube_router_controller_ipvs_services 7" not in text
    assert "# TYPE kube_router_controller_ipvs_services gauge" not in text


def test_counting_from_many_threads_loses_nothing() -> None:
    registry = Registry()

    def count() -> None:
        for _ in range(2000):
            registry.counter("kernel_writes_total", {"target": "ipvs"}).inc()
            registry.histogram("host_routes_sync_time").observe(0.01)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.value("kernel_writes_total", {"target": "ipvs"}) == 16000
    assert registry.value("host_routes_sync_time") == 16000


@given(st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=5))
def test_any_label_and_value_comes_through_the_text_unchanged(series: dict[str, float]) -> None:
    registry = Registry([Metric("some", "gauge", "core", 'A "gauge"\\\nof two lines.', ("one",))])
    registry.replace("some", {(label,): value for label, value in series.items()})
    families = list(text_string_to_metric_families(shown(registry)))
    read = {sample.labels["one"]: sample.value for family in families for sample in family.samples}
    assert read == series


@given(st.lists(st.floats(0, 20), max_size=20))
def test_an_independent_reader_finds_the_histogram_consistent(seconds: list[float]) -> None:
    registry = Registry([Metric("time", "histogram", "core", "Times.")])
    for one in seconds:
        registry.histogram("time").observe(one)
    (family,) = text_string_to_metric_families(shown(registry))
    assert family.type == "histogram"
    buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets == {bound: sum(one <= bound for one in seconds) for bound in (*BUCKETS, math.inf)}
    (total,) = (s.value for s in family.samples if s.name.endswith("_sum"))
    assert total == pytest.approx(sum(seconds))


def test_a_number_that_is_none_is_shown_as_such() -> None:
    registry = Registry([Metric("some", "gauge", "core", "Some.")])
    registry.gauge("some").set(math.nan)
    assert "kube_router_some NaN\n" in shown(registry)


def test_the_process_is_described() -> None:
    registry = Registry()
    registry.at_scrape("process", read_process)
    families = {family.name: family.samples[0].value for family in text_string_to_metric_families(shown(registry))}
    assert families["process_resident_memory_bytes"] > 1_000_000
    assert families["process_virtual_memory_bytes"] > families["process_resident_memory_bytes"]
    assert 0 < families["process_open_fds"] < families["process_max_fds"]
    assert len(families) == len(EVERY_PROCESS)


def test_the_process_figures_are_taken_from_the_right_places(tmp_path: Path) -> None:
    (tmp_path / "self" / "fd").mkdir(parents=True)
    for descriptor in ("0", "1", "2"):
        (tmp_path / "self" / "fd" / descriptor).touch()
    figures = ["S", *["1"] * 10, "250", "50", *["2"] * 6, "300", "4096000", "25"]
    (tmp_path / "self" / "stat").write_text(f"7 (kube) router) {' '.join(figures)} 9 9\n")
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1700000000\n")
    read = {sample.name: sample.value for sample in read_process(tmp_path)}
    assert read["process_cpu_seconds_total"] == 3.0
    assert read["process_start_time_seconds"] == 1700000003.0
    assert read["process_virtual_memory_bytes"] == 4096000
    assert read["process_resident_memory_bytes"] == 25 * 4096
    assert read["process_open_fds"] == 3


def test_without_proc_the_process_metrics_are_absent_rather_than_zero(tmp_path: Path) -> None:
    registry = Registry()
    registry.at_scrape("process", lambda: read_process(tmp_path))
    text = shown(registry)
    assert "process_open_fds" not in text
    assert 'scrape_errors_total{part="process"} 1' in text
