"""The table of flags is complete, and says of each flag what the original says."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import get_type_hints

import pytest

from kube_router.config.flag_table import BY_NAME, BY_SHORT, FLAGS
from kube_router.config.flags import Flag
from kube_router.config.options import ENVIRONMENT_DEFAULTS, Options, defaults
from kube_router.config.usage import default_text
from kube_router.config.validate import parse
from kube_router.kit.net import Family
from kube_router.model.secret import Secret

# Name, type and default of kube-router v2.11's flags, defaults as its help prints them or would print them.
THE_ORIGINALS = """
advertise-cluster-ip bool false
advertise-external-ip bool false
advertise-loadbalancer-ip bool false
advertise-pod-cidr bool true
auto-mtu bool true
bfd-desired-min-tx-interval uint32 1000
bfd-detection-multiplier uint32 3
bfd-port uint32 3784
bfd-required-min-rx-interval uint32 1000
bgp-graceful-restart bool false
bgp-graceful-restart-deferral-time duration 6m0s
bgp-graceful-restart-time duration 1m30s
bgp-holdtime duration 1m30s
bgp-port uint32 179
cache-sync-timeout duration 1m0s
cleanup-config bool false
cluster-asn uint 0
disable-source-dest-check bool true
enable-bfd bool false
enable-cni bool true
enable-ibgp bool true
enable-ipv4 bool true
enable-ipv6 bool false
enable-overlay bool true
enable-pod-egress bool true
enable-pprof bool false
excluded-cidrs strings []
gobgp-admin-address string 127.0.0.1
gobgp-admin-port uint16 50051
hairpin-mode bool false
health-addr string ""
health-port uint16 20244
help bool false
hostname-override string ""
injected-routes-sync-period duration 1m0s
iptables-sync-period duration 5m0s
ipvs-graceful-period duration 30s
ipvs-graceful-termination bool false
ipvs-permit-all bool true
ipvs-sync-period duration 5m0s
kubeconfig string ""
loadbalancer-default-class bool true
loadbalancer-ip-range strings []
loadbalancer-sync-period duration 1m0s
masquerade-all bool false
master string ""
metrics-addr string ""
metrics-path string /metrics
metrics-port uint16 0
netpol-default-deny bool false
nodeport-bindon-all-ip bool false
nodes-full-mesh bool true
overlay-encap string ipip
overlay-encap-port uint16 5555
overlay-type string subnet
override-nexthop bool false
peer-router-asns uints []
peer-router-ips ipSlice []
peer-router-multihop-ttl uint8 0
peer-router-passwords strings []
peer-router-passwords-file string ""
peer-router-ports uints []
router-id string ""
routes-sync-period duration 5m0s
run-firewall bool true
run-loadbalancer bool false
run-router bool true
run-service-proxy bool true
runtime-endpoint string ""
service-cluster-ip-range strings [10.96.0.0/12]
service-external-ip-range strings []
service-node-port-range string 30000-32767
service-tcp-timeout duration 0s
service-tcpfin-timeout duration 0s
service-udp-timeout duration 0s
strict-external-ip-validation bool true
use-nftables-for-netpol bool false
v string 0
version bool false
"""
ZERO = {"bool": "false", "duration": "0s", "strings": "[]", "ipSlice": "[]", "uints": "[]", "string": '""'}
OURS = {"cni-bin-dir", "datapath-network", "gobgp-api", "iptables-backend", "log-format", "overlay-vxlan-port", "pod-egress-excluded-cidrs"}
OURS |= {"advertise-without-endpoints", "state-dir", "withdraw-on-cordon"}
TYPES = {
    "bool": bool, "string": str, "duration": float, "uint": int, "uint8": int, "uint16": int, "uint32": int,
    "strings": tuple[str, ...], "ipSlice": tuple[str, ...], "uints": tuple[int, ...],
}  # fmt: skip


@pytest.mark.parametrize("row", THE_ORIGINALS.strip().splitlines())
def test_a_flag_of_the_original_has_its_type_and_default(row: str) -> None:
    name, kind, default = row.split(" ")
    flag = BY_NAME[name]
    assert flag.kind == kind
    assert (default_text(flag) or ZERO.get(kind, "0")).strip('"') == default.strip('"')


def test_there_are_the_79_of_the_original_and_ours_and_no_others() -> None:
    originals = {row.split(" ")[0] for row in THE_ORIGINALS.strip().splitlines()}
    assert len(originals) == 79
    assert {flag.name for flag in FLAGS if not flag.ours} == originals
    assert {flag.name for flag in FLAGS if flag.ours} == OURS
    assert Counter(flag.name for flag in FLAGS).most_common(1)[0][1] == 1


def test_the_short_flags_are_the_three_of_the_original() -> None:
    assert {short: flag.name for short, flag in BY_SHORT.items()} == {"h": "help", "V": "version", "v": "v"}


def test_options_have_one_attribute_for_each_flag_and_for_each_thing_of_the_environment() -> None:
    expected = {flag.attribute for flag in FLAGS} | set(ENVIRONMENT_DEFAULTS)
    assert {field.name for field in fields(Options)} == expected


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_the_attribute_of_a_flag_has_the_type_that_the_flag_gives(flag: Flag) -> None:
    hints = get_type_hints(Options, localns={"Secret": Secret, "Family": Family})
    assert hints[flag.attribute] == (tuple[Secret, ...] if flag.secret else TYPES[flag.kind])


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_explains_itself_in_one_sentence_and_belongs_to_somebody(flag: Flag) -> None:
    assert flag.help.endswith(".")
    assert flag.owners
    assert flag.check is None or flag.check.accepts(flag.default)


def test_a_program_started_without_arguments_has_the_defaults() -> None:
    assert parse([], {}, open) == defaults()


@pytest.mark.parametrize(
    ("overrides", "target"),
    [
        ({}, "127.0.0.1:50051"),
        ({"gobgp_admin_address": ""}, "127.0.0.1:50051"),
        ({"gobgp_admin_address": "0.0.0.0"}, "127.0.0.1:50051"),
        ({"gobgp_admin_address": "::"}, "[::1]:50051"),
        ({"gobgp_admin_address": "fd00::1", "gobgp_admin_port": 1}, "[fd00::1]:1"),
        ({"gobgp_admin_address": "10.0.0.1"}, "10.0.0.1:50051"),
        ({"gobgp_api": "unix:///run/gobgp.sock", "gobgp_admin_port": 0}, "unix:///run/gobgp.sock"),
    ],
)
def test_the_speaker_is_where_its_own_flag_or_the_admin_flags_say(overrides: dict[str, object], target: str) -> None:
    assert defaults(**overrides).gobgp_target == target


@pytest.mark.parametrize(("four", "six", "families"), [(True, False, (4,)), (True, True, (4, 6)), (False, True, (6,)), (False, False, ())])
def test_families_are_the_enabled_ones(four: bool, six: bool, families: tuple[Family, ...]) -> None:
    assert defaults(enable_ipv4=four, enable_ipv6=six).families == families


def test_what_is_derived_from_flags() -> None:
    options = defaults(cluster_asn=65001, master="https://a:1,https://b:2", service_node_port_range="100:200", v="7")
    assert (defaults().asn, options.asn) == (64512, 65001)
    assert (defaults().api_servers, options.api_servers) == ((), ("https://a:1", "https://b:2"))
    assert (defaults().node_ports, options.node_ports) == ((30000, 32767), (100, 200))
    assert (defaults().verbosity, options.verbosity) == (0, 4)


@pytest.mark.parametrize(("port", "on"), [(0, False), (1, True), (65534, True), (65535, False)])
def test_metrics_are_off_at_both_ends_of_the_port_range(port: int, on: bool) -> None:
    assert defaults(metrics_port=port).metrics_enabled is on
