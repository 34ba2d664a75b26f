"""LinkTarget on the real kernel: links of ours made, kept and replaced, and what belongs to others left alone."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from kube_router.apply.kernel.links import LinkTarget
from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkSocket
from kube_router.codec.addresses import dump_addresses
from kube_router.kit.errors import TargetError
from kube_router.model.state import Change, State
from kube_router.model.state.links import Link, LinkKey
from tests.kernel.notices import listening

pytestmark = [pytest.mark.needs("root", "netns", "bridge", "br_netfilter"), pytest.mark.usefixtures("netns")]

BRIDGE, DUMMY = LinkKey("kube-bridge"), LinkKey("kube-dummy-if")
RANGES = ("10.233.64.0/24", "fd00:64::/64")
WISH = Link("bridge", mtu=1480, filtered=True, only_in=RANGES)


@pytest.fixture
def target(netns: object) -> Iterator[LinkTarget]:
    target = LinkTarget()
    yield target
    target.close()


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], text=True, check=True, capture_output=True).stdout


def link(name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(ip("-d", "-j", "link", "show", "dev", name))
    return found[0]


def names() -> set[str]:
    return {entry["ifname"] for entry in json.loads(ip("-j", "link", "show"))}


def addresses(name: str) -> set[str]:
    entries = json.loads(ip("-j", "address", "show", "dev", name))[0]["addr_info"]
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in entries if entry["scope"] != "link"}


def calls(name: str) -> tuple[int, int]:
    data = link(name)["linkinfo"]["info_data"]
    return data["nf_call_iptables"], data["nf_call_ip6tables"]


def make(target: LinkTarget, wish: Link = WISH) -> None:
    assert target.apply([Change(BRIDGE, None, wish)]) == {}


def test_a_bridge_is_made_up_with_all_that_was_wanted(target: LinkTarget) -> None:
    assert target.observe({BRIDGE: WISH}) == {}
    make(target)
    found = link("kube-bridge")
    assert (found["linkinfo"]["info_kind"], found["mtu"]) == ("bridge", 1480)
    assert "UP" in found["flags"]
    assert calls("kube-bridge") == (1, 1)
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}


@pytest.mark.needs("dummy")
def test_the_dummy_link_is_made_up_and_answers_no_arp(target: LinkTarget) -> None:
    wanted: State = {DUMMY: Link("dummy")}
    assert target.apply([Change(DUMMY, None, Link("dummy"))]) == {}
    assert target.observe(wanted) == wanted
    assert {"UP", "NOARP"} <= set(link("kube-dummy-if")["flags"])
    assert target.apply([Change(DUMMY, Link("dummy"), None)]) == {}
    assert target.observe(wanted) == {}


def test_applying_twice_sends_nothing_that_anyone_hears_of(target: LinkTarget) -> None:
    make(target)
    with listening() as notices:
        make(target)
        assert notices.take() == []


def test_a_bridge_that_exists_is_adopted_with_what_its_owner_set(target: LinkTarget) -> None:
    ip("link", "add", "kube-bridge", "address", "02:00:00:00:00:07", "type", "bridge", "ageing_time", "12300", "stp_state", "1")
    before = link("kube-bridge")
    found = target.observe({BRIDGE: WISH})[BRIDGE]
    assert found == Link("bridge", mtu=1500, up=False)
    assert target.apply([Change(BRIDGE, found, WISH)]) == {}
    after = link("kube-bridge")
    assert (after["ifindex"], after["address"]) == (before["ifindex"], "02:00:00:00:00:07")
    assert (after["linkinfo"]["info_data"]["ageing_time"], after["linkinfo"]["info_data"]["stp_state"]) == (12300, 1)
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}


def test_a_link_that_somebody_set_down_is_seen_and_set_up(target: LinkTarget) -> None:
    wish = Link("bridge", mtu=1500, filtered=True)
    make(target, wish)
    ip("link", "set", "kube-bridge", "down")
    found = target.observe({BRIDGE: wish})[BRIDGE]
    assert found != wish
    assert target.apply([Change(BRIDGE, found, wish)]) == {}
    assert "UP" in link("kube-bridge")["flags"]


@pytest.mark.needs("veth")
def test_a_link_of_our_name_and_another_kind_is_replaced(target: LinkTarget) -> None:
    ip("link", "add", "kube-bridge", "type", "veth", "peer", "name", "other0")
    found = target.observe({BRIDGE: WISH})[BRIDGE]
    assert isinstance(found, Link)
    assert found.kind == "veth"
    assert target.apply([Change(BRIDGE, found, WISH)]) == {}
    assert link("kube-bridge")["linkinfo"]["info_kind"] == "bridge"
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}


def test_an_mtu_is_followed_and_left_alone_where_none_is_wanted(target: LinkTarget) -> None:
    make(target)
    other = Link("bridge", mtu=8932, filtered=True, only_in=RANGES)
    assert target.observe({BRIDGE: other})[BRIDGE] != other
    assert target.apply([Change(BRIDGE, WISH, other)]) == {}
    assert link("kube-bridge")["mtu"] == 8932
    whatever = Link("bridge")
    assert target.observe({BRIDGE: whatever}) == {BRIDGE: whatever}
    assert target.apply([Change(BRIDGE, other, whatever)]) == {}
    assert link("kube-bridge")["mtu"] == 8932


@pytest.mark.needs("veth")
def test_an_mtu_that_is_right_is_not_written_so_that_ports_may_still_lower_it(target: LinkTarget) -> None:
    make(target, Link("bridge", mtu=1500))
    ip("link", "add", "port0", "mtu", "1400", "type", "veth", "peer", "name", "port1")
    ip("link", "set", "port0", "master", "kube-bridge")
    assert link("kube-bridge")["mtu"] == 1400


def test_bridged_packets_pass_iptables_on_our_bridge_alone(target: LinkTarget) -> None:
    ip("link", "add", "br-vm", "type", "bridge", "nf_call_iptables", "0", "nf_call_ip6tables", "0")
    make(target)
    assert calls("br-vm") == (0, 0)
    ip("link", "set", "kube-bridge", "type", "bridge", "nf_call_ip6tables", "0")
    found = target.observe({BRIDGE: WISH})[BRIDGE]
    assert found != WISH
    assert target.apply([Change(BRIDGE, found, WISH)]) == {}
    assert calls("kube-bridge") == (1, 1)


STRAYS = ("10.99.0.1/24", "10.99.0.2/24", "10.233.65.1/24", "fd00:99::1/64", "fd00:65::1/64")
KEPT = {"10.233.64.1/24", "10.233.64.9/24", "fd00:64::1/64"}


def test_addresses_of_a_range_that_is_no_longer_ours_are_taken_off(target: LinkTarget) -> None:
    make(target)
    for address in (*STRAYS, *KEPT):
        ip("address", "add", address, "dev", "kube-bridge", *(["nodad"] if ":" in address else []))
    found = target.observe({BRIDGE: WISH})[BRIDGE]
    assert found != WISH
    with listening() as notices:
        assert target.apply([Change(BRIDGE, found, WISH)]) == {}
        assert "link" not in notices.take()
    assert addresses("kube-bridge") == KEPT
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}


def test_link_local_addresses_are_the_kernels(target: LinkTarget) -> None:
    make(target)
    ip("address", "add", "fe80::7/64", "dev", "kube-bridge", "nodad")
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}
    make(target)
    assert "fe80::7" in ip("address", "show", "dev", "kube-bridge")


def test_without_a_range_no_address_is_touched(target: LinkTarget) -> None:
    make(target)
    ip("address", "add", STRAYS[0], "dev", "kube-bridge")
    wish = Link("bridge", mtu=1480, filtered=True)
    assert target.observe({BRIDGE: wish}) == {BRIDGE: wish}
    make(target, wish)
    assert addresses("kube-bridge") == {STRAYS[0]}


def test_links_of_others_are_invisible_and_stay(target: LinkTarget) -> None:
    for name in ("br-vm", "kube-bridge-2", "cni0"):
        ip("link", "add", name, "type", "bridge")
    before = names()
    make(target)
    assert target.observe({}).keys() == {BRIDGE}
    assert target.apply([Change(BRIDGE, WISH, None)]) == {}
    assert names() == before


def test_deleting_what_is_not_there_succeeds(target: LinkTarget) -> None:
    make(target)
    assert target.apply([Change(BRIDGE, WISH, None)]) == {}
    assert target.apply([Change(BRIDGE, WISH, None)]) == {}
    assert target.observe({}) == {}


def test_what_the_kernel_refuses_is_named_and_the_others_go_on(target: LinkTarget) -> None:
    bad = Link("no-such-kind")
    refused = target.apply([Change(DUMMY, None, bad), Change(BRIDGE, None, WISH)])
    assert refused.keys() == {DUMMY}
    assert "not supported" in refused[DUMMY]
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}


def test_a_link_that_vanishes_meanwhile_is_made_on_the_next_try(target: LinkTarget) -> None:
    # One process that does nothing but remove it, so that it goes between any two messages of ours.
    remover = subprocess.Popen(["ip", "-force", "-batch", "-"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    feeder = threading.Thread(target=_feed, args=(remover, b"link del kube-bridge\n" * 100))
    feeder.start()
    outcomes: list[str] = []
    try:
        for _ in range(60):
            try:
                assert target.apply([Change(BRIDGE, None, WISH)]) == {}
                target.observe({BRIDGE: WISH})
                outcomes.append("made")
            except TargetError as fault:
                outcomes.append(type(fault).__name__)
    finally:
        remover.kill()
        remover.wait()
        feeder.join()
    assert "Stale" in outcomes
    assert set(outcomes) <= {"made", "Stale", "Busy"}
    make(target)
    assert target.observe({BRIDGE: WISH}) == {BRIDGE: WISH}


def _feed(process: subprocess.Popen[bytes], lines: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        while True:
            process.stdin.write(lines)
            process.stdin.flush()


def test_the_kernel_tells_addresses_of_the_one_link_that_is_asked_for(target: LinkTarget) -> None:
    make(target)
    ip("address", "add", "10.233.64.1/24", "dev", "kube-bridge")
    ip("link", "add", "busy0", "type", "bridge")
    batch = "".join(f"address add 10.5.{n >> 8}.{n & 255}/32 dev busy0\n" for n in range(2000))
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True, capture_output=True)
    sock = NetlinkSocket(ROUTE)
    assert len(sock.dump(dump_addresses(4, link=link("kube-bridge")["ifindex"]))) == 1
    sock.close()


def hairpins(*ports: str) -> dict[str, bool]:
    return {port: link(port)["linkinfo"]["info_slave_data"]["hairpin"] for port in ports}


@pytest.mark.needs("veth")
def test_u011_ports_of_the_bridge_send_frames_back_those_that_were_there_and_those_that_come(target: LinkTarget) -> None:
    wish = Link("bridge", mtu=1480, hairpin=True)
    ip("link", "add", "other", "type", "bridge")
    ip("link", "add", "kube-bridge", "mtu", "1480", "type", "bridge")
    for port, bridge in (("p1", "kube-bridge"), ("p2", "kube-bridge"), ("o1", "other")):
        ip("link", "add", port, "type", "veth", "peer", "name", f"{port}-peer")
        ip("link", "set", port, "master", bridge)
    make(target, wish)
    assert hairpins("p1", "p2", "o1") == {"p1": True, "p2": True, "o1": False}, "another bridge is another's"
    assert target.observe({BRIDGE: wish}) == {BRIDGE: wish}
    ip("link", "add", "p3", "type", "veth", "peer", "name", "p3-peer")
    ip("link", "set", "p3", "master", "kube-bridge")
    held = target.observe({BRIDGE: wish})
    assert held != {BRIDGE: wish}
    assert target.apply([Change(BRIDGE, held[BRIDGE], wish)]) == {}
    assert hairpins("p1", "p2", "p3") == {"p1": True, "p2": True, "p3": True}
    assert target.observe({BRIDGE: wish}) == {BRIDGE: wish}
    ip("link", "set", "p3", "type", "bridge_slave", "hairpin", "off")
    plain = Link("bridge", mtu=1480)
    assert target.observe({BRIDGE: plain}) == {BRIDGE: plain}, "where nobody asks, ports are as they are"
