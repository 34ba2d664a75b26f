"""The strict filter of external and load-balancer addresses."""

from __future__ import annotations

import pytest

from kube_router.config.options import defaults
from kube_router.desired.external_ips import EXTERNAL, LOAD_BALANCER, Ranges, ranges, refusal

BOTH = Ranges(
    strict=True,
    cluster=("10.96.0.0/12", "fd00:233::/112"),
    external=("203.0.113.0/24", "10.100.0.0/16", "2001:db8:1::/64"),
    load_balancer=("198.51.100.0/24", "2001:db8:2::/64"),
)


@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("203.0.113.10", EXTERNAL, ""),
        ("2001:db8:1::10", EXTERNAL, ""),
        ("198.51.100.20", LOAD_BALANCER, ""),
        ("2001:db8:2::20", LOAD_BALANCER, ""),
        ("198.51.100.20", EXTERNAL, "--service-external-ip-range"),
        ("203.0.113.10", LOAD_BALANCER, "--loadbalancer-ip-range"),
        ("2001:db8:2::20", EXTERNAL, "--service-external-ip-range"),
        ("10.100.0.1", EXTERNAL, "the range of cluster IPs"),
        ("fd00:233::1", LOAD_BALANCER, "the range of cluster IPs"),
        ("8.8.8.8", EXTERNAL, "it is not in"),
    ],
)
def test_only_addresses_of_their_range_and_outside_the_cluster_ips_are_let_in(address: str, kind: str, words: str) -> None:
    reason = refusal(address, kind, BOTH)
    assert words in reason
    assert bool(reason) == bool(words)
    assert not words or address in reason


@pytest.mark.parametrize("kind", [EXTERNAL, LOAD_BALANCER])
@pytest.mark.parametrize("address", ["203.0.113.10", "2001:db8:1::10"])
def test_without_a_range_of_its_kind_nothing_is_let_in(kind: str, address: str) -> None:
    reason = refusal(address, kind, ranges(defaults()))
    assert "names no range" in reason
    assert "--strict-external-ip-validation=false" in reason


@pytest.mark.parametrize("address", ["203.0.113.10", "10.96.0.1", "2001:db8::1"])
def test_without_strict_validation_everything_is_let_in(address: str) -> None:
    assert refusal(address, EXTERNAL, ranges(defaults(strict_external_ip_validation=False))) == ""


def test_flags_become_ranges_by_their_kind() -> None:
    options = defaults(
        service_cluster_ip_range=("10.0.0.0/16",), service_external_ip_range=("203.0.113.0/24",), loadbalancer_ip_range=("198.51.100.0/24",)
    )
    assert ranges(options) == Ranges(True, ("10.0.0.0/16",), ("203.0.113.0/24",), ("198.51.100.0/24",))


@pytest.mark.parametrize("kind", [EXTERNAL, LOAD_BALANCER])
@pytest.mark.parametrize(
    ("address", "special"),
    [
        *((address, True) for address in ("0.0.0.0", "127.0.0.1", "127.8.8.8", "169.254.169.254", "224.0.0.5", "255.255.255.255")),
        *((address, True) for address in ("::", "::1", "fe80::1", "ff02::1", "::ffff:a00:1")),
        *((address, False) for address in ("1.1.1.1", "169.253.0.1", "223.255.255.255", "100.64.0.1", "fd00::1", "fec0::1", "::2")),
    ],
)
def test_addresses_that_are_no_hosts_are_let_in_by_nobody(address: str, special: bool, kind: str) -> None:
    reason = refusal(address, kind, ranges(defaults(strict_external_ip_validation=False)))
    assert bool(reason) == special
    assert not special or address in reason
