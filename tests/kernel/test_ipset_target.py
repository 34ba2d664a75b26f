"""SetTarget on the real kernel: what it writes, what it leaves alone, and what happens when the kernel says no."""

from __future__ import annotations

import subprocess
import threading

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.ipset_run import SCRATCH
from kube_router.codec.sets import pair_entry
from kube_router.kit.errors import Rejected, Stale
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec

pytestmark = [pytest.mark.needs("root", "netns", "ipset", "xt_set", "iptables_nft"), pytest.mark.usefixtures("netns")]

A, B, C = "kube-router-node-ips", "KUBE-SRC-AAAA", "inet6:KUBE-DST-BBBB"
IP4 = SetSpec("hash:ip", 4)


@pytest.fixture
def target() -> SetTarget:
    return SetTarget()


def ipset(text: str) -> str:
    return subprocess.run(["ipset", "restore", "-exist"], input=text, text=True, check=True, capture_output=True).stdout


def iptables(*arguments: str) -> None:
    subprocess.run(["iptables-nft", *arguments], check=True, capture_output=True)


def saved(name: str) -> list[str]:
    lines = subprocess.run(["ipset", "save", name, "-sorted"], text=True, check=True, capture_output=True).stdout.splitlines()
    return [line for line in lines if line.startswith("add ")]


def creation(state: State) -> list[Change]:
    return [Change(key, None, value) for key, value in state.items()]


def removal(state: State) -> list[Change]:
    return [Change(key, value, None) for key, value in reversed(state.items())]


def a_set(name: str, spec: SetSpec, *entries: str, nomatch: bool = False) -> State:
    state: State = {SetKey(name): spec}
    state.update({SetMember(name, entry): Member(nomatch) for entry in entries})
    return state


STATE: State = {
    **a_set(A, IP4, "10.0.0.1", "10.0.0.2"),
    **a_set(B, SetSpec("hash:net", 4), "10.0.0.0/24", "10.9.9.9", "0.0.0.0/1"),
    **a_set(C, SetSpec("hash:net", 6), "fd00::/64", "fd00:1::1", "::ffff:a00:1", "64:ff9b::a00:1", "::/1"),
    **a_set("kube-router-ipvs-services", SetSpec("hash:ip,port", 4), "10.0.0.1,tcp:80", "10.0.0.1,udp:53", "10.0.0.1,sctp:9"),
    **a_set("inet6:kube-router-ipvs-services", SetSpec("hash:ip,port", 6), "fd00::1,tcp:80", "fd00::1,sctp:9", "::ffff:102:304,udp:1"),
    SetMember(B, "10.0.0.128/25"): Member(nomatch=True),
}


def test_what_was_written_is_what_is_observed(target: SetTarget) -> None:
    assert target.apply(creation(STATE)) == {}
    assert target.observe({}) == STATE


def test_a_run_of_changes_is_one_process(target: SetTarget) -> None:
    target.apply(creation(STATE))
    assert (target.restores, target.forks, target.lines) == (1, 1, len(STATE))


def test_observing_takes_two_processes_however_many_sets_there_are(target: SetTarget) -> None:
    target.apply(creation({SetKey(f"KUBE-SRC-{n}"): IP4 for n in range(50)}))
    before = target.forks
    assert len(target.observe({})) == 50
    assert target.forks - before == 2


def test_applying_twice_changes_nothing(target: SetTarget) -> None:
    target.apply(creation(STATE))
    before = {key: saved(key.name) for key in STATE if isinstance(key, SetKey)}
    assert target.apply(creation(STATE)) == {}
    assert {key: saved(key.name) for key in before} == before


def test_removing_everything_leaves_nothing_and_can_be_repeated(target: SetTarget) -> None:
    target.apply(creation(STATE))
    assert target.apply(removal(STATE)) == {}
    assert target.observe({}) == {}
    assert target.apply(removal(STATE)) == {}


def test_members_of_a_set_that_goes_are_flushed_at_once(target: SetTarget) -> None:
    state = a_set(A, IP4, *(f"10.0.{n}.1" for n in range(200)))
    target.apply(creation(state))
    lines = target.lines
    target.apply(removal(state))
    assert target.lines - lines == 2


