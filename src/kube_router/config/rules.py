"""Rules that weigh a value with more care than one line, or flags against each other. Each names the flags it reads.

The words of the CIDR and node port faults are those of the original, which its users search for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Final

from kube_router.config.faults import Fault
from kube_router.config.options import Options
from kube_router.kit.net import canonical_address

LONGEST_RESTART: Final = 4095  # seconds, 12 bits (RFC 4724 section 3)
LONGEST_DEFERRAL: Final = 18 * 3600  # seconds, a bound of gobgpd's
MOST_CLUSTER_RANGES: Final = 2
_PREFIX_LENGTH: Final = re.compile(r"/[0-9]{1,3}\Z")
_NODE_PORTS: Final = re.compile(r"([0-9]+)[:-]([0-9]+)")


@dataclass(frozen=True, slots=True)
class Rule:
    """`reads` are names of flags; with one of them unreadable the rule is left out, since it would judge a default."""

    reads: tuple[str, ...]
    find: Callable[[Options], Iterator[Fault]]


def canonical_cidr(text: str) -> str:
    """Canonical text of a CIDR, host bits cleared; ValueError when it is none, as a bare address is."""
    if not _PREFIX_LENGTH.search(text) or "%" in text:
        raise ValueError("no CIDR")
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError("IPv4 in the form of IPv6")
    return str(network)


def _is_cidr(text: str) -> bool:
    try:
        canonical_cidr(text)
    except ValueError:
        return False
    return True


def _families(options: Options) -> Iterator[Fault]:
    if not options.enable_ipv4 and not options.enable_ipv6:
        yield Fault("--enable-ipv4", "false", "IPv6 is off as well", "enable at least one of the two")


def _ranges(flag: str, cidrs: tuple[str, ...], options: Options) -> Iterator[Fault]:
    for cidr in cidrs:
        if not _is_cidr(cidr):
            problem = f"failed to parse {flag} parameter: '{cidr}': invalid CIDR address: {cidr}"
            yield Fault(flag, cidr, problem, "give CIDRs such as 10.96.0.0/12")
            continue
        family = 6 if ":" in cidr else 4
        if family not in options.families:
            problem = f"IPv{family} CIDR {cidr} specified in {flag} while IPv{family} is disabled"
            yield Fault(flag, cidr, problem, f"leave it out or give --enable-ipv{family}")


def _cluster_range(options: Options) -> Iterator[Fault]:
    flag, cidrs = "--service-cluster-ip-range", options.service_cluster_ip_range
    yield from _ranges(flag, cidrs, options)
    if len(cidrs) > MOST_CLUSTER_RANGES:
        problem = f"too many CIDRs provided in {flag} parameter, only two addresses are allowed at once for dual-stack"
        yield Fault(flag, ",".join(cidrs), problem, "give one CIDR per family")
    elif not cidrs:
        yield Fault(flag, "", "names no CIDR", "give the cluster's range of service addresses, such as 10.96.0.0/12")


def _external_range(options: Options) -> Iterator[Fault]:
    return _ranges("--service-external-ip-range", options.service_external_ip_range, options)


def _allocator_range(options: Options) -> Iterator[Fault]:
    return _ranges("--loadbalancer-ip-range", options.loadbalancer_ip_range, options)


def _cidrs(flag: str, cidrs: tuple[str, ...]) -> Iterator[Fault]:
    """CIDRs of either family, switched on or not."""
    for cidr in cidrs:
        if not _is_cidr(cidr):
            yield Fault(flag, cidr, f"invalid CIDR address: {cidr}", "give CIDRs such as 10.0.0.0/8")


def _node_ports(options: Options) -> Iterator[Fault]:
    flag, text = "--service-node-port-range", options.service_node_port_range
    advice = "give two ports, the lower one first, such as 30000-32767"
    match = _NODE_PORTS.fullmatch(text)
    if match is None:
        problem = f"failed to parse node port range given: '{text}' please see specification in help text"
        yield Fault(flag, text, problem, advice)
        return
    for name, digits in zip(("first", "second"), match.groups(), strict=True):
        if len(digits.lstrip("0")) > 5 or int(digits) > 65535:
            yield Fault(flag, text, f"could not parse {name} port number from range given: '{text}'", advice)
            return
    if int(match[1]) >= int(match[2]):
        problem = f"port 1 is greater than or equal to port 2 in range given: '{text}'"
        yield Fault(flag, text, problem, advice)


def _restart_times(options: Options) -> Iterator[Fault]:
    if not options.bgp_graceful_restart:
        return
    for name, seconds, longest in (
        ("--bgp-graceful-restart-time", options.bgp_graceful_restart_time, LONGEST_RESTART),
        ("--bgp-graceful-restart-deferral-time", options.bgp_graceful_restart_deferral_time, LONGEST_DEFERRAL),
    ):
        if not 0 < seconds <= longest:
            yield Fault(name, f"{seconds:g}s", "out of range", f"give more than 0s and at most {longest}s")


def _peer_ips(options: Options) -> Iterator[Fault]:
    ips = [canonical_address(ip) for ip in options.peer_router_ips]
    for ip in dict.fromkeys(ip for ip in ips if ips.count(ip) > 1):
        yield Fault("--peer-router-ips", ip, "named more than once", "name every peer once, with its AS number at the same place")


def _peer_asns(options: Options) -> Iterator[Fault]:
    return _peer_count("--peer-router-asns", options.peer_router_asns, options, optional=False)


def _peer_ports(options: Options) -> Iterator[Fault]:
    return _peer_count("--peer-router-ports", options.peer_router_ports, options, optional=True)


def _peer_passwords(options: Options) -> Iterator[Fault]:
    return _peer_count("--peer-router-passwords", options.peer_router_passwords, options, optional=True)


def _peer_count(flag: str, items: Sized, options: Options, *, optional: bool) -> Iterator[Fault]:
    count, peers = len(items), len(options.peer_router_ips)
    if count != peers and (count or not optional):
        problem = f"{count} given for the {peers} of --peer-router-ips"
        yield Fault(flag, None, problem, f"give {peers}" + (" or none" if optional and peers else ""))


def _speaker(options: Options) -> Iterator[Fault]:
    if options.run_router and not options.gobgp_api and options.gobgp_admin_port == 0:
        problem = "leaves no way to reach the BGP speaker"
        yield Fault("--gobgp-admin-port", "0", problem, "give the speaker's port, or its place with --gobgp-api")


def _listeners(options: Options) -> Iterator[Fault]:
    hosts = {options.health_addr.strip("[]"), options.metrics_addr.strip("[]")}
    everywhere = {"", "0.0.0.0", "::"}
    if not options.metrics_enabled or options.metrics_port != options.health_port:
        return
    if len(hosts) == 1 or hosts & everywhere:
        port = str(options.metrics_port)
        yield Fault("--metrics-port", port, "the same as --health-port", "give each a port of its own")


RULES: Final[tuple[Rule, ...]] = (
    Rule(("enable-ipv4", "enable-ipv6"), _families),
    Rule(("service-cluster-ip-range", "enable-ipv4", "enable-ipv6"), _cluster_range),
    Rule(("service-external-ip-range", "enable-ipv4", "enable-ipv6"), _external_range),
    Rule(("loadbalancer-ip-range", "enable-ipv4", "enable-ipv6"), _allocator_range),
    Rule(("excluded-cidrs",), lambda options: _cidrs("--excluded-cidrs", options.excluded_cidrs)),
    Rule(("datapath-network",), lambda options: _cidrs("--datapath-network", options.datapath_network)),
    Rule(("pod-egress-excluded-cidrs",), lambda options: _cidrs("--pod-egress-excluded-cidrs", options.pod_egress_excluded_cidrs)),
    Rule(("service-node-port-range",), _node_ports),
    Rule(("bgp-graceful-restart", "bgp-graceful-restart-time", "bgp-graceful-restart-deferral-time"), _restart_times),
    Rule(("peer-router-ips",), _peer_ips),
    Rule(("peer-router-ips", "peer-router-asns"), _peer_asns),
    Rule(("peer-router-ips", "peer-router-ports"), _peer_ports),
    Rule(("peer-router-ips", "peer-router-passwords"), _peer_passwords),
    Rule(("gobgp-admin-port", "gobgp-api", "run-router"), _speaker),
    Rule(("health-port", "metrics-port", "health-addr", "metrics-addr"), _listeners),
)
