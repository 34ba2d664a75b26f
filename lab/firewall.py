"""What a kubelet leaves in a node's netfilter tables, before any network daemon starts: not ours, and never to be touched.

Names as in kubernetes/kubernetes, pkg/kubelet/kubelet_network_linux.go: the canary chains tell it that somebody flushed a
table, the hint chain tells others which iptables it speaks to.
"""

from __future__ import annotations

from lab.space import Space

CANARY, HINT, GUARD = "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL"
RESTORE = {4: "iptables", 6: "ip6tables"}
LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}


def kubelet_rules(family: int) -> str:
    """The kubelet's chains in the form of iptables-restore."""
    loopback = LOOPBACK[family]
    guard = f"! -s {loopback} -d {loopback} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
    return f"""*mangle
:{CANARY} - [0:0]
:{HINT} - [0:0]
COMMIT
*nat
:{CANARY} - [0:0]
COMMIT
*filter
:{CANARY} - [0:0]
:{GUARD} - [0:0]
-A INPUT -j {GUARD}
-A OUTPUT -j {GUARD}
-A {GUARD} {guard} -m comment --comment "no packet from outside to loopback" -j DROP
COMMIT
"""


def write_kubelet_rules(space: Space, *, backend: str, families: tuple[int, ...]) -> None:
    """Write them with ``backend`` "nft" or "legacy"."""
    for family in families:
        space.run([f"{RESTORE[family]}-{backend}-restore", "--noflush"], text=kubelet_rules(family))
