"""A section of `iptables-restore` input, and reading its complaints."""

from __future__ import annotations

import pytest

from kube_router.apply.kernel.iptables_section import Section, is_hopeless, is_locked, locate, reason_in, remainder, sections
from kube_router.codec import tables
from kube_router.model.state import Change
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, SetKey, SetSpec

A, B, C = (ChainKey(4, "filter", f"KUBE-NWPLCY-{name}") for name in "ABC")
JUMP = JumpKey(4, "filter", "INPUT", A.name)


def a_section() -> Section:
    rules = ("-m set --match-set S1 src -j ACCEPT", "-m set --match-set S10 src -j ACCEPT", "-j REJECT --reject-with icmp-port-unreachable")
    return Section(4, "filter", {A: rules, B: (f"-j {A.name}", "-m bogus -j ACCEPT", "-j NOPE", "-g NOPE")}, [C], {JUMP: Jump()})


LINES = a_section().lines([tables.Line(f"-I INPUT 1 -j {A.name}", JUMP)])


def test_a_section_declares_fills_jumps_and_removes_in_this_order() -> None:
    assert [line.text for line in LINES] == [
        "*filter",
        f":{A.name} - [0:0]",
        f":{B.name} - [0:0]",
        f":{C.name} - [0:0]",
        f"-A {A.name} -m set --match-set S1 src -j ACCEPT",
        f"-A {A.name} -m set --match-set S10 src -j ACCEPT",
        f"-A {A.name} -j REJECT --reject-with icmp-port-unreachable",
        f"-A {B.name} -j {A.name}",
        f"-A {B.name} -m bogus -j ACCEPT",
        f"-A {B.name} -j NOPE",
        f"-A {B.name} -g NOPE",
        f"-I INPUT 1 -j {A.name}",
        f"-X {C.name}",
        "COMMIT",
    ]


def test_a_section_without_anything_to_do_has_no_lines() -> None:
    assert Section(4, "filter", jumps={JUMP: Jump()}).lines([]) == []


@pytest.mark.parametrize(
    ("errors", "blamed"),
    [
        ("iptables-restore v1.8.9 (legacy): Set S1 doesn't exist.\n\nError occurred at line: 5\nTry `iptables-restore -h' ...\n", [4]),
        ("iptables-nft-restore v1.8.9 (nf_tables): Couldn't load match `bogus':No such file\n\nError occurred at line: 9\n", [8]),
        ("iptables-restore v1.8.9 (legacy): Couldn't load target `NOPE':No such file\n\nError occurred at line: 10\n", [9, 10]),
        ("iptables-nft-restore v1.8.9 (nf_tables): Chain 'NOPE' does not exist\nError occurred at line: 14\n", [9, 10]),
        ("iptables-restore v1.8.9 (legacy): goto 'NOPE' is not a chain\nError occurred at line: 11\n", [10, 9]),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): \nline 5: RULE_APPEND failed (Invalid argument): rule in chain X\n"
            "line 7: RULE_APPEND failed (Invalid argument): rule in chain X\n",
            [4, 6],
        ),
        ("iptables-nft-restore v1.8.9 (nf_tables): \nline 13: CHAIN_DEL failed (Device or resource busy): chain C\n", [12]),
        ("iptables-nft-restore: line 12 failed: Bad rule (does a matching rule exist in that chain?).\n", [11]),
        ("iptables-restore: line 14 failed\n", []),
        ("iptables-nft-restore v1.8.9 (nf_tables): \nline 12: RULE_INSERT failed (Too many links): rule in chain INPUT\n", []),
        ("iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'filter'\nError occurred at line: 1\n", []),
        (
            "Warning: Extension bogus revision 0 not supported, missing kernel module?\niptables-restore: line 14 failed\n",
            [8],
        ),
        ("iptables-restore v1.8.9 (legacy): Kernel module xt_set is not loaded in.\n\n", [4, 5]),
        ("something else", []),
    ],
)
def test_a_complaint_is_traced_to_the_lines_it_blames(errors: str, blamed: list[int]) -> None:
    assert locate(errors, LINES) == [LINES[at] for at in blamed]


@pytest.mark.parametrize(
    "errors",
    [
        "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'filter'\nError occurred at line: 1\n",
        "iptables-nft-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument\n",
        "iptables-nft-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n",
    ],
)
def test_a_table_that_cannot_be_written_at_all_is_given_up_at_once(errors: str) -> None:
    assert is_hopeless(errors)
    part = a_section()
    part.refuse_all(reason_in(errors))
    assert set(part.refused) == {A, B, C, JUMP}
    assert part.lines([]) == []


