"""Command lines, as Go's flag library reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.config.flag_table import FLAGS
from kube_router.config.pflag import GONE, read


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("", {}),
        ("--bgp-port=1179", {"bgp-port": 1179}),
        ("--bgp-port 1179", {"bgp-port": 1179}),
        ("--bgp-port=1 --bgp-port=2", {"bgp-port": 2}),
        ("--enable-ipv6", {"enable-ipv6": True}),
        ("--enable-ipv6=false", {"enable-ipv6": False}),
        ("--enable-ipv6=F --enable-ipv6", {"enable-ipv6": True}),
        ("--kubeconfig=", {"kubeconfig": ""}),
        ("--kubeconfig --master", {"kubeconfig": "--master"}),
        ("--kubeconfig=a=b", {"kubeconfig": "a=b"}),
        ("-v2", {"v": "2"}),
        ("-v=2", {"v": "2"}),
        ("-v 2", {"v": "2"}),
        ("--v=2", {"v": "2"}),
        ("--v 2", {"v": "2"}),
        ("-v=", {"v": "="}),
        ("-h", {"help": True}),
        ("-hV", {"help": True, "version": True}),
        ("-Vv3", {"version": True, "v": "3"}),
        ("-hv 3", {"help": True, "v": "3"}),
        ("-h=false", {"help": False}),
        ("--help --version", {"help": True, "version": True}),
        ("--excluded-cidrs=a,b --excluded-cidrs=c", {"excluded-cidrs": ("a", "b", "c")}),
        ("--service-cluster-ip-range=a", {"service-cluster-ip-range": ("a",)}),
        ("--service-cluster-ip-range= --service-cluster-ip-range=a", {"service-cluster-ip-range": ("a",)}),
        ("--peer-router-asns=1,2 --peer-router-asns 3", {"peer-router-asns": (1, 2, 3)}),
        ("--peer-router-ips=::1 --peer-router-ips=10.0.0.1", {"peer-router-ips": ("::1", "10.0.0.1")}),
        ("--enable-ipv6 --", {"enable-ipv6": True}),
    ],
)
def test_a_right_command_line_gives_its_values(line: str, values: dict[str, object]) -> None:
    reading = read(line.split())
    assert reading.faults == []
    assert reading.values == values


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--enable-ipv6", "false"],
         ["false: an argument of its own, not the value of --enable-ipv6; write --enable-ipv6=false"]),
        (["router"], ["router: not a flag, and nothing else is expected; write options as --name=value"]),
        (["-"], ["-: not a flag, and nothing else is expected; write options as --name=value"]),
        ([""], ["'': not a flag, and nothing else is expected; write options as --name=value"]),
        (["--", "--help"], ["--help: not a flag, and nothing else is expected; write options as --name=value"]),
        (["---help"], ["---help: not a flag; write options as --name=value"]),
        (["--=x"], ["--=x: not a flag; write options as --name=value"]),
        (["--bgp-port"], ["--bgp-port: needs a value; write --bgp-port=VALUE"]),
        (["-v"], ["-v: needs a value; write --v=VALUE"]),
        (["--run-firewal=true"], ["--run-firewal=true: unknown flag; did you mean --run-firewall?"]),
        (["--run_firewall"], ["--run_firewall: unknown flag; did you mean --run-firewall?"]),
        (["--zzz"], ["--zzz: unknown flag"]),
        (["-run-router"], ["-run-router: long flags take two dashes; did you mean --run-router?"]),
        (["-run-ruter=1"], ["-run-ruter: long flags take two dashes; did you mean --run-router?"]),
        (["-x"], ["-x: unknown short flag 'x'"]),
        (["-hx"], ["-hx: unknown short flag 'x'"]),
        (["--bgp-port=-1"], ["--bgp-port=-1: not a whole number; give a number, 0..4294967295"]),
        (["--bgp-holdtime", "x"],
         ["--bgp-holdtime=x: not a duration; give numbers with units (ns us ms s m h), such as 1m30s"]),
        (["--enable-ipv6=yes"], ["--enable-ipv6=yes: not true or false; give true or false"]),
        (["--master=\x1b[2J", "--bgp-port=\x1b[2J"],
         ["--bgp-port=\\x1b[2J: not a whole number; give a number, 0..4294967295"]),
    ],
)  # fmt: skip
def test_a_fault_names_the_flag_the_value_and_what_would_be_right(arguments: list[str], faults: list[str]) -> None:
    assert [str(fault) for fault in read(arguments).faults] == faults


def test_reading_goes_on_after_each_fault() -> None:
    reading = read(["--nope", "--bgp-port=x", "word", "--cluster-asn=1", "-q", "--bgp-holdtime=1", "--enable-ipv6"])
    assert [fault.flag for fault in reading.faults] == ["--nope", "--bgp-port", "word", "-q", "--bgp-holdtime"]
    assert reading.values == {"cluster-asn": 1, "enable-ipv6": True}
    assert reading.unreadable == {"bgp-port", "bgp-holdtime"}


def test_the_word_after_an_unknown_flag_is_taken_for_its_value_and_not_shown() -> None:
    faults = read(["--peer-router-pass", "c2VjcmV0", "stray"]).faults
    assert [fault.flag for fault in faults] == ["--peer-router-pass", "stray"]
    assert "c2VjcmV0" not in "".join(str(fault) for fault in faults)


@pytest.mark.parametrize("name", sorted(GONE))
def test_a_flag_of_former_times_is_explained(name: str) -> None:
    (fault,) = read([f"--{name}=x"]).faults
    assert (fault.flag, fault.problem) == (f"--{name}", GONE[name])
    assert name not in {flag.name for flag in FLAGS}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--peer-router-passwords", '"SECRET'],
        ['--peer-router-passwords=SECRET"'],
        ["--peer-router-passwords", "a,", "SECRET", "SECRET"],
        ["--peer-router-passwordz=SECRET"],
        ["--peer-router-passwordz", "SECRET"],
        ["--bgp-password=SECRET"],
        ["--peer_router_passwords=SECRET"],
    ],
)
def test_no_fault_shows_a_password(arguments: list[str]) -> None:
    faults = read(arguments).faults
    assert faults
    assert "SECRET" not in "".join(f"{fault}{fault!r}" for fault in faults)


@given(st.lists(st.sampled_from([flag.name for flag in FLAGS if flag.kind == "bool"]), max_size=6))
def test_bare_booleans_are_true_in_any_order(names: list[str]) -> None:
    assert read([f"--{name}" for name in names]).values == dict.fromkeys(names, True)


@given(st.lists(st.lists(st.integers(0, 2**32), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_repeated_list_is_the_same_as_one_long_list(parts: list[list[int]]) -> None:
    texts = [",".join(map(str, part)) for part in parts]
    repeated = read([f"--peer-router-asns={text}" for text in texts])
    assert repeated.values == read(["--peer-router-asns", ",".join(texts)]).values


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_arguments_at_all_are_read_to_the_end_and_their_faults_are_plain_lines(arguments: list[str]) -> None:
    for fault in read(arguments).faults:
        assert str(fault).isprintable()
