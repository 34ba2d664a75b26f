"""IptablesTarget on the real kernel, both backends and both families."""

from __future__ import annotations

import fcntl
import re
import subprocess
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import Backend, Tools, installed
from kube_router.codec.rules import (
    ACCEPT,
    DROP,
    RETURN,
    comment,
    ctstate,
    goto,
    jump,
    masquerade,
    match_set,
    matching,
    ports,
    reject,
    rule,
)
from kube_router.kit.errors import Busy
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Leftover, LeftoverKey

pytestmark = [pytest.mark.needs("root", "netns", "ipset", "xt_set", "iptables_legacy", "iptables_nft"), pytest.mark.usefixtures("netns")]

INPUT, FORWARD, PODS, MASQ = "KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-PODS", "KUBE-ROUTER-MASQ"
FW, POLICY = "KUBE-POD-FW-AAAAAAAAAAAAAAAA", "KUBE-NWPLCY-BBBBBBBBBBBBBBBB"
STEM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}


@pytest.fixture(params=["legacy", "nft"])
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


@pytest.fixture
def target(backend: Backend) -> IptablesTarget:
    return fresh(backend)


def fresh(backend: Backend) -> IptablesTarget:
    return IptablesTarget(tools_of(backend))


def tools_of(backend: Backend) -> Tools:
    return installed(Commands())[backend]


def save(target: IptablesTarget, family: Family = 4, table: str = "filter") -> list[str]:
    text = subprocess.run([target.tools.save[family], "-t", table], text=True, check=True, capture_output=True).stdout
    return [line for line in text.splitlines() if not line.startswith("#")]


def restore(target: IptablesTarget, text: str, family: Family = 4) -> None:
    subprocess.run([target.tools.restore[family], "--noflush", "--wait=20"], input=text, text=True, check=True)


def run(target: IptablesTarget, *arguments: str, family: Family = 4) -> None:
    subprocess.run([f"{STEM[family]}-{target.tools.backend}", "--wait", "20", *arguments], check=True, capture_output=True)


def builtin(target: IptablesTarget, chain: str, family: Family = 4, table: str = "filter") -> list[str]:
    return [line.removeprefix(f"-A {chain} ") for line in save(target, family, table) if line.startswith(f"-A {chain} ")]


def creation(state: State) -> list[Change]:
    return [Change(key, None, value) for key, value in state.items()]


def removal(state: State) -> list[Change]:
    return [Change(key, value, None) for key, value in reversed(state.items())]


def a_chain(name: str, *rules: str, family: Family = 4, table: str = "filter") -> State:
    return {ChainKey(family, table, name): Chain(rules)}


def whole_state() -> State:
    state: State = {}
    for family in FAMILIES:
        state |= a_chain(POLICY, rule(ACCEPT, comment("a/b ingress"), ports("tcp", 80), protocol="tcp"), family=family)
        state |= a_chain(FW, rule(ACCEPT, ctstate("ESTABLISHED", "RELATED")), rule(jump(POLICY)), rule(reject(family)), family=family)
        state |= a_chain(FORWARD, rule(goto(FW), in_link="kube-bridge"), family=family)
        state |= a_chain(INPUT, rule(goto(FW), in_link="kube-bridge"), family=family)
        state |= a_chain(PODS, rule(ACCEPT, out_link="kube-bridge"), family=family)
        state |= a_chain(MASQ, rule(masquerade(), comment("")), family=family, table="nat")
        state[JumpKey(family, "filter", "INPUT", INPUT)] = Jump(match=matching(comment("kube-router netpol")), rank=10)
        state[JumpKey(family, "filter", "FORWARD", FORWARD)] = Jump(match=matching(comment("kube-router netpol")), rank=10)
        state[JumpKey(family, "filter", "FORWARD", PODS)] = Jump(rank=20)
        state[JumpKey(family, "nat", "POSTROUTING", MASQ)] = Jump(first=False)
    return state