def test_taking_a_member_from_a_set_that_is_absent_succeeds(target: SetTarget) -> None:
    assert target.apply([Change(SetMember(A, "10.0.0.1"), Member(), None), Change(SetKey(A), IP4, None)]) == {}


def test_an_entry_can_change_its_flag(target: SetTarget) -> None:
    target.apply(creation(a_set(B, SetSpec("hash:net", 4), "10.0.0.0/24")))
    key = SetMember(B, "10.0.0.0/24")
    for member in (Member(nomatch=True), Member()):
        assert target.apply([Change(key, None, member)]) == {}
        assert target.observe({})[key] == member
    target.apply([Change(key, None, Member(nomatch=True))])
    assert target.apply([Change(key, Member(nomatch=True), None)]) == {}
    assert key not in target.observe({})


def test_foreign_sets_are_neither_listed_nor_touched_while_their_owner_changes_them(target: SetTarget) -> None:
    names = ["foreign-v4", "KUBE-SERVICES-X", "inet6:foreign", "kube-router-node-ips-not-ours", "TMP-SOMEBODYELSES000"]
    for name in names:
        ipset(f"create {name} hash:ip {'family inet6' if 'inet6' in name else ''} comment")
    log: list[str] = []
    stop = threading.Event()

    def change_own_set() -> None:
        while not stop.is_set():
            entry = f"10.1.{len(log) >> 8}.{len(log) & 255}"
            ipset(f'add foreign-v4 {entry} comment "c"\n')
            log.append(entry)
            stop.wait(0.01)

    other = threading.Thread(target=change_own_set)
    other.start()
    try:
        for turn in range(30):
            state = a_set(A, IP4, f"10.0.0.{turn}", f"10.0.1.{turn}")
            assert target.apply(creation(state)) == {}
            observed = target.observe({})
            assert all(isinstance(key, SetKey | SetMember) and A in (getattr(key, "name", ""), getattr(key, "set", "")) for key in observed)
            assert target.apply(removal(state)) == {}
    finally:
        stop.set()
        other.join()
    assert [line.split()[2] for line in saved("foreign-v4")] == sorted(log, key=lambda text: [int(part) for part in text.split(".")])
    assert subprocess.run(["ipset", "list", "-name"], text=True, capture_output=True, check=True).stdout.split() == names


@pytest.mark.parametrize("bad", ["nonsense", "fd00::1", "10.0.0.0/33", "10.0.0.1,tcp:80"])
def test_a_refused_member_is_named_and_its_neighbours_go_on(target: SetTarget, bad: str) -> None:
    state = a_set(A, IP4, *(f"10.0.0.{n}" for n in range(1, 200)), bad, *(f"10.0.1.{n}" for n in range(1, 200)))
    state |= a_set(B, IP4, "10.2.2.2")
    rejected = target.apply(creation(state))
    assert list(rejected) == [SetMember(A, bad)]
    assert target.observe({}) == {key: value for key, value in state.items() if key not in rejected}
    assert target.restores == 2


def test_a_set_with_a_bad_type_takes_its_members_along_but_not_its_neighbours(target: SetTarget) -> None:
    bad = a_set(A, SetSpec("hash:bogus", 4), "10.0.0.1", "10.0.0.2")
    good = a_set(B, IP4, "10.0.0.1")
    rejected = target.apply(creation(bad | good))
    assert set(rejected) == set(bad)
    assert "bogus" in rejected[SetKey(A)]
    assert target.observe({}) == good


def test_members_of_a_set_that_does_not_exist_are_refused_in_one_go(target: SetTarget) -> None:
    missing = [Change(SetMember("KUBE-SRC-NOPE", f"10.0.0.{n}"), None, Member()) for n in range(200)]
    good = a_set(A, IP4, "10.0.0.1")
    rejected = target.apply([*missing, *creation(good)])
    assert set(rejected) == {change.key for change in missing}
    assert target.observe({}) == good
    assert target.restores == 2


