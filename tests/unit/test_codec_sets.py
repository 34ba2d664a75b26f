"""Sets as text. That the kernel prints what we write is tests/kernel/test_ipset_target.py."""

from __future__ import annotations

import time

import pytest

from kube_router.codec import sets
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Member, SetKey, SetMember, SetSpec

A, B = "kube-router-node-ips", "inet6:KUBE-SRC-X"
IP4, NET6 = SetSpec("hash:ip", 4), SetSpec("hash:net", 6, maxelem=131072)


def put(key: Key, value: Value) -> Change:
    return Change(key, None, value)


def gone(key: Key) -> Change:
    return Change(key, None, None)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ([], []),
        (
            [
                put(SetKey(A), IP4),
                put(SetKey(B), NET6),
                put(SetMember(A, "10.0.0.1"), Member()),
                put(SetMember(B, "fd00::/64"), Member(nomatch=True)),
            ],
            [
                "create kube-router-node-ips hash:ip family inet maxelem 65536 timeout 0",
                "create inet6:KUBE-SRC-X hash:net family inet6 maxelem 131072 timeout 0",
                "add kube-router-node-ips 10.0.0.1 timeout 0",
                "add inet6:KUBE-SRC-X fd00::/64 timeout 0 nomatch",
            ],
        ),
        ([gone(SetMember(A, "10.0.0.1")), gone(SetMember(A, "10.0.0.2"))], [f"del {A} 10.0.0.1", f"del {A} 10.0.0.2"]),
        (
            [gone(SetMember(A, "10.0.0.1")), gone(SetMember(B, "fd00::1")), gone(SetMember(A, "10.0.0.2")), gone(SetKey(A))],
            [f"flush {A}", f"del {B} fd00::1", f"destroy {A}"],
        ),
        ([gone(SetMember(A, "10.0.0.1")), put(SetMember(A, "10.0.0.1"), Member())], [f"del {A} 10.0.0.1", f"add {A} 10.0.0.1 timeout 0"]),
    ],
)  # fmt: skip
def test_changes_become_lines_in_their_order(changes: list[Change], lines: list[str]) -> None:
    script = sets.script(changes)
    assert script.lines == lines
    assert len(script.keys) == len(lines)


def test_what_is_no_set_is_refused() -> None:
    with pytest.raises(TypeError, match="no set"):
        sets.script([put(ChainKey(4, "filter", "X"), Chain(()))])


SAVED = """create kube-router-node-ips hash:ip family inet hashsize 1024 maxelem 65536 timeout 0 bucketsize 12 initval 0xe0bd5daa
add kube-router-node-ips 10.0.0.1 timeout 0
add kube-router-node-ips 10.0.0.9 timeout 287
create b hash:net family inet hashsize 1024 maxelem 65536 timeout 0 bucketsize 12 initval 0xa6cd0bd6
add b 10.0.0.0/24 timeout 0
add b 10.9.0.0/24 timeout 0 nomatch
add b 10.0.0.2 timeout 0
create inet6:c hash:ip,port family inet6 hashsize 64 maxelem 10 timeout 0
add inet6:c fd00::1,tcp:80 timeout 0
add inet6:c fd00::1,sctp:80 timeout 0
add inet6:c ::ffff:1.2.3.4,udp:53 timeout 0
create inet6:d hash:net family inet6 hashsize 1024 maxelem 65536 timeout 0
add inet6:d ::ffff:1.2.3.0/120 timeout 0
add inet6:d 64:ff9b::a00:1 timeout 0
"""


def test_saved_sets_are_read() -> None:
    assert sets.parse_save(SAVED) == {
        SetKey(A): IP4,
        SetMember(A, "10.0.0.1"): Member(),
        SetKey("b"): SetSpec("hash:net", 4),
        SetMember("b", "10.0.0.0/24"): Member(),
        SetMember("b", "10.9.0.0/24"): Member(nomatch=True),
        SetMember("b", "10.0.0.2"): Member(),
        SetKey("inet6:c"): SetSpec("hash:ip,port", 6, maxelem=10),
        SetMember("inet6:c", "fd00::1,tcp:80"): Member(),
        SetMember("inet6:c", "fd00::1,sctp:80"): Member(),
        SetMember("inet6:c", "::ffff:102:304,udp:53"): Member(),
        SetKey("inet6:d"): SetSpec("hash:net", 6),
        SetMember("inet6:d", "::ffff:102:300/120"): Member(),
        SetMember("inet6:d", "64:ff9b::a00:1"): Member(),
    }


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("family inet hashsize 1024 maxelem 65536", "hash:ip timeout none"),
        ("family inet hashsize 1024 maxelem 65536 timeout 300", "hash:ip timeout 300"),
        ("family inet hashsize 1024 maxelem 65536 timeout 0 counters comment", "hash:ip counters comment"),
        ("family inet netmask 24 hashsize 1024 maxelem 65536 timeout 0", "hash:ip netmask 24"),
        ("family inet markmask 0x1 hashsize 1024 maxelem 65536 timeout 0 forceadd", "hash:ip markmask 0x1 forceadd"),
    ],
)
def test_a_set_with_other_options_than_ours_equals_none_that_we_want(options: str, kind: str) -> None:
    assert sets.parse_save(f"create {A} hash:ip {options}\n") == {SetKey(A): SetSpec(kind, 4)}