STATE = whole_state()

FOREIGN = """*filter
:OTHER-CHAIN - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER-ELSE - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -i lo -m comment --comment "-j KUBE-ROUTER-INPUT" -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m limit --limit 5/min -j LOG --log-prefix "COMMIT "
-A FORWARD -j OTHER-CHAIN
-A OTHER-CHAIN -m statistic --mode random --probability 0.25000000000 -j RETURN
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
*nat
-A POSTROUTING -o eth9 -j MASQUERADE
COMMIT
"""


def foreign_lines(target: IptablesTarget) -> list[str]:
    """What is not ours, with counters."""
    lines = []
    for family in FAMILIES:
        command = [target.tools.save[family], "-c"]
        text = subprocess.run(command, text=True, check=True, capture_output=True).stdout
        lines += [line for line in text.splitlines() if not line.startswith("#") and not any(name in line for name in OUR_NAMES)]
    return lines


OUR_NAMES = (f":{INPUT} ", f"-j {INPUT}", f"-A {INPUT} ", FORWARD, PODS, MASQ, FW, POLICY)


def test_what_was_written_is_what_is_observed(target: IptablesTarget) -> None:
    assert target.apply(creation(STATE)) == {}
    assert target.observe(STATE) == STATE


def test_a_first_run_takes_a_read_for_each_table_with_jumps_and_one_restore_for_each_family(target: IptablesTarget) -> None:
    target.apply(creation(STATE))
    assert (target.reads, target.restores) == (4, 2)


def test_a_changed_chain_is_one_process_that_names_this_chain_only(target: IptablesTarget) -> None:
    target.apply(creation(STATE))
    forks, lines = target.forks, target.lines
    (key,) = a_chain(POLICY)
    assert target.apply([Change(key, STATE[key], Chain((rule(DROP),)))]) == {}
    assert target.forks - forks == 1
    assert target.lines - lines == len(["*filter", ":POLICY - [0:0]", "-A POLICY -j DROP", "COMMIT"])
    assert target.observe(STATE) == STATE | {key: Chain((rule(DROP),))}


def test_observing_is_one_process_for_each_family(target: IptablesTarget) -> None:
    target.apply(creation(STATE))
    forks = target.forks
    target.observe(STATE)
    assert target.forks - forks == 2


def test_applying_twice_changes_nothing(target: IptablesTarget) -> None:
    restore(target, FOREIGN)
    target.apply(creation(STATE))
    before = save(target), save(target, 6), save(target, table="nat")
    assert target.apply(creation(STATE)) == {}
    assert (save(target), save(target, 6), save(target, table="nat")) == before


def test_jumps_that_stand_well_cost_no_write(target: IptablesTarget) -> None:
    target.apply(creation(STATE))
    restores = target.restores
    assert target.apply([Change(key, None, value) for key, value in STATE.items() if isinstance(key, JumpKey)]) == {}
    assert target.restores == restores


def test_removing_everything_leaves_the_foreign_rules_alone_and_can_be_repeated(target: IptablesTarget) -> None:
    for family in FAMILIES:
        restore(target, FOREIGN, family)
    before = foreign_lines(target)
    target.apply(creation(STATE))
    assert foreign_lines(target) == before
    assert target.apply(removal(STATE)) == {}
    assert foreign_lines(target) == before
    assert target.observe({}) == {}
    assert target.apply(removal(STATE)) == {}


def test_after_a_restart_without_memory_all_of_ours_is_found(target: IptablesTarget, backend: Backend) -> None:
    restore(target, FOREIGN)
    target.apply(creation(STATE))
    found = fresh(backend).observe({})
    assert found.keys() == STATE.keys()
    assert fresh(backend).apply([Change(key, value, None) for key, value in sorted(found.items(), key=jumps_first)]) == {}
    assert target.observe({}) == {}


def jumps_first(pair: tuple[object, object]) -> bool:
    return isinstance(pair[0], ChainKey)


