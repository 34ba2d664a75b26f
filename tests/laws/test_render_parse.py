"""What is written and read back is the same, for everything that can be said; and jumps settle whatever stood there before."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kube_router.apply.kernel import iptables_jumps
from kube_router.apply.kernel.iptables_section import remainder
from kube_router.codec import rules, sets, tables
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import Jump, JumpKey, Member, SetKey, SetMember, SetSpec

# -- sets -----------------------------------------------------------------------------------------------------------------

octets = st.integers(0, 255)
ipv4 = st.builds("{}.{}.{}.{}".format, octets, octets, octets, octets)
ipv6 = st.ip_addresses(v=6).map(str)
protocols = st.sampled_from(["tcp", "UDP", "SCTP"])
ports = st.integers(0, 65535)


@st.composite
def a_set(draw: st.DrawFn) -> State:
    family = draw(st.sampled_from([4, 6]))
    addresses = ipv4 if family == 4 else ipv6
    networks = st.ip_addresses(v=family).map(lambda address: f"{address}/{address.max_prefixlen}")
    kind, entries = draw(
        st.sampled_from(
            [
                ("hash:ip", addresses),
                ("hash:net", networks.map(sets.net_entry)),
                ("hash:ip,port", st.builds(sets.port_entry, addresses, protocols, ports)),
                ("hash:net,net", st.builds(sets.pair_entry, networks, networks)),
            ]
        )
    )
    name = ("" if family == 4 else "inet6:") + draw(st.from_regex(r"KUBE-(SRC|DST)-[A-Z2-7]{1,16}", fullmatch=True))
    state: State = {SetKey(name): SetSpec(kind, family, maxelem=draw(st.integers(1, 1 << 24)))}
    for entry in draw(st.lists(entries, max_size=8)):
        state[SetMember(name, entry)] = Member(nomatch=kind.startswith("hash:net") and draw(st.booleans()))
    return state


states = st.lists(a_set(), max_size=4).map(lambda several: {key: value for state in several for key, value in state.items()})


def consistent(state: State) -> State:
    """Members of a set fit its type: two drawn sets may bear one name."""
    kinds = {key.name: value for key, value in state.items() if isinstance(key, SetKey)}
    return {key: value for key, value in state.items() if isinstance(key, SetKey) or (isinstance(key, SetMember) and key.set in kinds)}


@given(states.map(consistent))
def test_sets_that_are_written_read_the_same(state: State) -> None:
    lines = sets.script(Change(key, None, value) for key, value in state.items()).lines
    assert sets.parse_save("\n".join(lines)) == state


@given(states.map(consistent))
def test_removing_a_set_leaves_no_line_about_its_members_but_one(state: State) -> None:
    lines = sets.script(Change(key, value, None) for key, value in reversed(state.items())).lines
    assert not any(line.startswith("del ") for line in lines)
    assert sum(line.startswith("flush ") for line in lines) == len({key.set for key in state if isinstance(key, SetMember)})


# -- rules ----------------------------------------------------------------------------------------------------------------

texts = st.text(max_size=80)


def words_of(line: str) -> list[str]:
    """A line as iptables-restore cuts it: words by spaces, quotes hold words together, a backslash in quotes takes the next."""
    words: list[str] = []
    word, inside, started = "", False, False
    letters = iter(line)
    for letter in letters:
        if letter == '"':
            inside, started = not inside, True
        elif inside and letter == "\\":
            word += next(letters)
        elif letter == " " and not inside:
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + letter, True
    return [*words, word] if started else words


@given(texts)
def test_a_quoted_text_is_one_word_again(text: str) -> None:
    assert words_of(f"--comment {rules.quoted(text)} -j X") == ["--comment", text, "-j", "X"]


@given(texts)
def test_a_comment_stays_on_its_line_and_within_its_size(text: str) -> None:
    (word,) = words_of(rules.comment(text))[3:]
    assert word.isprintable()
    assert len(word.encode()) <= rules.COMMENT_BYTES


some_rules = st.lists(
    st.one_of(
        st.builds(lambda text: rules.rule(rules.ACCEPT, rules.comment(text)), texts),
        st.builds(lambda a: rules.rule(rules.goto("KUBE-POD-FW-X"), source=a), ipv4),
        st.just(""),
    )
)


@given(st.dictionaries(st.from_regex(r"KUBE-[A-Z]{1,20}", fullmatch=True), some_rules, max_size=5))
def test_chains_that_are_written_read_the_same(chains: dict[str, list[str]]) -> None:
    lines = [tables.declare(chain) for chain in chains]
    lines += [tables.append(chain, rule) for chain, its in chains.items() for rule in its]
    text = tables.text(tables.section("filter", [tables.Line(line) for line in lines]))
    assert tables.parse_save(text, lambda _: True)["filter"].chains == chains


@given(st.lists(st.sampled_from(["-j ACCEPT", "-p tcp -j ACCEPT", "-g X", "-s 10.0.0.0/8 -j RETURN", "-j DROP"]), min_size=1), st.data())
def test_what_remains_of_a_chain_is_part_of_it_without_what_was_refused(chain: list[str], data: st.DataObject) -> None:
    refused = data.draw(st.sets(st.integers(0, len(chain) - 1), min_size=1))
    numbered = [f"-m comment --comment {number} {rule}" for number, rule in enumerate(chain)]
    kept = remainder(numbered, refused)
    assert list(kept) == [rule for number, rule in enumerate(numbered) if rule in kept and number not in refused]


# -- jumps ----------------------------------------------------------------------------------------------------------------

CHAINS = ["KUBE-ROUTER-A", "KUBE-ROUTER-B", "KUBE-ROUTER-C", "KUBE-ROUTER-D"]
jumps = st.builds(Jump, match=st.sampled_from(["", "-i eth0", "-p tcp"]), first=st.booleans(), rank=st.integers(0, 3))
found = st.lists(
    st.one_of(
        st.sampled_from(["-j ACCEPT", "-s 10.0.0.0/8 -j KUBE-FIREWALL", "-j OTHER"]),
        st.builds("{} -j {}".format, st.sampled_from(["-i eth0", "-p tcp", "-d 10.1.1.1/32"]), st.sampled_from(CHAINS)),
        st.builds("-j {}".format, st.sampled_from(CHAINS)),
    ),
    max_size=10,
)
wishes = st.dictionaries(st.sampled_from(CHAINS), st.one_of(st.none(), jumps), min_size=1)


def ours(chain: str) -> bool:
    return chain in CHAINS


def after(rules_now: Sequence[str], lines: Sequence[tables.Line]) -> list[str]:
    """The built-in chain as the tools leave it; they refuse to delete what is not there."""
    now = list(rules_now)
    for line in lines:
        what, _, *rest = line.text.split(" ", 2)
        if what == "-D":
            now.remove(rest[0])
        elif what == "-A":
            now.append(rest[0])
        else:
            number, rule = rest[0].split(" ", 1)
            assert 1 <= int(number) <= len(now) + 1
            now.insert(int(number) - 1, rule)
    return now


def keyed(wish: dict[str, Jump | None]) -> dict[JumpKey, Jump | None]:
    return {JumpKey(4, "filter", "INPUT", chain): jump for chain, jump in wish.items()}


def known(wish: dict[str, Jump | None]) -> dict[JumpKey, Jump]:
    return {key: jump for key, jump in keyed(wish).items() if jump is not None}


@given(found, wishes)
def test_jumps_settle_in_one_go_and_foreign_rules_keep_their_order(rules_now: list[str], wish: dict[str, Jump | None]) -> None:
    settled = after(rules_now, iptables_jumps.settle(keyed(wish), rules_now, known(wish), ours))
    foreign = [rule for rule in rules_now if not ours(tables.rule_target(rule))]
    assert [rule for rule in settled if not ours(tables.rule_target(rule))] == foreign
    for key, jump in keyed(wish).items():
        assert iptables_jumps.observed(key, settled, known(wish), ours) == jump
    assert iptables_jumps.settle(keyed(wish), settled, known(wish), ours) == []


@given(found, wishes, wishes)
def test_controllers_that_settle_their_own_jumps_only_come_to_rest(
    rules_now: list[str], one: dict[str, Jump | None], two: dict[str, Jump | None]
) -> None:
    two = {chain: jump for chain, jump in two.items() if chain not in one}
    learned = known(one)
    now = after(rules_now, iptables_jumps.settle(keyed(one), rules_now, learned, ours))
    learned = known({**one, **two})
    for wish in (two, one, two, one):
        now = after(now, iptables_jumps.settle(keyed(wish), now, learned, ours))
    for wish in (one, two):
        assert iptables_jumps.settle(keyed(wish), now, learned, ours) == []
