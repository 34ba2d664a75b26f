"""Every flag of the program: the 79 of kube-router v2.11, and those of ours.

Names, types and defaults of the 79 are those of the original (its pkg/options/options.go); the words are our own.
To add a flag: add a row here and an attribute in `options.py`; parser, help and validation follow.
"""

from __future__ import annotations

from typing import Final

from kube_router.config import check
from kube_router.config.flags import Flag, Owner

CORE: Final[tuple[Owner, ...]] = ("core",)
ROUTER: Final[tuple[Owner, ...]] = ("router",)
PROXY: Final[tuple[Owner, ...]] = ("proxy",)
FIREWALL: Final[tuple[Owner, ...]] = ("firewall",)
ALLOCATOR: Final[tuple[Owner, ...]] = ("loadbalancer",)
EVERYBODY: Final[tuple[Owner, ...]] = ("core", "router", "proxy", "firewall")
PORT_OR_OFF: Final = check.between(0, 65535)
MILLISECONDS: Final = check.between(1, 4294967)  # becomes microseconds in 32 bits on its way to the speaker

# A table reads best with its rows in as few lines as they need.
# fmt: off
_CORE_FLAGS: Final = (
    Flag("cache-sync-timeout", "duration", 60.0, CORE,
         "How long to wait at start for the first complete lists from the API server.", check.POSITIVE),
    Flag("cleanup-config", "bool", False, CORE,
         "Remove what kube-router left in the kernel of this node, then exit."),
    Flag("enable-ipv4", "bool", True, EVERYBODY, "Serve IPv4; the node must have an IPv4 address."),
    Flag("enable-ipv6", "bool", False, EVERYBODY, "Serve IPv6; the node must have an IPv6 address."),
    Flag("enable-pprof", "bool", False, CORE, "Serve profiling data over HTTP on port 6060."),
    Flag("health-addr", "string", "", CORE,
         "Address to serve /healthz and /readyz on; empty for all addresses.", check.BIND_ADDRESS),
    Flag("health-port", "uint16", 20244, CORE, "Port to serve /healthz and /readyz on; 0 for none.", PORT_OR_OFF),
    Flag("help", "bool", False, CORE, "Print this text and exit.", short="h"),
    Flag("hostname-override", "string", "", EVERYBODY,
         "Name of this node's Node object, where neither NODE_NAME nor the host name is it.", check.NODE_NAME),
    Flag("kubeconfig", "string", "", CORE,
         "File that says how to reach the API server; without it the pod's service account is used."),
    Flag("master", "string", "", CORE,
         "URL of the API server, in place of the kubeconfig's or the pod's own.", check.API_SERVERS),
    Flag("metrics-addr", "string", "", CORE,
         "Address to serve metrics on; empty for all addresses.", check.BIND_ADDRESS),
    Flag("metrics-path", "string", "/metrics", CORE, "HTTP path of the metrics.", check.HTTP_PATH),
    Flag("metrics-port", "uint16", 0, CORE, "Port to serve metrics on; 0 and 65535 for none.", PORT_OR_OFF),
    Flag("run-firewall", "bool", True, CORE, "Enforce NetworkPolicies on this node's pods."),
    Flag("run-loadbalancer", "bool", False, CORE,
         "Hand out addresses to Services of type LoadBalancer (one elected instance does)."),
    Flag("run-router", "bool", True, CORE, "Route pod traffic between nodes and speak BGP."),
    Flag("run-service-proxy", "bool", True, CORE, "Serve Services through IPVS, in place of kube-proxy."),
    Flag("v", "string", "0", CORE,
         "How much to log: 0 start, stop and trouble; 1 passes; 2 objects; 3 everything; 4 ticks as well.",
         check.VERBOSITY, short="v"),
    Flag("version", "bool", False, CORE, "Print the version and exit.", short="V"),
    Flag("log-format", "string", "text", CORE, "How log lines look: text or json.", check.one_of("text", "json"),
         ours=True),
    Flag("iptables-backend", "string", "auto", EVERYBODY,
         "Which iptables to write to: auto (what the kubelet uses), legacy or nft.",
         check.one_of("auto", "legacy", "nft"), ours=True),
)