# -- jumps ----------------------------------------------------------------------------------------------------------------


def test_the_first_jump_precedes_foreign_rules_and_the_others_follow(target: IptablesTarget) -> None:
    restore(target, FOREIGN)
    target.apply(creation(STATE))
    assert builtin(target, "INPUT")[0] == f'-m comment --comment "kube-router netpol" -j {INPUT}'
    assert builtin(target, "FORWARD")[:2] == [f'-m comment --comment "kube-router netpol" -j {FORWARD}', f"-j {PODS}"]
    assert builtin(target, "POSTROUTING", table="nat") == ["-o eth9 -j MASQUERADE", f"-j {MASQ}"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param([["-I", "FORWARD", "-i", "eth7", "-j", "ACCEPT"]], id="a foreign rule was inserted first"),
        pytest.param([["-A", "FORWARD", "-j", PODS]], id="a duplicate"),
        pytest.param([["-I", "FORWARD", "-j", PODS], ["-I", "FORWARD", "-j", PODS]], id="duplicates before all"),
        pytest.param([["-I", "FORWARD", "-s", "10.0.0.0/8", "-j", PODS]], id="an older spelling"),
        pytest.param([["-D", "FORWARD", "-j", PODS], ["-A", "FORWARD", "-j", PODS]], id="it stands last"),
        pytest.param([["-D", "FORWARD", "-j", PODS], ["-I", "FORWARD", "-j", PODS]], id="wrong order among ours"),
        pytest.param([["-D", "FORWARD", "-j", PODS]], id="it is gone"),
        pytest.param([["-F", "FORWARD"]], id="all are gone"),
        pytest.param([["-D", "FORWARD", "-j", PODS], ["-A", "FORWARD", "-g", PODS]], id="a goto in its place"),
    ],
)
def test_a_jump_out_of_place_is_seen_and_put_right(target: IptablesTarget, spoil: list[list[str]]) -> None:
    restore(target, FOREIGN)
    target.apply(creation(STATE))
    before = builtin(target, "FORWARD")
    for arguments in spoil:
        run(target, *arguments)
    foreign = [line for line in builtin(target, "FORWARD") if "KUBE-ROUTER" not in line]
    observed = target.observe(STATE)
    changes = [Change(key, observed.get(key), value) for key, value in STATE.items() if observed.get(key) != value]
    assert changes
    assert target.apply(changes) == {}
    assert target.observe(STATE) == STATE
    assert builtin(target, "FORWARD") == before[:2] + foreign


