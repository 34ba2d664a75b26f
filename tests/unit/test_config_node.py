"""Faults that only the node can show, together."""

from __future__ import annotations

from typing import Any

import pytest

from kube_router.config.node import node_faults, speaker_faults
from kube_router.config.options import defaults

BOTH = {"enable_ipv6": True}
NO_ROUTER = {"run_router": False}


@pytest.mark.parametrize(
    ("overrides", "addresses", "cidrs", "flags"),
    [
        ({}, ["10.0.0.1"], ["10.1.0.0/24"], []),
        ({}, ["node1", "10.0.0.1"], ["10.1.0.0/24"], []),
        ({}, ["fd00::1"], ["10.1.0.0/24"], ["--enable-ipv4", "--router-id"]),
        ({}, [], [], ["--enable-ipv4", "--enable-cni"]),
        (BOTH, ["10.0.0.1"], ["10.1.0.0/24"], ["--enable-ipv6"]),
        (BOTH, ["10.0.0.1", "fd00::1"], ["10.1.0.0/24"], []),
        (BOTH, ["fd00::1", "10.0.0.1"], ["10.1.0.0/24"], ["--router-id"]),
        (BOTH | {"router_id": "generate"}, ["fd00::1", "10.0.0.1"], ["10.1.0.0/24"], []),
        (BOTH | NO_ROUTER, ["fd00::1", "10.0.0.1"], [], []),
        (BOTH, [], [], ["--enable-ipv4", "--enable-ipv6", "--enable-cni"]),
        ({"enable_cni": False}, ["10.0.0.1"], [], []),
        (NO_ROUTER | {"netpol_default_deny": True}, ["10.0.0.1"], [], ["--netpol-default-deny"]),
        ({}, ["10.0.0.1"], ["10.1.0.0"], ["pod CIDRs of this node"]),
    ],
)
def test_all_faults_of_a_node_are_named(overrides: dict[str, Any], addresses: list[str], cidrs: list[str], flags: list[str]) -> None:
    assert [fault.flag for fault in node_faults(defaults(**overrides), addresses, cidrs)] == flags


def test_a_missing_address_is_told_with_those_that_are_there_and_the_way_out() -> None:
    (fault,) = node_faults(defaults(enable_ipv6=True), ["10.0.0.1"], ["10.1.0.0/24"])
    assert str(fault) == (
        "--enable-ipv6=true: this node has no IPv6 address (its Node object lists: 10.0.0.1); give the node one, or --enable-ipv6=false"
    )


@pytest.mark.parametrize(
    ("overrides", "has_bfd", "flags"),
    [
        ({"enable_bfd": True, "peer_router_ips": ("10.0.0.1",)}, False, ["--enable-bfd"]),
        ({"enable_bfd": True, "peer_router_ips": ("10.0.0.1",)}, True, []),
        ({"enable_bfd": True}, False, []),
        ({"peer_router_ips": ("10.0.0.1",)}, False, []),
    ],
)
def test_a_flag_that_the_speaker_cannot_follow_is_named(overrides: dict[str, Any], has_bfd: bool, flags: list[str]) -> None:
    assert [fault.flag for fault in speaker_faults(defaults(**overrides), has_bfd=has_bfd)] == flags
