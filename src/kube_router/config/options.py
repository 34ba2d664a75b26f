"""What the program was asked to do, as one frozen value: an attribute per flag, plus what the environment says.

Values are parsed and canonical: durations are seconds, addresses and CIDRs canonical text, passwords decoded Secrets.
An Options that exists is valid; `parse.py` makes it from a command line, `defaults` from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kube_router.config.flag_table import FLAGS

if TYPE_CHECKING:
    from kube_router.kit.net import Family
    from kube_router.model.secret import Secret

DEFAULT_CNI_CONF_FILE: Final = "/etc/cni/net.d/10-kuberouter.conf"
DEFAULT_CLUSTER_ASN: Final = 64512
METRICS_OFF: Final = (0, 65535)
MOST_VERBOSE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Flags by their names with '_' for '-'; their meaning stands in `flag_table.py`."""

    # The environment, section 1.3 of the original's behaviour; node_name stays empty where only the host name is left.
    node_name: str
    cni_conf_file: str
    pod_name: str
    pod_namespace: str

    advertise_cluster_ip: bool
    advertise_external_ip: bool
    advertise_loadbalancer_ip: bool
    advertise_pod_cidr: bool
    advertise_without_endpoints: bool
    auto_mtu: bool
    bfd_desired_min_tx_interval: int
    bfd_detection_multiplier: int
    bfd_port: int
    bfd_required_min_rx_interval: int
    bgp_graceful_restart: bool
    bgp_graceful_restart_deferral_time: float
    bgp_graceful_restart_time: float
    bgp_holdtime: float
    bgp_port: int
    cache_sync_timeout: float
    cleanup_config: bool
    cluster_asn: int
    cni_bin_dir: str
    datapath_network: tuple[str, ...]
    disable_source_dest_check: bool
    enable_bfd: bool
    enable_cni: bool
    enable_ibgp: bool
    enable_ipv4: bool
    enable_ipv6: bool
    enable_overlay: bool
    enable_pod_egress: bool
    enable_pprof: bool
    excluded_cidrs: tuple[str, ...]
    gobgp_admin_address: str
    gobgp_admin_port: int
    gobgp_api: str
    hairpin_mode: bool
    health_addr: str
    health_port: int
    help: bool
    hostname_override: str
    injected_routes_sync_period: float
    iptables_backend: str
    iptables_sync_period: float
    ipvs_graceful_period: float
    ipvs_graceful_termination: bool
    ipvs_permit_all: bool
    ipvs_sync_period: float
    kubeconfig: str
    loadbalancer_default_class: bool
    loadbalancer_ip_range: tuple[str, ...]
    loadbalancer_sync_period: float
    log_format: str
    masquerade_all: bool
    master: str
    metrics_addr: str
    metrics_path: str
    metrics_port: int
    netpol_default_deny: bool
    nodeport_bindon_all_ip: bool
    nodes_full_mesh: bool
    overlay_encap: str
    overlay_encap_port: int
    overlay_type: str
    overlay_vxlan_port: int
    override_nexthop: bool
    peer_router_asns: tuple[int, ...]
    peer_router_ips: tuple[str, ...]
    peer_router_multihop_ttl: int
    peer_router_passwords: tuple[Secret, ...]
    peer_router_passwords_file: str
    peer_router_ports: tuple[int, ...]
    pod_egress_excluded_cidrs: tuple[str, ...]
    router_id: str
    routes_sync_period: float
    run_firewall: bool
    run_loadbalancer: bool
    run_router: bool
    run_service_proxy: bool
    runtime_endpoint: str
    service_cluster_ip_range: tuple[str, ...]
    service_external_ip_range: tuple[str, ...]
    service_node_port_range: str
    service_tcp_timeout: float
    service_tcpfin_timeout: float
    service_udp_timeout: float
    state_dir: str
    strict_external_ip_validation: bool
    use_nftables_for_netpol: bool
    v: str
    version: bool
    withdraw_on_cordon: bool

    @property
    def families(self) -> tuple[Family, ...]:
        """The enabled families, IPv4 first."""
        if self.enable_ipv4:
            return (4, 6) if self.enable_ipv6 else (4,)
        return (6,) if self.enable_ipv6 else ()

    @property
    def asn(self) -> int:
        """AS number of the nodes in full mesh."""
        return self.cluster_asn or DEFAULT_CLUSTER_ASN

    @property
    def gobgp_target(self) -> str:
        """gRPC target of the speaker: "unix:///path" or "host:port", IPv6 in brackets.

        A speaker told to listen on an unspecified address is reached over loopback, as one told nothing.
        """
        if self.gobgp_api:
            return self.gobgp_api
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.gobgp_admin_address, self.gobgp_admin_address)
        return f"[{host}]:{self.gobgp_admin_port}" if ":" in host else f"{host}:{self.gobgp_admin_port}"

    @property
    def cni_folders(self) -> tuple[str, ...]:
        """Folders of CNI plugins, in the order in which they are looked through."""
        return tuple(self.cni_bin_dir.split(":"))

    @property
    def api_servers(self) -> tuple[str, ...]:
        """The URLs of --master, in the order given; empty when kubeconfig or pod decide."""
        return tuple(self.master.split(",")) if self.master else ()

    @property
    def node_ports(self) -> tuple[int, int]:
        """First and last node port, both included."""
        first, last = self.service_node_port_range.replace(":", "-").split("-")
        return int(first), int(last)

    @property
    def metrics_enabled(self) -> bool:
        """Whether metrics are served; the original takes both 0 and 65535 as off."""
        return self.metrics_port not in METRICS_OFF

    @property
    def verbosity(self) -> int:
        """Log verbosity, 0..4."""
        return min(int(self.v), MOST_VERBOSE)


ENVIRONMENT_DEFAULTS: Final[dict[str, str]] = {
    "node_name": "",
    "cni_conf_file": DEFAULT_CNI_CONF_FILE,
    "pod_name": "",
    "pod_namespace": "",
}


def defaults(**overrides: Any) -> Options:
    """Options of a program started without arguments and with an empty environment, but for the overrides.

    The overrides are taken as they are: give them parsed and canonical, as the attributes are described.
    """
    return Options(**({flag.attribute: flag.default for flag in FLAGS} | ENVIRONMENT_DEFAULTS | overrides))