def test_refused_lines_leave_the_section_each_in_its_way() -> None:
    part = a_section()
    part.refuse([LINES[4], LINES[11], LINES[12]], "why")
    assert part.refused == {
        A: f"why: -A {A.name} -m set --match-set S1 src -j ACCEPT",
        JUMP: f"why: -I INPUT 1 -j {A.name}",
        C: f"why: -X {C.name}",
    }
    assert part.puts[A] == a_section().puts[A][1:]
    assert part.puts[C] == (), "what cannot go is emptied"
    assert (part.gone, part.jumps) == ([], {})
    part.refuse([LINES[1]], "bad name")
    assert A not in part.puts


ACCEPTS, LEADS, EXCEPTS, REJECTS = "-p tcp -j ACCEPT", "-g KUBE-POD-FW-X", "-s 10.0.0.0/8 -j RETURN", "-j REJECT --reject-with x"


@pytest.mark.parametrize(
    ("rules", "refused", "kept"),
    [
        pytest.param([ACCEPTS, LEADS, "-j ACCEPT"], {0}, (LEADS, "-j ACCEPT"), id="an accept is left out alone"),
        pytest.param([ACCEPTS, LEADS, REJECTS], {1}, (ACCEPTS, REJECTS), id="a jump is left out alone"),
        pytest.param([ACCEPTS, LEADS], {0, 1}, (), id="all are left out"),
        pytest.param([EXCEPTS, ACCEPTS], {0}, (), id="without its exception nothing is accepted"),
        pytest.param([EXCEPTS, ACCEPTS, REJECTS], {0}, (REJECTS,), id="a refusal at the end stays"),
        pytest.param(['-m comment --comment "a \\" b" -j DROP', EXCEPTS], {1}, (), id="only at the end"),
        pytest.param([EXCEPTS, '-m comment --comment "a \\" b" -j DROP'], {0}, ('-m comment --comment "a \\" b" -j DROP',), id="comments"),
        pytest.param([EXCEPTS, "-p tcp -j DROP"], {0}, (), id="a refusal of some is none of everything"),
        pytest.param([ACCEPTS, "-j MARK --set-xmark 0x1/0x1", REJECTS], {1}, (REJECTS,), id="a mark may matter to what follows"),
        pytest.param([ACCEPTS, REJECTS], {1}, (), id="without its end nothing is kept"),
    ],
)
def test_what_remains_of_a_chain_lets_no_more_through(rules: list[str], refused: set[int], kept: tuple[str, ...]) -> None:
    assert remainder(rules, refused) == kept


def test_reasons_are_one_line_without_the_tools_noise() -> None:
    text = "iptables-restore v1.8.9 (legacy): Set S1 doesn't exist.\n\nError occurred at line: 5\nTry `iptables-restore -h' or ...\n"
    assert reason_in(text) == "Set S1 doesn't exist."
    assert reason_in("iptables-restore: line 14 failed\n") == "the kernel refused it"
    assert reason_in("iptables-nft-restore: line 12 failed: Bad rule (does a matching rule exist in that chain?).\n").startswith("Bad rule")
    assert reason_in("") == "the kernel refused it"


@pytest.mark.parametrize(
    ("errors", "locked"),
    [
        ("Another app is currently holding the xtables lock; still 1s 0us time ahead to have a chance to grab the lock...", True),
        ("iptables: Resource temporarily unavailable.", True),
        ("line 13: CHAIN_DEL failed (Device or resource busy): chain C", False),
    ],
)
def test_a_lock_is_told_from_a_refusal(errors: str, locked: bool) -> None:
    assert is_locked(errors) is locked


def test_changes_are_parted_by_family_and_table() -> None:
    nat = ChainKey(6, "nat", "KUBE-ROUTER-MASQ")
    put = {A: Chain(("-j DROP",)), JUMP: Jump(), B: Chain(())}
    assert sections([*(Change(key, None, value) for key, value in put.items()), Change(nat, Chain(()), None)]) == {
        4: {"filter": Section(4, "filter", {A: ("-j DROP",), B: ()}, [], {JUMP: Jump()})},
        6: {"nat": Section(6, "nat", {}, [nat], {})},
    }
    with pytest.raises(TypeError, match="no chain"):
        sections([Change(SetKey("x"), None, SetSpec("hash:ip", 4))])