_ROUTER_FLAGS: Final = (
    Flag("advertise-cluster-ip", "bool", False, ROUTER, "Announce cluster IPs of Services to external peers."),
    Flag("advertise-external-ip", "bool", False, ROUTER, "Announce external IPs of Services to external peers."),
    Flag("advertise-loadbalancer-ip", "bool", False, ROUTER,
         "Announce load-balancer IPs of Services to external peers."),
    Flag("advertise-pod-cidr", "bool", True, ROUTER,
         "Announce this node's pod CIDRs to external peers; other nodes always get them."),
    Flag("advertise-without-endpoints", "bool", False, ROUTER,
         "Announce addresses of Services that have no endpoint, too (but for traffic policy Local).", ours=True),
    Flag("auto-mtu", "bool", True, ROUTER, "Set the MTU of kube-bridge and of pods from the node's links."),
    Flag("bfd-desired-min-tx-interval", "uint32", 1000, ROUTER,
         "BFD: milliseconds between packets sent to the peers of --peer-router-ips.", MILLISECONDS),
    Flag("bfd-detection-multiplier", "uint32", 3, ROUTER,
         "BFD: packets missed before a peer counts as down.", check.between(1, 255)),
    Flag("bfd-port", "uint32", 3784, ROUTER, "BFD: UDP port.", check.between(1, 65535)),
    Flag("bfd-required-min-rx-interval", "uint32", 1000, ROUTER,
         "BFD: least milliseconds between packets that we ask for.", MILLISECONDS),
    Flag("bgp-graceful-restart", "bool", False, ROUTER,
         "Negotiate graceful restart (RFC 4724), so that peers keep our routes while the speaker restarts."),
    Flag("bgp-graceful-restart-deferral-time", "duration", 360.0, ROUTER,
         "Graceful restart: longest wait for peers before routes are chosen and announced; at most 18h."),
    Flag("bgp-graceful-restart-time", "duration", 90.0, ROUTER,
         "Graceful restart: how long peers keep our routes while we are away; at most 4095s."),
    Flag("bgp-holdtime", "duration", 90.0, ROUTER, "BGP hold time towards external peers.", check.HOLD_TIME),
    Flag("bgp-port", "uint32", 179, ROUTER, "TCP port of BGP between nodes.", check.between(1, 65535)),
    Flag("cluster-asn", "uint", 0, ROUTER,
         "AS number of the nodes when they peer in full mesh; 0 for 64512.", check.CLUSTER_ASN),
    Flag("disable-source-dest-check", "bool", True, ROUTER,
         "On AWS, turn off the source/destination check of the nodes' instances."),
    Flag("enable-bfd", "bool", False, ROUTER, "Watch the peers of --peer-router-ips with BFD."),
    Flag("enable-cni", "bool", True, ROUTER, "Keep the CNI configuration file of this node."),
    Flag("enable-ibgp", "bool", True, ROUTER, "Peer with the nodes that have the same AS number."),
    Flag("enable-overlay", "bool", True, ROUTER, "Reach nodes of other subnets through tunnels."),
    Flag("enable-pod-egress", "bool", True, ROUTER, "Masquerade pod traffic that leaves the cluster."),
    Flag("gobgp-admin-address", "string", "127.0.0.1", ROUTER,
         "Address of the BGP speaker's gRPC API.", check.IP_ADDRESS),
    Flag("gobgp-admin-port", "uint16", 50051, ROUTER, "Port of the BGP speaker's gRPC API.", PORT_OR_OFF),
    Flag("injected-routes-sync-period", "duration", 60.0, ROUTER,
         "Time between checks of the kernel's routes.", check.POSITIVE),
    Flag("nodes-full-mesh", "bool", True, ROUTER,
         "All nodes share --cluster-asn and peer with each other; otherwise the node annotation decides."),
    Flag("overlay-encap", "string", "ipip", ROUTER, "Encapsulation of tunnels: ipip, fou or vxlan.",
         check.one_of("ipip", "fou", "vxlan")),
    Flag("overlay-encap-port", "uint16", 5555, ROUTER, "UDP port of fou tunnels.", check.between(1024, 65535)),
    Flag("overlay-type", "string", "subnet", ROUTER,
         "Which nodes to reach through tunnels: subnet (those outside our subnets) or full (all).",
         check.one_of("subnet", "full")),
    Flag("overlay-vxlan-port", "uint16", 4789, ROUTER, "UDP port of vxlan tunnels; the same on all nodes.",
         check.between(1, 65535), ours=True),
    Flag("override-nexthop", "bool", False, ROUTER,
         "Announce this node as the next hop of every route sent to external peers."),
    Flag("peer-router-asns", "uints", (), ROUTER, "AS numbers of the external peers, one per address.",
         check.PEER_ASNS),
    Flag("peer-router-ips", "ipSlice", (), ROUTER, "Addresses of external BGP peers of every node."),
    Flag("peer-router-multihop-ttl", "uint8", 0, ROUTER,
         "TTL towards external peers more than one hop away; 0 and 1 for neighbours.", check.between(0, 255)),
    Flag("peer-router-passwords", "strings", (), ROUTER,
         "Passwords of the external peers in base64, one per address, empty for none.", secret=True),
    Flag("peer-router-passwords-file", "string", "", ROUTER,
         "File with what --peer-router-passwords would say."),
    Flag("peer-router-ports", "uints", (), ROUTER,
         "TCP ports of the external peers, one per address; none for 179.", check.PORTS),
    Flag("router-id", "string", "", ROUTER,
         "BGP identifier; generate derives one from the node's address, empty takes the IPv4 address.",
         check.ROUTER_ID),
    Flag("routes-sync-period", "duration", 300.0, ROUTER,
         "Time between complete passes of the routing controller.", check.POSITIVE),
    Flag("cni-bin-dir", "string", "/opt/cni/bin", ROUTER,
         "Folders of this node's CNI plugins, separated by colons; what is missing there is named.",
         check.FOLDERS, ours=True),
    Flag("datapath-network", "strings", (), ROUTER,
         "CIDRs of the network for pod traffic and for BGP between nodes, on nodes with several; empty for the node addresses.",
         ours=True),
    Flag("pod-egress-excluded-cidrs", "strings", (), ROUTER,
         "CIDRs outside the cluster that pods reach with their own addresses, without masquerade.", ours=True),
    Flag("withdraw-on-cordon", "bool", False, ROUTER,
         "Take back the Service addresses of a cordoned node, as long as another node announces them.", ours=True),
    Flag("state-dir", "string", "/var/lib/kube-router", CORE,
         "Folder on the node for what must outlast a restart: the last good text of each annotation.",
         check.FOLDER, ours=True),
    Flag("gobgp-api", "string", "", ROUTER,
         "Where the BGP speaker's gRPC API is: unix:///path or host:port; empty for the two admin flags.",
         check.SPEAKER, ours=True),
)

