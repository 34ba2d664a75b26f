"""Faults that only the node can show: what the options ask for and this Node object does not have. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kube_router.config.check import is_address
from kube_router.config.faults import Fault
from kube_router.config.options import Options
from kube_router.config.rules import canonical_cidr


def node_faults(options: Options, node_addresses: Sequence[str], pod_cidrs: Sequence[str] | None) -> tuple[Fault, ...]:
    """Every fault of these options on a node with these addresses (the primary one first) and pod CIDRs.

    Addresses that are none (host names) do not count. A missing pod CIDR may only be late: who waits for it gives None, and
    pod CIDRs are not judged.
    """
    addresses = [address for address in node_addresses if is_address(address)]
    ranges = () if pod_cidrs is None else _pod_cidrs(options, pod_cidrs)
    return (*_addresses(options, addresses), *_router_id(options, addresses), *ranges)


def _addresses(options: Options, addresses: Sequence[str]) -> Iterator[Fault]:
    found = {6 if ":" in address else 4 for address in addresses}
    listed = ", ".join(addresses) or "none"
    for family in options.families:
        if family not in found:
            problem = f"this node has no IPv{family} address (its Node object lists: {listed})"
            advice = f"give the node one, or --enable-ipv{family}=false"
            yield Fault(f"--enable-ipv{family}", "true", problem, advice)


def _router_id(options: Options, addresses: Sequence[str]) -> Iterator[Fault]:
    if options.run_router and not options.router_id and addresses and ":" in addresses[0]:
        problem = f"needed, since this node's primary address {addresses[0]} is IPv6"
        yield Fault("--router-id", None, problem, "give an IPv4 address, or 'generate'")


def _pod_cidrs(options: Options, pod_cidrs: Sequence[str]) -> Iterator[Fault]:
    needed = [
        flag
        for flag, asked in (
            ("--enable-cni", options.run_router and options.enable_cni),
            ("--netpol-default-deny", options.run_firewall and options.netpol_default_deny),
        )
        if asked
    ]
    remedy = "let the controller manager allocate node CIDRs, or set the annotation kube-router.io/pod-cidrs"
    if not pod_cidrs:
        for flag in needed:
            yield Fault(flag, "true", "this node has no pod CIDR", remedy)
    for cidr in pod_cidrs:
        try:
            canonical_cidr(cidr)
        except ValueError:
            yield Fault("pod CIDRs of this node", None, f"invalid CIDR address: {cidr}", remedy)


def speaker_faults(options: Options, *, has_bfd: bool) -> tuple[Fault, ...]:
    """What the BGP speaker beside us cannot do though flags ask for it. Of annotations that do, people are told by an Event."""
    if has_bfd or not (options.enable_bfd and options.peer_router_ips):
        return ()
    problem, advice = "the BGP speaker is a gobgpd 3, which has no BFD", "run gobgpd 4.5 or later, or leave the flag out"
    return (Fault("--enable-bfd", "true", problem, advice),)
