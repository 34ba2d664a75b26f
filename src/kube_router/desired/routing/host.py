"""What this node needs so that its pods have a network: bridge, sets of nodes and pods, egress, CNI configuration.

    pod --> kube-bridge --> FORWARD: ... -> KUBE-ROUTER-PODS (accept) --> POSTROUTING: ... -> KUBE-ROUTER-EGRESS
                                                                           masquerade unless the other end is a pod or a node

It refuses to route: routes come from the speaker's paths (fib.py), and it does not judge policies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kube_router.codec.rules import ACCEPT, RETURN, comment, masquerade, match_set, rule
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.routing.datapath import all_addresses
from kube_router.desired.routing.mtu import PodMtu, chosen
from kube_router.kit.net import Family, family_of, of_family
from kube_router.model.names import BRIDGE, EGRESS_CHAIN, NODE_IPS, POD_SUBNETS, PODS_CHAIN, set_name
from kube_router.model.objects import CniFile, Interface, Kind, Name, Node, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.links import CniConfig, FileKey, Link, LinkKey, Sysctl, SysctlKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

# Packets that cross our bridge pass iptables by an attribute of it; the kernel's switch for all bridges is the admin's. It is only looked
# at: without the module it is not there, our attribute has no effect, and the target says so.
_BRIDGE_FILTER: Final = "net/bridge/bridge-nf-call-iptables"
_AS_IT_IS: Final = Sysctl("1", only_if=("1",))
FORWARD_RANK: Final = 20  # after the policies' jump (0): what they deny is never accepted here


def members(node: Node | None, options: Options) -> Desired:
    """A node's part of the shared sets: its pod ranges and addresses. A node without a pod range has no part: it runs no pods of ours.

    The sets are there for the masquerade rule alone, and so are their members.
    """
    if node is None or not node.pod_cidrs or not options.enable_pod_egress:
        return NOTHING
    state: dict[Key, Value] = {}
    for base, entries in ((POD_SUBNETS, node.pod_cidrs), (NODE_IPS, all_addresses(node))):
        for entry in entries:
            if family_of(entry) in options.families:
                state[SetMember(set_name(base, family_of(entry)), entry)] = Member()
    return Desired(state)


def host(node: Node | None, interfaces: tuple[Interface, ...], cni: CniFile | None, options: Options) -> Desired:
    """This node's own state. Without its Node object only what does not depend on it."""
    state: dict[Key, Value] = {}
    ranges = tuple(cidr for cidr in node.pod_cidrs if family_of(cidr) in options.families) if node else ()
    mtu = chosen(node, interfaces, cni, options)
    state[SysctlKey(_BRIDGE_FILTER)] = _AS_IT_IS
    state[LinkKey(BRIDGE)] = Link("bridge", mtu=mtu.bridge, filtered=True, only_in=ranges, hairpin=options.run_service_proxy)
    uplinks = uplinks_of(node, interfaces)
    for family in options.families:
        state |= _forward(family, uplinks)
        if options.enable_pod_egress:
            state |= _egress(family, options)
    if options.enable_cni and ranges:
        state[FileKey(options.cni_conf_file)] = CniConfig(ranges, mtu.file)
    about = Ref(Kind.NODE, node.name if node else Name("", options.node_name))
    return Desired(state, tuple(_notes(about, node=node, ranges=ranges, mtu=mtu, cni=cni, options=options)))


def _notes(about: Ref, *, node: Node | None, ranges: tuple[str, ...], mtu: PodMtu, cni: CniFile | None, options: Options) -> Iterator[Note]:
    if node and not ranges:
        advice = "let the controller manager allocate node CIDRs, or set the annotation kube-router.io/pod-cidrs"
        yield Note(about, "NoPodCIDR", f"spec.podCIDRs holds no range of an enabled address family; {advice}")
    if mtu.bridge:
        yield Note(about, "MTU", f"MTU of {BRIDGE} and pods: {mtu.bridge}, {mtu.source}", quiet=True)
    if options.enable_cni and cni is not None and cni.missing:
        names, verb = ", ".join(cni.missing), "is" if len(cni.missing) == 1 else "are"
        advice = "install them there, or say with --cni-bin-dir where they are: no pod can start on this node"
        yield Note(about, "CNIPluginsMissing", f"CNI plugins {names} {verb} not in {options.cni_bin_dir}; {advice}")


def uplinks_of(node: Node | None, interfaces: tuple[Interface, ...]) -> tuple[str, ...]:
    """Names of the links that hold the node's addresses, sorted."""
    if node is None:
        return ()
    wanted = set(all_addresses(node))
    return tuple(sorted(link.name.name for link in interfaces if any(address.split("/")[0] in wanted for address in link.addresses)))


def _forward(family: Family, uplinks: tuple[str, ...]) -> dict[Key, Value]:
    rules = (
        rule(ACCEPT, comment("allow outbound traffic from pods"), in_link=BRIDGE),
        rule(ACCEPT, comment("allow inbound traffic to pods"), out_link=BRIDGE),
        *(
            rule(ACCEPT, comment("allow outbound node port traffic on node interface with which node ip is associated"), out_link=link)
            for link in uplinks
        ),
    )
    return {
        ChainKey(family, "filter", PODS_CHAIN): Chain(rules),
        JumpKey(family, "filter", "FORWARD", PODS_CHAIN): Jump(rank=FORWARD_RANK),
    }


def _egress(family: Family, options: Options) -> dict[Key, Value]:
    pods, nodes = set_name(POD_SUBNETS, family), set_name(NODE_IPS, family)
    rules = (
        *(
            rule(RETURN, comment("networks that pods reach with their own addresses"), destination=cidr)
            for cidr in of_family(options.pod_egress_excluded_cidrs, family)
        ),
        rule(
            masquerade(),
            comment("masquerade pods that talk to the world"),
            match_set(pods, "src"),
            match_set(pods, "dst", negate=True),
            match_set(nodes, "dst", negate=True),
        ),
    )
    return {
        SetKey(pods): SetSpec("hash:net", family),
        SetKey(nodes): SetSpec("hash:ip", family),
        ChainKey(family, "nat", EGRESS_CHAIN): Chain(rules),
        JumpKey(family, "nat", "POSTROUTING", EGRESS_CHAIN): Jump(first=False),
    }
