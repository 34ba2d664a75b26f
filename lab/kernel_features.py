"""What the running kernel can do, found out by trying.

A test or a bench case names the features that it needs; this module says which of them are here. Every trial
happens inside a throwaway network namespace, so nothing of the host's network is touched; that a trial may make
the kernel load a module is the same thing that using the feature would do. It refuses to guess from version
numbers or configuration files: what worked is there, all else is not.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys

# One shell line per feature, run inside the throwaway namespace; exit status 0 means "here".
TRIALS: dict[str, str] = {
    "veth": "ip link add tv0 type veth peer name tv1",
    "bridge": "ip link add tbr type bridge",
    "vxlan": "ip link add tvx type vxlan id 7 dstport 4789 local 127.0.0.1",
    "dummy": "ip link add tdu type dummy",
    "ipip": "ip link add tip type ipip local 127.0.0.1 remote 127.0.0.2",
    "ip6tnl": "ip link add ti6 type ip6tnl local ::1 remote ::2",
    "fou": "ip fou add port 5555 ipproto 4",
    "gue": "ip link add tgu type ipip local 127.0.0.1 remote 127.0.0.3 encap gue encap-sport auto encap-dport 5555",
    "gue6": "ip link add tg6 type ip6tnl local ::1 remote ::3 encap gue encap-sport auto encap-dport 5555",
    "nlmon": "ip link add tnl type nlmon",
    "vrf": "ip link add tvr type vrf table 77",
    "netem": "tc qdisc add dev lo root netem delay 1ms",
    "br_netfilter": "test -e /proc/sys/net/bridge/bridge-nf-call-iptables",
    "ip_vs": "ipvsadm -A -t 10.0.0.1:80 -s rr",
    "ip_vs_sh": "ipvsadm -A -t 10.0.0.2:80 -s sh",
    "ip_vs_mh": "ipvsadm -A -t 10.0.0.3:80 -s mh",
    "ipset": "ipset create t-ip hash:ip timeout 0 && ipset create t-net hash:net && ipset create t-port hash:ip,port",
    "ipset_netport": "ipset create t-np hash:net,port && ipset create t-nn hash:net,net",
    "iptables_legacy": "iptables-legacy -w -t nat -N T && ip6tables-legacy -w -t filter -N T",
    "iptables_nft": "iptables-nft -w -t nat -N T && ip6tables-nft -w -t filter -N T",
    "ipset_marks": (
        "ipset create t-mk hash:ip,port skbinfo && ipset create t-ipn hash:ip,port,net"
        " && iptables-legacy -w -t mangle -A OUTPUT -j SET --map-set t-mk dst,dst --map-mark"
    ),
    "xt_bpf": "iptables-legacy -w -A OUTPUT -m bpf --bytecode '1,6 0 0 0' -j ACCEPT",
    "xt_set": "ipset create t-x hash:ip && iptables-legacy -w -A OUTPUT -m set --match-set t-x dst -j ACCEPT",
    "nf_tables": "nft add table inet t && nft add chain inet t c '{ type filter hook input priority 0; }'",
    "nft_vmap": "nft add table ip v && nft add map ip v m '{ type ipv4_addr : verdict; }'",
    "conntrack": "conntrack -L",
}
# Found out without a namespace of their own.
OTHER = ("root", "netns", "sctp")

MODULES = (  # what the lab kernel loads before anything runs; everything else is loaded on demand
    "br_netfilter", "dummy", "fou", "fou6", "ip6_tunnel", "ip_vs", "ipip", "sch_netem", "sctp", "veth",
)  # fmt: skip

PLAIN = frozenset({"root", "netns"})


def known() -> frozenset[str]:
    """Every name that `needs(...)` may use."""
    return frozenset(TRIALS) | frozenset(OTHER)


@functools.cache
def here() -> frozenset[str]:
    """The features of the running kernel; one throwaway namespace for all trials (about 0.2 s), then remembered."""
    found: set[str] = set()
    if _has_sctp():
        found.add("sctp")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return frozenset(found)
    found.add("root")
    lines = "\n".join(f"if ( {trial} ) >/dev/null 2>&1; then echo {name}; fi" for name, trial in TRIALS.items())
    script = f"ip link set lo up\necho netns\n{lines}\n"
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return frozenset(found | set(done.stdout.split()))


def missing(needs: frozenset[str]) -> frozenset[str]:
    """The part of `needs` that the running kernel lacks.

    Raises ValueError for a name that no trial exists for: a typo must not send a test to the lab kernel for ever.
    """
    unknown = needs - known()
    if unknown:
        raise ValueError(f"unknown kernel features {sorted(unknown)}; known are {sorted(known())}")
    return needs - here()


def _has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, getattr(socket, "IPPROTO_SCTP", 132)).close()
    except OSError:
        return False
    return True


def main() -> int:
    """Print the table of features for people: `python -m lab.kernel_features`."""
    found = here()
    for name in sorted(known()):
        print(f"{name:18} {'here' if name in found else 'not here'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