def test_a_full_set_grows_while_a_rule_names_it(target: SetTarget) -> None:
    small = SetSpec("hash:ip", 4, maxelem=4)
    target.apply(creation(a_set(A, small, "10.0.0.1", "10.0.0.2", "10.0.0.3")))
    iptables("-A", "INPUT", "-m", "set", "--match-set", A, "src")
    more = {SetMember(A, f"10.0.1.{n}"): Member() for n in range(100)}
    assert target.apply(creation(more)) == {}
    observed = target.observe({SetKey(A): small})
    assert {key for key in observed if isinstance(key, SetMember)} == {*more, *(SetMember(A, f"10.0.0.{n}") for n in (1, 2, 3))}
    assert observed[SetKey(A)] == small, "a set that is larger than wanted is as wanted"
    assert target.observe({})[SetKey(A)] == SetSpec("hash:ip", 4, maxelem=128)


@pytest.mark.parametrize(
    "options", ["hash:ip", "hash:ip counters comment timeout 0", "hash:ip timeout 300", "hash:ip maxelem 10 timeout 0"]
)
def test_a_set_made_with_other_options_is_replaced_with_its_members_while_a_rule_names_it(target: SetTarget, options: str) -> None:
    ipset(f"create {A} {options}\nadd {A} 10.0.0.1\nadd {A} 10.0.0.2\n")
    iptables("-A", "INPUT", "-m", "set", "--match-set", A, "src")
    wanted = a_set(A, IP4, "10.0.0.1", "10.0.0.2", "10.0.0.3")
    observed = target.observe(wanted)
    assert observed[SetKey(A)] != IP4
    changes = [Change(key, observed.get(key), value) for key, value in wanted.items() if observed.get(key) != value]
    assert target.apply(changes) == {}
    assert target.observe({}) == wanted
    assert saved(A) == [f"add {A} 10.0.0.{n} timeout 0" for n in (1, 2, 3)]


MARKS = "kube-router-service-marks"
MARKED = SetSpec("hash:ip,port", 4, skbinfo=True)


def test_a_rule_gives_packets_the_mark_of_their_entry_and_an_entry_can_change_it(target: SetTarget) -> None:
    state: State = {
        SetKey(MARKS): MARKED,
        SetMember(MARKS, "10.0.0.1,tcp:80"): Member(mark=0x34CA),
        SetMember(MARKS, "10.0.0.2,sctp:80"): Member(mark=0x200CA),
        SetMember(MARKS, "10.0.0.3,udp:80"): Member(),
        **a_set("kube-router-allowed", SetSpec("hash:ip,port,net", 4), "10.0.0.1,tcp:80,0.0.0.0/1", "10.0.0.1,tcp:80,192.0.2.7"),
        **a_set("inet6:kube-router-allowed", SetSpec("hash:ip,port,net", 6), "fd00::1,sctp:80,8000::/1", "fd00::1,tcp:80,fd00::7"),
    }
    assert target.apply(creation(state)) == {}
    assert target.observe({}) == state
    iptables("-t", "mangle", "-A", "OUTPUT", "-j", "SET", "--map-set", MARKS, "dst,dst", "--map-mark")
    state[SetMember(MARKS, "10.0.0.1,tcp:80")] = Member(mark=0x1F)
    state[SetMember(MARKS, "10.0.0.2,sctp:80")] = Member()
    assert target.apply([Change(key, Member(mark=9), value) for key, value in state.items() if isinstance(key, SetMember)]) == {}
    assert target.observe({}) == state


@pytest.mark.parametrize("entry", ["10.0.0.1,tcp:80 skbmark 0x1/0x1", "10.0.0.1,tcp:80"])
@pytest.mark.parametrize("skbinfo", [True, False])
def test_a_set_with_or_without_marks_becomes_the_one_that_is_wanted_while_a_rule_names_it(
    target: SetTarget, entry: str, skbinfo: bool
) -> None:
    held = SetSpec("hash:ip,port", 4, skbinfo=not skbinfo)
    option, was = ("", "10.0.0.1,tcp:80") if skbinfo else (" skbinfo", entry)
    ipset(f"create {MARKS} hash:ip,port timeout 0{option}\nadd {MARKS} {was}\n")
    iptables("-A", "INPUT", "-m", "set", "--match-set", MARKS, "dst,dst")
    wanted: State = {
        SetKey(MARKS): SetSpec("hash:ip,port", 4, skbinfo=skbinfo),
        SetMember(MARKS, "10.0.0.1,tcp:80"): Member(mark=0x34CA if skbinfo else 0),
    }
    observed = target.observe(wanted)
    assert observed[SetKey(MARKS)] == held
    assert target.apply([Change(key, observed.get(key), value) for key, value in wanted.items() if observed.get(key) != value]) == {}
    assert target.observe({}) == wanted