MARKED = f"""create {A} hash:ip,port family inet hashsize 1024 maxelem 65536 timeout 0 skbinfo bucketsize 12 initval 0xf0768fc3
add {A} 10.0.0.1,tcp:80 timeout 0 skbmark 0x34ca
add {A} 10.0.0.2,tcp:80 timeout 0
add {A} 10.0.0.3,tcp:80 timeout 0 skbmark 0x1/0x1
add {A} 10.0.0.4,tcp:80 timeout 0 skbprio 1:10
add {A} 10.0.0.5,tcp:80 timeout 0 skbmark 0x200ca nomatch
"""


def test_marks_of_entries_are_written_and_read() -> None:
    spec = SetSpec("hash:ip,port", 4, skbinfo=True)
    assert sets.create_line(A, spec) == f"create {A} hash:ip,port family inet maxelem 65536 timeout 0 skbinfo"
    assert sets.add_line(A, "10.0.0.1,tcp:80", Member(mark=0x34CA)) == f"add {A} 10.0.0.1,tcp:80 timeout 0 skbmark 0x34ca"
    assert sets.parse_save(MARKED) == {
        SetKey(A): spec,
        SetMember(A, "10.0.0.1,tcp:80"): Member(mark=0x34CA),
        SetMember(A, "10.0.0.2,tcp:80"): Member(),
        SetMember(A, "10.0.0.3,tcp:80"): Member(mark=-1),
        SetMember(A, "10.0.0.4,tcp:80"): Member(mark=-1),
        SetMember(A, "10.0.0.5,tcp:80"): Member(nomatch=True, mark=0x200CA),
    }


def test_entries_of_a_set_with_other_options_are_read_all_the_same() -> None:
    head = f"create {A} hash:ip family inet maxelem 9 counters comment\n"
    read = sets.parse_save(f'{head}add {A} 10.0.0.1 packets 0 bytes 0 comment "x"\nadd {A} 10.0.0.2\n')
    assert {key for key in read if isinstance(key, SetMember)} == {SetMember(A, "10.0.0.1"), SetMember(A, "10.0.0.2")}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (sets.net_entry("10.0.0.1/32"), "10.0.0.1"),
        (sets.net_entry("10.0.0.0/24"), "10.0.0.0/24"),
        (sets.net_entry("10.0.0.1"), "10.0.0.1"),
        (sets.net_entry("fd00::1/128"), "fd00::1"),
        (sets.net_entry("fd00::/32"), "fd00::/32"),
        (sets.port_entry("10.0.0.1", "TCP", 80), "10.0.0.1,tcp:80"),
        (sets.port_entry("fd00::1", "SCTP", 9), "fd00::1,sctp:9"),
        (sets.pair_entry("10.0.0.1/32", "10.0.0.0/8"), "10.0.0.1,10.0.0.0/8"),
        (sets.source_entry("10.0.0.1", "UDP", 53, "192.0.2.0/24"), "10.0.0.1,udp:53,192.0.2.0/24"),
        (sets.source_entry("fd00::1", "TCP", 80, "2001:db8::1/128"), "fd00::1,tcp:80,2001:db8::1"),
    ],
)
def test_entries_are_spelled_as_the_kernel_prints_them(entry: str, expected: str) -> None:
    assert entry == expected


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("ipset v7.17: Error in line 4: Kernel error received: set type not supported\n",
         (3, "Kernel error received: set type not supported")),
        ("ipset v7.17: Error in line 2: Syntax error: cannot parse x: resolving to IPv4 address failed\n",
         (1, "Syntax error: cannot parse x: resolving to IPv4 address failed")),
        ("ipset v7.17: Cannot open session to kernel.\n", (None, "ipset v7.17: Cannot open session to kernel.")),
    ],
)  # fmt: skip
def test_complaints_name_a_line_counted_from_zero(errors: str, expected: tuple[int | None, str]) -> None:
    assert sets.parse_error(errors) == expected


@pytest.mark.parametrize(
    ("kind", "module"),
    [("hash:ip", "ip_set_hash_ip"), ("hash:net,net", "ip_set_hash_netnet"), ("hash:ip,port", "ip_set_hash_ipport")],
)
def test_a_set_type_names_its_module(kind: str, module: str) -> None:
    assert sets.type_module(kind) == module


def test_a_replacement_is_filled_before_it_is_swapped_in() -> None:
    assert sets.replace_lines("A", IP4, [("10.0.0.1", Member())], scratch="T") == [
        "destroy T",
        "create T hash:ip family inet maxelem 65536 timeout 0",
        "add T 10.0.0.1 timeout 0",
        "swap T A",
        "destroy T",
    ]


def test_a_hundred_thousand_members_are_written_and_read_in_two_seconds_of_processor() -> None:
    entries = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000)]
    state: dict[Key, Value] = {SetKey(A): IP4} | {SetMember(A, entry): Member() for entry in entries}
    started = time.process_time()
    lines = sets.script(put(key, value) for key, value in state.items()).lines
    assert sets.parse_save("\n".join(lines)) == state
    assert time.process_time() - started < 2.0
