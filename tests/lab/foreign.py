"""What other tools have put on a node before any daemon of ours started: near misses of our names, in every place that we write to."""

from __future__ import annotations

from lab.node import Node

TABLES = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
# Chains of kube-proxy, of a firewall, and names that begin as ours do.
CHAINS = ("KUBE-SERVICES", "ufw-before-input", "KUBE-ROUTER", "KUBE-ROUTER-FORWARD-2", "KUBE-POD-FW", "KUBE-NWPLCY")
SETS = ("others", "kube-router", "kube-router-node-ips-2", "KUBE-SRC", "KUBE-DST", "KUBE-LOOP-BACK")
FAMILIES = {4: ("iptables", "198.18.0.9/32", "inet", "198.18.0.7"), 6: ("ip6tables", "2001:db8:9::9/128", "inet6", "2001:db8:9::7")}

ROUTES = (
    "route add 198.18.1.0/24 via 192.168.50.1 proto static",
    "route add 198.18.2.0/24 via 192.168.50.1 proto bird",
    "route add 10.233.99.0/24 via 192.168.50.1 proto 18",
    "route add 198.18.3.0/24 via 192.168.50.1 proto 17 table 99",  # our number, in a table that is not ours
    "route add 2001:db8:3::/48 via fd00:50::1 proto static",
    "route add 2001:db8:4::/48 via fd00:50::1 proto 17 table 99",
    "rule add from 198.18.3.0/24 lookup 99 priority 500",
)
LINKS = (
    "link add kube-bridge0 type bridge forward_delay 0",
    "link set kube-bridge0 up",
    "address add 198.18.4.1/24 dev kube-bridge0",
    "link add docker0 type bridge",
)
NFTABLES = """
table inet others {
    set blocked { type ipv4_addr; elements = { 198.18.0.5 } }
    chain input { type filter hook input priority 10; policy accept; ip saddr @blocked drop; }
}
"""


def rules(family: int) -> str:
    """Chains and rules in every table and built-in chain, in the form of iptables-restore."""
    _, address, _, _ = FAMILIES[family]
    set_name = "others" if family == 4 else "inet6:others"
    lines = []
    for table, built_in in TABLES.items():
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in CHAINS)]
        lines += [f"-A {chain} -s {address} -m comment --comment kube-router -j KUBE-SERVICES" for chain in built_in]
        lines += [f"-A {chain} -m set --match-set {set_name} src -j RETURN" for chain in CHAINS]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def plant(node: Node, *, legacy: bool = True) -> None:
    """Put it all there. ``legacy`` adds some to legacy iptables, which the node does not use otherwise."""
    for family, (command, _, set_family, member) in FAMILIES.items():
        prefix = "" if family == 4 else "inet6:"
        sets = [f"create {prefix}{name} hash:ip family {set_family}" for name in SETS]
        sets += [f"add {prefix}{name} {member}" for name in SETS]
        node.run(["ipset", "restore"], text="\n".join([*sets, ""]))
        node.run([f"{command}-nft-restore", "--noflush"], text=rules(family))
        if legacy:
            node.run(f"{command}-legacy -A OUTPUT -d {FAMILIES[family][1]} -j ACCEPT")
    node.space.ip([*LINKS, *ROUTES])
    node.run("ip -6 rule add from 2001:db8:4::/48 lookup 99 priority 500")
    node.run(["nft", "-f", "-"], text=NFTABLES)