def test_a_set_of_another_type_is_made_anew_once_no_rule_names_it(target: SetTarget) -> None:
    ipset(f"create {A} hash:net timeout 0\nadd {A} 10.0.0.0/24\n")
    iptables("-A", "INPUT", "-m", "set", "--match-set", A, "src")
    change = [Change(SetKey(A), SetSpec("hash:net", 4), IP4), Change(SetMember(A, "10.0.0.1"), None, Member())]
    rejected = target.apply(change)
    assert set(rejected) == {SetKey(A), SetMember(A, "10.0.0.1")}
    assert "hash:net" in rejected[SetKey(A)]
    assert "named by a rule" in rejected[SetKey(A)]
    iptables("-F", "INPUT")
    with pytest.raises(Stale, match="made anew"):
        target.apply(change)
    assert target.observe({}) == a_set(A, IP4, "10.0.0.1")


def test_a_set_that_a_rule_names_is_refused_and_the_others_go(target: SetTarget) -> None:
    target.apply(creation(STATE))
    iptables("-A", "INPUT", "-m", "set", "--match-set", B, "src")
    rejected = target.apply(removal(STATE))
    assert rejected == {SetKey(B): "still named by a rule"}
    assert target.observe({}) == {SetKey(B): SetSpec("hash:net", 4)}
    iptables("-F", "INPUT")
    assert target.apply([Change(SetKey(B), None, None)]) == {}
    assert target.observe({}) == {}


def test_entries_that_will_expire_are_given_no_end(target: SetTarget) -> None:
    target.apply(creation(a_set(A, IP4)))
    ipset(f"add {A} 10.0.0.1 timeout 300\n")
    assert SetMember(A, "10.0.0.1") not in target.observe({})
    assert target.apply([Change(SetMember(A, "10.0.0.1"), None, Member())]) == {}
    assert saved(A) == [f"add {A} 10.0.0.1 timeout 0"]


def test_what_a_killed_replacement_left_is_removed(target: SetTarget) -> None:
    ipset(f"create {SCRATCH} hash:ip timeout 0\n")
    assert target.observe({}) == {}
    assert subprocess.run(["ipset", "list", "-name"], text=True, capture_output=True, check=True).stdout == ""


def test_twenty_refusals_among_fifty_thousand_members_cost_no_member(target: SetTarget) -> None:
    entries = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(50_000)]
    state: State = {SetKey(A): IP4}
    for number, entry in enumerate(entries):
        state[SetMember(A, entry)] = Member()
        if number % 2_500 == 1_000:
            state[SetMember(A, f"bad{number}")] = Member()
    rejected = target.apply(creation(state))
    assert len(rejected) == 20
    assert target.observe({}) == {key: value for key, value in state.items() if key not in rejected}
    assert target.restores == 21


def test_a_tool_that_is_missing_says_so() -> None:
    class Nowhere(Commands):
        def find(self, tool: str) -> str | None:
            return None

    with pytest.raises(Rejected, match="ipset is not installed"):
        SetTarget(Nowhere()).observe({})


@pytest.mark.needs("root", "netns", "ipset_netport")
def test_pairs_of_networks_and_networks_with_ports_are_spelled_as_the_kernel_does(target: SetTarget) -> None:
    pairs = pair_entry("10.0.0.0/24", "10.1.0.1/32"), pair_entry("10.0.0.1", "10.0.0.1")
    state = a_set("KUBE-SRC-PAIRS", SetSpec("hash:net,net", 4), *pairs)
    state |= a_set("inet6:KUBE-SRC-PAIRS", SetSpec("hash:net,net", 6), pair_entry("fd00::/64", "fd00::1/128"))
    state |= a_set("KUBE-DST-PORTS", SetSpec("hash:net,port", 4), "10.0.0.0/24,tcp:80", "10.0.0.1,sctp:80")
    state[SetMember("KUBE-SRC-PAIRS", pair_entry("10.0.0.0/25", "10.1.0.0/16"))] = Member(nomatch=True)
    assert target.apply(creation(state)) == {}
    assert target.observe({}) == state
    assert target.apply(removal(state)) == {}
    assert target.observe({}) == {}
