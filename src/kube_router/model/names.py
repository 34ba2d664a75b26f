"""Names in the kernel that people and other tools see; the original's wherever it has them. Who owns what: plan/ownership.py."""

from __future__ import annotations

import re
from typing import Final

from kube_router.model.family import Family

BRIDGE: Final = "kube-bridge"
DUMMY: Final = "kube-dummy-if"
ROUTE_PROTOCOL: Final = 17  # RTPROT number that the original uses for its routes
OVERLAY_TABLE: Final = 77  # routing table of the overlay: ways to other nodes for packets of pods
DIRECT_TABLE: Final = 78  # routing table of direct server return: all that looks there is delivered here
TOO_BIG_TABLE: Final = 79  # packets look there for which there is no room in another; the original has every packet look there in vain
POD_TUNNELS: Final[dict[Family, str]] = {4: "kube-tunnel-if", 6: "kube-tunnel-v6"}  # in pods that answer directly
VXLAN_LINK: Final = "kube-vxlan"
VXLAN_ID: Final = 0x4B52  # "KR"; of those that other networks use (1 flannel, 4096 Calico) none
_TUNNEL: Final = re.compile(r"tun-[0-9a-f]{11}")

DATAPATH_ANNOTATION: Final = "kube-router.io/datapath-addresses"  # ours, on our own Node: addresses separated by commas

IPV6_SET_PREFIX: Final = "inet6:"
POD_SUBNETS: Final = "kube-router-pod-subnets"
NODE_IPS: Final = "kube-router-node-ips"
LOCAL_IPS: Final = "kube-router-local-ips"
SERVICE_IPS: Final = "kube-router-service-ips"
IPVS_SERVICES: Final = "kube-router-ipvs-services"
LATER_SERVICE_IPS: Final = "kube-router-svip"  # the original's names since 2.0: recognised, then gone
LATER_IPVS_SERVICES: Final = "kube-router-svip-prt"
# The original fills these and swaps them in; one that it was killed over stays. Hashes of set types and families.
LATER_SCRATCH: Final = (
    "TMP-PRBJ7ASFQM5DJR3Q",
    "TMP-TF3INM4IEYGA443O",
    "TMP-LP6R7TXZCLIUYMBN",
    "TMP-3TF2IQ5MKRP6NAJL",
    "TMP-54ALMNP65S4KA7CE",
    "TMP-6RUYGQYVJUHZ3KV3",
)
SERVICE_MARKS: Final = "kube-router-service-marks"  # address and port of a Service that IPVS knows by mark, with the mark
CLUSTER_MARKS: Final = "kube-router-cluster-marks"  # the same, for packets of this cluster's pods and nodes alone
CLUSTER_PODS: Final = "kube-router-cluster-pods"  # pod ranges of all nodes, as the proxy needs them: with or without routing of ours
OWN_PODS: Final = "kube-router-own-pods"  # pod ranges of this node
HAIRPIN_PAIRS: Final = "kube-router-hairpin"  # pods that are backends here, each with itself
GUARDED: Final = "kube-router-guarded"  # addresses and ports that only some sources may reach
HEALTH_PORTS: Final = "kube-router-health-ports"  # load balancers' addresses with the port that these ask about the node's health
ALLOWED: Final = "kube-router-allowed"  # those sources, by address and port
LOCAL_PODS: Final = "kube-router-local-pods"
ISOLATED_EGRESS: Final = "KUBE-POD-EGRESS"  # addresses of pods that policies isolate in a direction
ISOLATED_INGRESS: Final = "KUBE-POD-INGRESS"

PODS_CHAIN: Final = "KUBE-ROUTER-PODS"  # filter: what FORWARD lets through for pods
EGRESS_CHAIN: Final = "KUBE-ROUTER-EGRESS"  # nat: masquerade of pods that talk to the world
SERVICES_CHAIN: Final = "KUBE-ROUTER-SERVICES"  # filter: what INPUT lets through to VIPs
MASQUERADE_CHAIN: Final = "KUBE-ROUTER-MASQ"  # nat: source of traffic that IPVS sends through this node
TOO_BIG_CHAIN: Final = "KUBE-ROUTER-TOO-BIG"  # mangle: datagrams that must not be cut, and would have to be
REFUSED_CHAIN: Final = "KUBE-ROUTER-REFUSED"  # filter: packets to an address without backends that no link of this node has
UNMARK_CHAIN: Final = "KUBE-ROUTER-UNMARK"  # mangle: packets that IPVS sends on to a backend by its address
CLAMP_CHAIN: Final = "KUBE-ROUTER-MSS"  # mangle: segment size of connections that are answered directly
HAIRPIN_CHAIN: Final = "KUBE-ROUTER-HAIRPIN"
SELF_CHAIN: Final = "KUBE-ROUTER-SELF"  # nat: source of a pod's packets that IPVS sends back to it
MARKS_CHAIN: Final = "KUBE-ROUTER-MARKS"  # mangle: marks that lead to a service by mark
CLUSTER_MARKS_CHAIN: Final = "KUBE-ROUTER-CLUSTER-MARKS"
HEALTH_CHAIN: Final = "KUBE-ROUTER-HEALTH"  # filter: health checks that load balancers send to their own address
SOURCES_CHAIN: Final = "KUBE-ROUTER-SOURCES"  # filter: who may reach a load balancer's address
INPUT_CHAIN: Final = "KUBE-ROUTER-INPUT"
FORWARD_CHAIN: Final = "KUBE-ROUTER-FORWARD"
OUTPUT_CHAIN: Final = "KUBE-ROUTER-OUTPUT"
TRIAL_CHAIN: Final = "KUBE-ROUTER-TRIAL"  # nothing leads to it: refused rules are looked for in it, then it goes

# Defined sets and policies of the speaker, as `gobgp policy` shows them; an IPv6 set ends in "v6" (bgp_set).
BGP_PODS: Final = "podcidrdefinedset"
BGP_VIPS: Final = "servicevipsdefinedset"
BGP_DEFAULT_ROUTE: Final = "defaultroutedefinedset"
BGP_CUSTOM_REJECT: Final = "customimportrejectdefinedset"
BGP_NODE_PEERS: Final = "iBGPpeerset"
BGP_EXTERNAL_PEERS: Final = "externalpeerset"
BGP_ALL_PEERS: Final = "allpeerset"
BGP_EXPORT: Final = "kube_router_export"
BGP_IMPORT: Final = "kube_router_import"

PROTOCOLS: Final = {6: "tcp", 17: "udp", 132: "sctp"}  # IP protocols of Services, as set entries spell them
PROTOCOL_NUMBERS: Final = {name.upper(): number for number, name in PROTOCOLS.items()}  # as the API spells them


def set_name(base: str, family: Family) -> str:
    """Kernel name of a set's twin in a family."""
    return base if family == 4 else IPV6_SET_PREFIX + base


def bgp_set(base: str, family: Family) -> str:
    """Name of a defined set's twin in a family."""
    return base if family == 4 else base + "v6"


def is_tunnel(name: str) -> bool:
    """Whether a link of this name is a tunnel of ours (or of the original)."""
    return name == VXLAN_LINK or _TUNNEL.fullmatch(name) is not None