def test_a_jump_that_moves_is_there_at_every_moment(target: IptablesTarget) -> None:
    """Deleting and inserting are one transaction: a reader that looks all the time never misses the jump."""
    target.apply(creation(STATE))
    script = f"while [ ! -e $0 ]; do {target.tools.save[4]} -t filter; done"
    # The reader ends when its standard output is closed.
    reader = subprocess.Popen(["sh", "-c", script, "/nonexistent/stop"], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert reader.stdout is not None
    for _ in range(10):
        run(target, "-I", "INPUT", "-j", "ACCEPT")
        observed = target.observe(STATE)
        target.apply([Change(key, observed.get(key), value) for key, value in STATE.items() if observed.get(key) != value])
    reader.kill()
    tables = reader.communicate()[0].split("*filter")[1:-1]
    assert tables
    assert all(f"-j {INPUT}" in table for table in tables)


def test_two_controllers_that_know_of_their_own_jumps_only_reach_the_order_of_ranks(target: IptablesTarget, backend: Backend) -> None:
    later: State = a_chain(PODS) | {JumpKey(4, "filter", "FORWARD", PODS): Jump(rank=20)}
    sooner: State = a_chain(FORWARD) | {JumpKey(4, "filter", "FORWARD", FORWARD): Jump(rank=10)}
    for first, second in ((later, sooner), (sooner, later)):
        one = fresh(backend)
        run(target, "-F", "FORWARD")
        for state in (first, second):
            one.observe(state)
            one.apply(creation(state))
        assert builtin(target, "FORWARD") == [f"-j {FORWARD}", f"-j {PODS}"]
        for state in (first, second):
            assert {key: value for key, value in one.observe(state).items() if key in state} == state


# -- refusals -------------------------------------------------------------------------------------------------------------


def refusals() -> dict[str, str]:
    return {
        "a set that is missing": rule(ACCEPT, match_set("KUBE-SRC-NOPE", "src")),
        "a chain that is missing": rule(jump("KUBE-NWPLCY-NOPE")),
        "an extension that is missing": "-m bogus -j ACCEPT",
        "an option that is unknown": "--bogus 1 -j ACCEPT",
        "what only the kernel refuses": rule(reject(4, "tcp-reset")),
    }


@pytest.mark.parametrize("kind", refusals())
def test_a_refused_rule_is_named_and_other_chains_go_on(target: IptablesTarget, kind: str) -> None:
    bad = refusals()[kind]
    state = dict(STATE)
    (key,) = a_chain(POLICY)
    state[key] = Chain((rule(ACCEPT, protocol="udp"), bad, rule(ACCEPT, protocol="tcp")))
    rejected = target.apply(creation(state))
    assert list(rejected) == [key]
    assert bad in rejected[key]
    observed = target.observe(state)
    assert {k: v for k, v in observed.items() if k != key} == {k: v for k, v in state.items() if k != key}
    kept = (rule(ACCEPT, protocol="udp"), rule(ACCEPT, protocol="tcp")) if "reset" not in bad else ()
    assert observed[key] == Chain(kept)


def test_many_refused_rules_for_one_missing_set_cost_few_processes(target: IptablesTarget) -> None:
    many = {f"KUBE-POD-FW-{n:016d}": n for n in range(300)}
    state: State = {}
    for name in many:
        state |= a_chain(name, rule(ACCEPT, match_set("KUBE-SRC-NOPE", "src")), rule(reject(4)))
    state |= a_chain(POLICY, rule(ACCEPT))
    assert set(target.apply(creation(state))) == {ChainKey(4, "filter", name) for name in many}
    assert target.restores <= 3
    assert target.observe({})[ChainKey(4, "filter", POLICY)] == Chain((rule(ACCEPT),))
    assert target.observe({})[ChainKey(4, "filter", next(iter(many)))] == Chain((rule(reject(4)),))


def test_a_refused_exception_closes_its_chain(target: IptablesTarget) -> None:
    closing = rule(reject(4), comment("a/b reject"))
    exception = rule(RETURN, match_set("KUBE-SRC-NOPE", "src"))
    state = a_chain(POLICY, exception, rule(ACCEPT)) | a_chain(FW, exception, rule(ACCEPT), closing)
    assert set(target.apply(creation(state))) == set(state)
    assert target.observe(state) == a_chain(POLICY) | a_chain(FW, closing)


def test_what_the_kernel_refuses_is_found_among_thousands_of_rules(target: IptablesTarget) -> None:
    good = [rule(ACCEPT, source=f"10.0.{n >> 8}.{n & 255}") for n in range(2_000)]
    bad = rule("-j REJECT --reject-with tcp-reset", protocol="udp")
    state = a_chain(FORWARD, *good[:1_234], bad, *good[1_234:]) | a_chain(POLICY, rule(ACCEPT))
    rejected = target.apply(creation(state))
    assert list(rejected) == [ChainKey(4, "filter", FORWARD)]
    assert bad in rejected[ChainKey(4, "filter", FORWARD)]
    assert target.restores < 40
    assert target.observe({}).keys() == state.keys(), "the scratch chain is gone"


def test_one_family_that_fails_does_not_stop_the_other(target: IptablesTarget) -> None:
    state = a_chain(POLICY, "--bogus 4") | a_chain(FW, rule(ACCEPT), family=6)
    assert list(target.apply(creation(state))) == [ChainKey(4, "filter", POLICY)]
    assert target.observe({})[ChainKey(6, "filter", FW)] == Chain((rule(ACCEPT),))


def test_a_family_without_tools_is_refused_by_name_and_the_other_goes_on(backend: Backend) -> None:
    both = tools_of(backend)
    four = IptablesTarget(Tools(backend, {4: both.save[4]}, {4: both.restore[4]}))
    rejected = four.apply(creation(STATE))
    assert set(rejected) == {key for key in STATE if getattr(key, "family", 0) == 6}
    assert four.observe(STATE) == {key: value for key, value in STATE.items() if key not in rejected}
    assert four.apply(removal(STATE)) == {}


def test_a_chain_that_a_foreign_rule_leads_to_is_emptied_and_refused(target: IptablesTarget) -> None:
    target.apply(creation(STATE))
    run(target, "-A", "OUTPUT", "-j", POLICY)
    rejected = target.apply(removal({key: value for key, value in STATE.items() if getattr(key, "family", 0) == 4}))
    assert set(rejected) == {ChainKey(4, "filter", POLICY)}
    left = target.observe({})
    assert left[ChainKey(4, "filter", POLICY)] == Chain(())
    assert {key for key in left if isinstance(key, ChainKey) and key.family == 4} == {ChainKey(4, "filter", POLICY)}


def test_a_chain_name_that_is_too_long_is_refused_alone(target: IptablesTarget) -> None:
    state = a_chain("KUBE-NWPLCY-" + "X" * 17, rule(ACCEPT)) | a_chain(POLICY, rule(ACCEPT))
    assert list(target.apply(creation(state))) == [ChainKey(4, "filter", "KUBE-NWPLCY-" + "X" * 17)]
    assert target.observe({}) == a_chain(POLICY, rule(ACCEPT))


def test_a_loop_of_chains_is_refused_and_others_go_on(target: IptablesTarget) -> None:
    loop = a_chain(POLICY, rule(jump(FW))) | a_chain(FW, rule(jump(POLICY))) | a_chain(FORWARD, rule(jump(FW)))
    state = loop | a_chain(PODS, rule(ACCEPT))
    for chain in (FORWARD, PODS):
        state[JumpKey(4, "filter", "FORWARD", chain)] = Jump(rank=0 if chain == FORWARD else 1)
    rejected = target.apply(creation(state))
    assert rejected
    assert set(rejected) <= {*loop, JumpKey(4, "filter", "FORWARD", FORWARD)}
    assert target.observe(state)[ChainKey(4, "filter", PODS)] == Chain((rule(ACCEPT),))


# -- scale ----------------------------------------------------------------------------------------------------------------


def test_a_dispatch_chain_of_five_thousand_rules_is_written_and_read_back(target: IptablesTarget) -> None:
    rules = [rule(goto(FW), comment(f"ns/pod-{n}"), destination=f"10.{n >> 8}.{n & 255}.1") for n in range(5_000)]
    state = a_chain(FW) | a_chain(FORWARD, *rules)
    assert target.apply(creation(state)) == {}
    assert target.observe({}) == state
    assert target.restores == 1


# -- others at work -------------------------------------------------------------------------------------------------------


def test_foreign_rules_are_byte_for_byte_the_same_after_a_hundred_changes_while_another_process_inserts(target: IptablesTarget) -> None:
    for family in FAMILIES:
        restore(target, FOREIGN, family)
    if target.tools.backend == "nft":  # what no iptables tool can express, in the tables that it shares
        subprocess.run(["nft", "add", "rule", "ip", "filter", "FORWARD", "meta", "l4proto", "{", "tcp,", "udp", "}", "accept"], check=True)
        subprocess.run(["nft", "add", "chain", "ip", "filter", "native", "{ type filter hook input priority 10; }"], check=True)
    native = native_listing(target)
    before = foreign_lines(target)
    target.apply(creation(STATE))
    insert = f"iptables-{target.tools.backend} -w 20 -I FORWARD 1 -s 10.99.$((n/250)).$((n%250)) -j ACCEPT"
    adds = f'n=0; while [ ! -e "$0" ]; do n=$((n+1)); {insert} || exit 9; echo $n; sleep 0.02; done'
    with TemporaryDirectory() as folder:
        stop = Path(folder, "stop")
        other = subprocess.Popen(["sh", "-c", adds, str(stop)], text=True, stdout=subprocess.PIPE)
        for turn in range(100):
            changes = [
                *creation(a_chain(POLICY, *(rule(ACCEPT, source=f"10.{turn}.{n}.0/24") for n in range(20)))),
                *creation(a_chain(FW, rule(jump(POLICY)), rule(reject(6)), family=6)),
            ]
            observed = target.observe(STATE)
            changes += [Change(key, observed.get(key), value) for key, value in STATE.items() if isinstance(key, JumpKey)]
            assert target.apply(changes) == {}
        stop.touch()
        count = int(other.communicate()[0].split()[-1])
        assert other.returncode == 0
    inserted = [line for line in foreign_lines(target) if "10.99." in line]
    assert len(inserted) == count, "no rule of the other process was lost"
    assert [line for line in foreign_lines(target) if line not in inserted] == before
    assert [line for line in native_listing(target) if "10.99." not in line] == native


def native_listing(target: IptablesTarget) -> list[str]:
    """The tables as `nft` shows them, without what is ours."""
    if target.tools.backend != "nft":
        return []
    text = subprocess.run(["nft", "list", "table", "ip", "filter"], text=True, check=True, capture_output=True).stdout
    text = re.sub(r"\tchain KUBE-(?:ROUTER-(?:INPUT|FORWARD|PODS|MASQ)|POD-FW-A+|NWPLCY-B+) \{[^}]*\}\n\n?", "", text)
    return [line for line in text.splitlines() if line.strip() and not any(f"jump {name}" in line for name in (INPUT, FORWARD, PODS))]


def test_a_tool_killed_in_mid_restore_leaves_whole_tables_and_the_next_run_repairs(backend: Backend) -> None:
    old = a_chain(FORWARD, *(rule(ACCEPT, source=f"10.0.{n >> 8}.{n & 255}") for n in range(1_500)))
    new = a_chain(FORWARD, *(rule(DROP, source=f"10.9.{n >> 8}.{n & 255}") for n in range(1_500)))
    good = fresh(backend)
    good.apply(creation(old))
    killed = 0
    for step in range(1, 13):
        hasty = IptablesTarget(tools_of(backend), Commands(timeout=0.005 * step))
        try:
            hasty.apply(creation(new))
        except Busy:
            killed += 1
        assert good.observe({}) in (old, new)
        assert good.apply(creation(old)) == {}
        assert good.observe({}) == old
    assert killed


def test_a_lock_that_is_held_makes_us_wait_and_then_say_busy() -> None:
    with TemporaryDirectory() as folder:
        lock = Path(folder, "lock")
        commands = Commands(variables={"XTABLES_LOCKFILE": str(lock)})
        target = IptablesTarget(tools_of("legacy"), commands, wait=1)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(Busy, match="in use by another program"):
                target.apply(creation(STATE))
            assert target.observe({}) == {}
            threading.Timer(0.3, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
            assert target.apply(creation(STATE)) == {}
        assert target.observe(STATE) == STATE


def test_counters_of_foreign_rules_survive(target: IptablesTarget) -> None:
    restore(target, "*filter\n-A OUTPUT -o lo -j ACCEPT\nCOMMIT\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ping", "-c", "3", "-i", "0.01", "-q", "127.0.0.1"], check=True, capture_output=True)
    counted = [line for line in foreign_lines(target) if "-o lo" in line]
    assert counted[0].startswith("[6:")
    target.apply(creation(STATE))
    target.apply(removal(STATE))
    assert [line for line in foreign_lines(target) if "-o lo" in line] == counted


def test_a_table_that_the_kernel_does_not_have_is_refused_and_other_tables_go_on(target: IptablesTarget) -> None:
    lost = {ChainKey(4, "nosuch", f"KUBE-POD-FW-{n:016d}"): Chain((rule(ACCEPT),)) for n in range(50)}
    state: State = {**a_chain(POLICY, rule(ACCEPT)), **lost, **a_chain(MASQ, rule(masquerade()), table="nat")}
    assert set(target.apply(creation(state))) == set(lost)
    assert target.observe({}) == {key: value for key, value in state.items() if key not in lost}
    assert target.restores == 1 + 3, "one for all, then one for each table"


TO_PODS = '-o kube-bridge -m comment --comment "allow inbound traffic to pods"'
CLAMPED = "-s 203.0.113.11/32 -i kube-bridge -p tcp -m tcp --sport 8080 --tcp-flags SYN,RST SYN"
MARKED = "-d 203.0.113.11/32 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x34ca/0xffffffff"
LEFT = f"""*mangle
-A PREROUTING -d 10.0.0.1/32 -j ACCEPT
-A PREROUTING {MARKED}
-A PREROUTING {MARKED.replace("0x34ca", "0x5")}
-A PREROUTING {CLAMPED} -j TCPMSS --set-mss 1440
-A OUTPUT {MARKED}
COMMIT
*filter
:{INPUT} - [0:0]
-A FORWARD -s 10.0.0.2/32 -j DROP
-A FORWARD {TO_PODS} -j ACCEPT
-A FORWARD -d 10.0.0.2/32 -j DROP
-A FORWARD {TO_PODS} -j ACCEPT
COMMIT
"""


def test_rules_that_the_original_left_are_seen_and_go_and_their_neighbours_stay(target: IptablesTarget) -> None:
    restore(target, LEFT)
    state = target.observe({})
    found = {(key.table, key.builtin, key.owner, value) for key, value in state.items() if isinstance(key, LeftoverKey)}
    assert found == {
        ("mangle", "PREROUTING", "proxy", Leftover()),
        ("mangle", "OUTPUT", "proxy", Leftover()),
        ("filter", "FORWARD", "routing", Leftover(2)),
    }
    assert len([key for key in state if isinstance(key, LeftoverKey)]) == 4
    changes = [Change(key, value, None) for key, value in state.items() if isinstance(key, LeftoverKey)]
    reads, restores = target.reads, target.restores
    assert target.apply(changes) == {}
    assert (target.reads - reads, target.restores - restores) == (2, 1), "a table is read once more, and all is written at once"
    assert [key for key in target.observe({}) if isinstance(key, LeftoverKey)] == []
    assert builtin(target, "PREROUTING", table="mangle") == ["-d 10.0.0.1/32 -j ACCEPT", MARKED.replace("0x34ca", "0x5")]
    assert builtin(target, "FORWARD") == ["-s 10.0.0.2/32 -j DROP", "-d 10.0.0.2/32 -j DROP"]
    assert target.apply(changes) == {}, "what is gone already is gone"


def test_a_leftover_that_cannot_go_is_named_and_its_neighbours_go(target: IptablesTarget) -> None:
    restore(target, LEFT)
    leftovers = [key for key in target.observe({}) if isinstance(key, LeftoverKey)]
    changes = [Change(key, Leftover(), None) for key in leftovers]
    bad = ChainKey(4, "mangle", "KUBE-ROUTER-MSS")
    refused = target.apply([Change(bad, None, Chain(("-m nothing -j ACCEPT",))), *changes])
    assert set(refused) == {bad}
    assert [key for key in target.observe({}) if isinstance(key, LeftoverKey)] == []
