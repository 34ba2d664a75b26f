"""Where our jumps are put in a built-in chain that others use too."""

from __future__ import annotations

import pytest

from kube_router.apply.kernel import iptables_jumps
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.state.netfilter import Jump, JumpKey

A, B, Z = "KUBE-ROUTER-A", "KUBE-ROUTER-B", "KUBE-ROUTER-Z"
FIRST, SECOND, LAST = Jump(rank=10), Jump(match="-i eth0", rank=20), Jump(first=False, rank=5)
TO_A, TO_B, TO_Z = f"-j {A}", f"-i eth0 -j {B}", f"-j {Z}"
X, Y = "-s 10.0.0.0/8 -j ACCEPT", "-j KUBE-FIREWALL"


def ours(chain: str) -> bool:
    return chain.startswith("KUBE-ROUTER-")


def keyed(jumps: dict[str, Jump | None], family: Family = 4) -> dict[JumpKey, Jump | None]:
    return {JumpKey(family, "filter", "INPUT", chain): jump for chain, jump in jumps.items()}


ALL = {A: FIRST, B: SECOND, Z: LAST}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("rules", "wanted", "lines"),
    [
        pytest.param([], ALL, [f"-A INPUT {TO_Z}", f"-I INPUT 1 {TO_A}", f"-I INPUT 2 {TO_B}"], id="nothing there"),
        pytest.param([X], {A: FIRST}, [f"-I INPUT 1 {TO_A}"], id="before what is foreign"),
        pytest.param([X], {Z: LAST}, [f"-A INPUT {TO_Z}"], id="after what is foreign"),
        pytest.param([TO_A, TO_B, X, TO_Z, Y], ALL, [], id="settled"),
        pytest.param([TO_B, X], {A: FIRST}, [f"-I INPUT 1 {TO_A}"], id="before a jump of higher rank"),
        pytest.param([TO_A, X], {B: SECOND}, [f"-I INPUT 2 {TO_B}"], id="behind a jump of lower rank"),
        pytest.param([X, TO_A], {A: FIRST}, [f"-D INPUT {TO_A}", f"-I INPUT 1 {TO_A}"], id="moved up"),
        pytest.param([TO_A, TO_A, X], {A: FIRST}, [f"-D INPUT {TO_A}", f"-D INPUT {TO_A}", f"-I INPUT 1 {TO_A}"], id="twice"),
        pytest.param([f"-p tcp -j {A}", X], {A: FIRST}, [f"-D INPUT -p tcp -j {A}", f"-I INPUT 1 {TO_A}"], id="older spelling"),
        pytest.param([f"-g {A}", X], {A: FIRST}, [f"-D INPUT -g {A}", f"-I INPUT 1 {TO_A}"], id="goto for a jump"),
        pytest.param([TO_B, TO_A, X], ALL | {Z: None}, [f"-D INPUT {TO_A}", f"-I INPUT 1 {TO_A}"], id="the lower rank moves"),
        pytest.param([TO_A, X, TO_Z], {A: None, Z: None}, [f"-D INPUT {TO_A}", f"-D INPUT {TO_Z}"], id="both go"),
        pytest.param([X], {A: None}, [], id="what is absent goes"),
        pytest.param([TO_Z, X], {Z: LAST}, [], id="what need not be first may be"),
    ],
)
def test_jumps_are_settled_with_the_fewest_lines(
    rules: list[str], wanted: dict[str, Jump | None], lines: list[str], family: Family
) -> None:
    known = {key: jump for key, jump in keyed({**ALL, **wanted}, family).items() if jump is not None}
    settled = iptables_jumps.settle(keyed(wanted, family), rules, known, ours)
    assert [line.text for line in settled] == lines
    assert all(isinstance(line.key, JumpKey) and line.key.family == family for line in settled)


@pytest.mark.parametrize(
    ("rules", "known", "seen"),
    [
        ([TO_A, X], {A: FIRST}, FIRST),
        ([TO_B, TO_A, X], {A: FIRST}, FIRST),
        ([TO_B, TO_A, X], {A: FIRST, B: SECOND}, Jump(rank=iptables_jumps.UNPLACED)),
        ([X, TO_A], {A: FIRST}, Jump(first=False, rank=iptables_jumps.UNPLACED)),
        ([TO_A, TO_A], {A: FIRST}, Jump(rank=iptables_jumps.UNPLACED)),
        ([f"-p tcp -j {A}"], {A: FIRST}, Jump(match="-p tcp", rank=iptables_jumps.UNPLACED)),
        ([TO_A], {}, Jump(rank=iptables_jumps.UNPLACED)),
        ([X, Y], {A: FIRST}, None),
    ],
)
def test_a_jump_is_seen_as_wanted_only_where_it_stands_well(rules: list[str], known: dict[str, Jump], seen: Jump | None) -> None:
    key = JumpKey(4, "filter", "INPUT", A)
    settled = {known_key: jump for known_key, jump in keyed(dict(known)).items() if jump is not None}
    assert iptables_jumps.observed(key, rules, settled, ours) == seen
