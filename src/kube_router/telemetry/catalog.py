"""Every metric of the program as a row of data: those of kube-router v2.11 by their exact names, then ours.

The original's counters have no `_total` and its times no unit in their names; dashboards know them so, and so they stay.
Ours follow the usual conventions. A row's owner tells with which controller it appears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Owner = Literal["core", "router", "proxy", "firewall", "loadbalancer"]

PREFIX: Final = "kube_router_"
FOREIGN_PREFIX: Final = "process_"
SERVICE: Final = ("svc_namespace", "service_name", "service_vip", "protocol", "port")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series; `labels` in the order in which they are written.

    `at_scrape` marks what is only read when somebody asks: it is absent, not 0, when the reading fails.
    """

    name: str
    kind: Kind
    owner: Owner
    help: str
    labels: tuple[str, ...] = ()
    at_scrape: bool = False

    @property
    def exposed_name(self) -> str:
        """The name as scraped: ours carry the program's prefix, those every process has carry none."""
        return self.name if self.name.startswith(FOREIGN_PREFIX) else PREFIX + self.name


def _service(name: str, kind: Kind, words: str) -> Metric:
    return Metric(f"service_{name}", kind, "proxy", words, SERVICE, at_scrape=True)


# A table reads best with its rows in as few lines as they need.
# fmt: off
THE_ORIGINALS: Final = (
    Metric("build_info", "gauge", "core", "Always 1; the labels tell version and runtime.", ("goversion", "version")),
    Metric("controller_ipvs_metrics_export_time", "histogram", "proxy", "Seconds that reading IPVS for a scrape took."),
    Metric(
        "bgp_peer_info", "gauge", "router", "Always 1, one per BGP peer, with its session's state.", ("address", "type", "asn", "state")
    ),
    Metric("controller_bgp_advertisements_received", "counter", "router", "Changes of best paths, own ones included."),
    Metric("controller_bgp_advertisements_sent", "counter", "router", "Paths handed to the speaker or taken back.", ("type",)),
    Metric("controller_bgp_internal_peers_sync_time", "histogram", "router", "Seconds to bring node peers up to date."),
    Metric("controller_routes_sync_time", "histogram", "router", "Seconds to bring the sets of pods and nodes up to date."),
    Metric("host_routes_synced", "gauge", "router", "Routes to other nodes that the kernel is to have."),
    Metric("host_routes_added", "counter", "router", "Routes added to the kernel."),
    Metric("host_routes_removed", "counter", "router", "Routes removed from the kernel."),
    Metric("host_routes_sync_time", "histogram", "router", "Seconds to bring the kernel's routes up to date."),
    Metric("controller_iptables_sync_time", "histogram", "firewall", "Seconds of a pass of network policy."),
    Metric("controller_iptables_v4_save_time", "histogram", "firewall", "Seconds to read the IPv4 rules."),
    Metric("controller_iptables_v6_save_time", "histogram", "firewall", "Seconds to read the IPv6 rules."),
    Metric("controller_iptables_v4_restore_time", "histogram", "firewall", "Seconds to write IPv4 rules."),
    Metric("controller_iptables_v6_restore_time", "histogram", "firewall", "Seconds to write IPv6 rules."),
    Metric("controller_policy_chains_sync_time", "histogram", "firewall", "Seconds to work out the policies' chains."),
    Metric("controller_policy_ipset_v4_restore_time", "histogram", "firewall", "Seconds to write IPv4 sets."),
    Metric("controller_policy_ipset_v6_restore_time", "histogram", "firewall", "Seconds to write IPv6 sets."),
    Metric("controller_policy_chains", "gauge", "firewall", "Chains of policies in the kernel."),
    Metric("controller_policy_ipsets", "gauge", "firewall", "Sets of policies in the kernel."),
    Metric("controller_ipvs_services_sync_time", "histogram", "proxy", "Seconds of a pass of the service proxy."),
    Metric("controller_ipvs_services", "gauge", "proxy", "IPVS services of this node, foreign ones included.", at_scrape=True),
    _service("total_connections", "counter", "Connections to the Service."),
    _service("packets_in", "counter", "Packets to the Service."),
    _service("packets_out", "counter", "Packets from the Service."),
    _service("bytes_in", "counter", "Bytes to the Service."),
    _service("bytes_out", "counter", "Bytes from the Service."),
    _service("cps", "gauge", "Connections to the Service per second."),
    _service("pps_in", "gauge", "Packets to the Service per second."),
    _service("pps_out", "gauge", "Packets from the Service per second."),
    _service("bps_in", "gauge", "Bytes to the Service per second."),
    _service("bps_out", "gauge", "Bytes from the Service per second."),
)

OURS: Final = (
    Metric("controller_sync_errors_total", "counter", "core", "Passes that ended in an error, by its kind.", ("controller", "kind")),
    Metric("controller_last_success_timestamp_seconds", "gauge", "core", "When a pass last ended well, in Unix time.", ("controller",)),
    Metric("drift_repaired_total", "counter", "core", "State that others had changed and an audit put right.", ("kind",)),
    Metric("kernel_writes_total", "counter", "core", "Changes written, by where to.", ("target",)),
    Metric("rejected_items_total", "counter", "core", "Objects or parts of them that could not be served.", ("controller", "kind")),
    Metric("bad_objects_total", "counter", "core", "Objects from the API server that could not be read.", ("kind",)),
    Metric("watch_events_total", "counter", "core", "Changes received from the API server.", ("kind",)),
    Metric("watch_relists_total", "counter", "core", "Complete lists fetched from the API server.", ("kind",)),
    Metric("kubernetes_events_total", "counter", "core", "Events reported to the API server.", ("reason",)),
    Metric("overlay_peer_unreachable", "gauge", "router", "Whether a node behind a tunnel does not answer.", ("address",), at_scrape=True),
    Metric("draining_destinations", "gauge", "proxy", "Backends that get no new connections and end their old ones.", at_scrape=True),
    Metric("refused_vips", "gauge", "proxy", "Addresses of Services, or ports of them, not served here.", ("reason",), at_scrape=True),
    Metric("scrape_errors_total", "counter", "core", "Parts of the metrics that could not be read.", ("part",)),
)
# fmt: on


def _process(name: str, kind: Kind, words: str) -> Metric:
    return Metric(FOREIGN_PREFIX + name, kind, "core", words, at_scrape=True)


EVERY_PROCESS: Final = (
    _process("cpu_seconds_total", "counter", "Processor time used, in seconds."),
    _process("resident_memory_bytes", "gauge", "Memory in use, in bytes."),
    _process("virtual_memory_bytes", "gauge", "Address space in use, in bytes."),
    _process("start_time_seconds", "gauge", "When the process started, in Unix time."),
    _process("open_fds", "gauge", "Open file descriptors."),
    _process("max_fds", "gauge", "Most file descriptors that may be open."),
)

CATALOG: Final[tuple[Metric, ...]] = THE_ORIGINALS + OURS + EVERY_PROCESS