_PROXY_FLAGS: Final = (
    Flag("excluded-cidrs", "strings", (), PROXY, "Leave IPVS services with addresses in these CIDRs alone."),
    Flag("hairpin-mode", "bool", False, PROXY, "Let every pod reach itself through each of its Services' addresses."),
    Flag("ipvs-graceful-period", "duration", 30.0, PROXY,
         "Draining: how long, where the pod's own termination time is unknown.", check.NOT_NEGATIVE),
    Flag("ipvs-graceful-termination", "bool", False, PROXY,
         "Let connections to a removed endpoint drain before it goes."),
    Flag("ipvs-permit-all", "bool", True, PROXY,
         "Accept traffic to Services and reject other traffic to their addresses, ahead of the host's own rules."),
    Flag("ipvs-sync-period", "duration", 300.0, PROXY,
         "Time between complete passes of the service proxy.", check.POSITIVE),
    Flag("masquerade-all", "bool", False, PROXY, "Masquerade all traffic that goes through a Service."),
    Flag("nodeport-bindon-all-ip", "bool", False, PROXY,
         "Serve node ports on every address of the node instead of the primary ones."),
    Flag("runtime-endpoint", "string", "", PROXY,
         "Socket of the container runtime (CRI): direct server return asks it for pods' namespaces first.", check.CRI_SOCKET),
    Flag("service-tcp-timeout", "duration", 0.0, PROXY, "IPVS timeout of TCP connections; 0s keeps the kernel's.",
         check.IPVS_TIMEOUT),
    Flag("service-tcpfin-timeout", "duration", 0.0, PROXY,
         "IPVS timeout of closing TCP connections; 0s keeps the kernel's.", check.IPVS_TIMEOUT),
    Flag("service-udp-timeout", "duration", 0.0, PROXY, "IPVS timeout of UDP flows; 0s keeps the kernel's.",
         check.IPVS_TIMEOUT),
    Flag("strict-external-ip-validation", "bool", True, ("proxy", "router"),
         "Serve and announce external and load-balancer IPs only if they lie in the range flags."),
)

_FIREWALL_FLAGS: Final = (
    Flag("iptables-sync-period", "duration", 300.0, FIREWALL,
         "Time between complete passes of the network policy controller.", check.POSITIVE),
    Flag("netpol-default-deny", "bool", False, FIREWALL,
         "Deny traffic of pods on this node until their policies are in place."),
    Flag("service-cluster-ip-range", "strings", ("10.96.0.0/12",), ("firewall", "proxy"),
         "CIDRs of cluster IPs, at most one per family."),
    Flag("service-external-ip-range", "strings", (), ("firewall", "proxy"),
         "CIDRs in which external IPs of Services are allowed."),
    Flag("service-node-port-range", "string", "30000-32767", FIREWALL, "Range of node ports, written as first-last."),
    Flag("use-nftables-for-netpol", "bool", False, FIREWALL,
         "Enforce NetworkPolicies with nftables instead of iptables."),
)

_ALLOCATOR_FLAGS: Final = (
    Flag("loadbalancer-default-class", "bool", True, ALLOCATOR,
         "Also serve Services that name no load-balancer class, or the class default."),
    Flag("loadbalancer-ip-range", "strings", (), ("loadbalancer", "proxy", "firewall"),
         "CIDRs from which load-balancer IPs are handed out, and in which they are allowed."),
    Flag("loadbalancer-sync-period", "duration", 60.0, ALLOCATOR,
         "Time between complete passes of the load-balancer allocator.", check.POSITIVE),
)
# fmt: on

FLAGS: Final[tuple[Flag, ...]] = tuple(
    sorted(_CORE_FLAGS + _ROUTER_FLAGS + _PROXY_FLAGS + _FIREWALL_FLAGS + _ALLOCATOR_FLAGS, key=lambda flag: flag.name)
)
BY_NAME: Final[dict[str, Flag]] = {flag.name: flag for flag in FLAGS}
BY_SHORT: Final[dict[str, Flag]] = {flag.short: flag for flag in FLAGS if flag.short}
