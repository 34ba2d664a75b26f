"""AddressTarget on the real kernel: addresses, the source they give the host, and nothing left when they go.

What it does is the same on any link. Where the kernel has no dummy links, veth pairs stand for them; the daemon's own dummy link is
played in the lab tests.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from kube_router.apply.kernel.addresses import AddressTarget
from kube_router.apply.kernel.flows import Flows
from kube_router.codec.conntrack import ANY_PORT, Flow
from kube_router.kit.errors import Stale
from kube_router.model.state import Change, State
from kube_router.model.state.links import Address, AddressKey
from lab.kernel_netns import Netns

pytestmark = pytest.mark.needs("root", "netns", "veth")

NODE = {4: "192.168.50.50", 6: "fd00:50::50"}
OTHER = {4: "192.168.50.51", 6: "fd00:50::51"}
VIP = {4: "10.233.0.1", 6: "fd00:233::1"}
LENGTH = {4: 32, 6: 128}


@pytest.fixture(autouse=True)
def network(netns: Netns) -> None:
    del netns
    for command in (
        "link add up0 type veth peer name up1",
        "link set up1 up",
        "link set up0 up",
        f"addr add {NODE[4]}/24 dev up0",
        f"addr add {OTHER[4]}/24 dev up0",
        f"addr add {NODE[6]}/64 dev up0 nodad",
        f"addr add {OTHER[6]}/64 dev up0 nodad",
        "link add kube-dummy-if type veth peer name other",
        "link set other up",
        "link set kube-dummy-if up",
    ):
        ip(command)
    # A veth is up a while after it was set up, and then the kernel goes over its IPv6 addresses once more; a dummy link is up at once.
    while any("state UP" not in ip(f"-o link show dev {link}") for link in ("up0", "kube-dummy-if")):
        time.sleep(0.02)
    time.sleep(0.05)


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def ip(command: str) -> str:
    return subprocess.run(["ip", *command.split()], text=True, check=True, capture_output=True).stdout


def state(family: int, address: str = "", source: str = "") -> State:
    vip = address or VIP[family]
    return {AddressKey("kube-dummy-if", f"{vip}/{LENGTH[family]}"): Address("link", source or NODE[family])}


def put(wanted: State) -> list[Change]:
    return [Change(key, None, value) for key, value in wanted.items()]


def taken(wanted: State) -> list[Change]:
    return [Change(key, value, None) for key, value in wanted.items()]


def source_of(vip: str) -> str:
    words = ip(f"route get {vip}").split()
    return words[words.index("src") + 1]


def leftovers(family: int) -> list[str]:
    shown = ip(f"-{family} addr show dev kube-dummy-if scope global") + ip(f"-{family} addr show dev kube-dummy-if scope link")
    routes = ip(f"-{family} route show table all dev kube-dummy-if").splitlines()
    words = [line for line in shown.splitlines() if "inet" in line] + routes
    return [line for line in words if VIP[family] in line]


def test_the_host_talks_to_a_vip_from_the_nodes_address(family):
    target = AddressTarget()
    wanted = state(family)
    assert target.apply(put(wanted)) == {}
    assert target.observe(wanted) == wanted
    assert source_of(VIP[family]) == NODE[family]
    shown = ip(f"-{family} -o addr show dev kube-dummy-if")
    assert f"{VIP[family]}/{LENGTH[family]} scope {'link' if family == 4 else 'global'}" in shown


def test_applying_twice_changes_nothing_and_nothing_is_left_when_it_goes(family):
    target = AddressTarget()
    wanted = state(family)
    target.apply(put(wanted))
    before = leftovers(family)
    assert target.apply(put(wanted)) == {}
    assert leftovers(family) == before
    assert len(before) == 2, "the address, and one route"
    assert target.apply(taken(wanted)) == {}
    assert leftovers(family) == []
    assert target.apply(taken(wanted)) == {}
    assert target.observe({}) == {}


def test_the_original_left_the_same_behind(family):
    ip(f"addr add {VIP[family]}/{LENGTH[family]} dev kube-dummy-if scope link")
    ip(f"route replace local {VIP[family]} dev kube-dummy-if table local proto kernel scope host src {NODE[family]}")
    if family == 6:
        ip(f"-6 route del local {VIP[6]} dev kube-dummy-if table local metric 0")
        ip(f"-6 route show table local {VIP[6]}")
    target = AddressTarget()
    found = target.observe({})
    assert list(found) == list(state(family))
    target.apply([Change(key, value, state(family)[key]) for key, value in found.items()])
    assert target.observe({}) == state(family)
    assert source_of(VIP[family]) == NODE[family]
    target.apply(taken(state(family)))
    assert leftovers(family) == []


def test_another_source_replaces_the_first(family):
    target = AddressTarget()
    target.apply(put(state(family)))
    after = state(family, source=OTHER[family])
    assert target.apply([Change(key, state(family)[key], value) for key, value in after.items()]) == {}
    assert target.observe({}) == after
    assert source_of(VIP[family]) == OTHER[family]


def test_without_a_demand_a_new_address_is_the_kernels_own(family):
    target = AddressTarget()
    key = next(iter(state(family)))
    assert target.apply([Change(key, None, Address(source=""))]) == {}
    assert target.observe({}) == {key: Address(source="")}
    assert source_of(VIP[family]) == VIP[family]


def test_a_source_that_is_no_address_of_the_node_is_refused_whole_and_neighbours_go_on(family):
    stranger = {4: "192.0.2.1", 6: "2001:db8::1"}[family]
    neighbour = {4: "10.233.0.2", 6: "fd00:233::2"}[family]
    target = AddressTarget()
    bad, good = state(family, source=stranger), state(family, neighbour)
    rejected = target.apply(put(bad | good))
    assert list(rejected) == list(bad)
    assert stranger in rejected[next(iter(bad))]
    assert target.observe({}) == good
    assert leftovers(family) == []


def test_b25_vips_are_never_taken_down_and_keep_their_source_while_the_nodes_address_is_away(family):
    target = AddressTarget()
    wanted = state(family)
    target.apply(put(wanted))
    length = {4: 24, 6: 64}[family]
    undemanded: State = dict.fromkeys(wanted, Address(source=""))
    changes = [Change(key, value, undemanded[key]) for key, value in wanted.items()]
    with removals(family) as removed:
        ip(f"addr del {NODE[family]}/{length} dev up0")
        assert target.apply(changes) == {}
        assert target.observe(undemanded) == undemanded, "settled: nothing is asked for, and nothing is put right"
        if family == 4:
            assert target.observe(wanted) == wanted, "the source has stayed; of IPv6 it depends on the kernel"
        ip(f"addr add {NODE[family]}/{length} dev up0" + (" nodad" if family == 6 else ""))
        assert target.apply([Change(key, undemanded[key], value) for key, value in wanted.items()]) == {}
    assert target.observe(wanted) == wanted
    assert source_of(VIP[family]) == NODE[family]
    assert VIP[family] not in "".join(removed), "the address was never removed"


@contextmanager
def removals(family: int) -> Iterator[list[str]]:
    """Removals of addresses and routes of our link that the kernel tells of meanwhile; complete once left."""
    found: list[str] = []
    with subprocess.Popen(["ip", f"-{family}", "monitor", "address", "route"], text=True, stdout=subprocess.PIPE) as monitor:
        try:
            time.sleep(0.2)  # until it listens
            yield found
            time.sleep(0.2)
        finally:
            monitor.terminate()
        assert monitor.stdout is not None
        found += [line for line in monitor.stdout if line.startswith("Deleted") and "kube-dummy-if" in line]


def test_a_route_without_its_address_is_seen_and_can_be_removed_or_put_right(family):
    target = AddressTarget()
    # With the last address of a link the kernel removes all its IPv4 routes, with another one the route stays behind.
    neighbour = state(family, {4: "10.233.0.2", 6: "fd00:233::2"}[family])
    wanted = state(family)
    target.apply(put(wanted | neighbour))
    ip(f"addr del {VIP[family]}/{LENGTH[family]} dev kube-dummy-if")
    found = target.observe(wanted)
    assert found.keys() == (wanted | neighbour).keys()
    assert found != wanted | neighbour
    target.apply([Change(key, found[key], value) for key, value in wanted.items()])
    assert target.observe(wanted) == wanted | neighbour
    ip(f"addr del {VIP[family]}/{LENGTH[family]} dev kube-dummy-if")
    target.apply([Change(key, value, None) for key, value in target.observe({}).items() if key in wanted])
    assert leftovers(family) == []
    assert target.observe({}) == neighbour


def test_the_kernels_own_route_that_came_back_is_seen_and_removed():
    target = AddressTarget()
    wanted = state(6)
    target.apply(put(wanted))
    ip("link set kube-dummy-if down")
    ip("link set kube-dummy-if up")
    ip(f"-6 addr replace {VIP[6]}/128 dev kube-dummy-if nodad")
    key = next(iter(wanted))
    found = target.observe(wanted)
    assert found[key] != wanted[key]
    target.apply([Change(key, found[key], wanted[key])])
    assert target.observe(wanted) == wanted
    assert source_of(VIP[6]) == NODE[6]


def test_addresses_of_other_links_and_link_local_ones_are_none_of_ours():
    assert AddressTarget().observe({}) == {}


def test_a_wide_address_on_our_link_is_ours_to_remove():
    ip("addr add 10.99.0.1/24 dev kube-dummy-if")
    target = AddressTarget()
    found = target.observe({})
    assert [key.prefix for key in found if isinstance(key, AddressKey)] == ["10.99.0.1/24"]
    assert target.apply([Change(key, value, None) for key, value in found.items()]) == {}
    assert target.observe({}) == {}


def test_without_the_link_nothing_is_held_and_writing_is_stale():
    ip("link del kube-dummy-if")
    target = AddressTarget()
    assert target.observe({}) == {}
    assert target.apply(taken(state(4))) == {}
    with pytest.raises(Stale, match="kube-dummy-if"):
        target.apply(put(state(4)))


class Told(Flows):
    """UDP flows that were to be ended."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Flow] = []

    def end(self, flows: Iterable[Flow]) -> None:
        self.asked += flows


def test_b22_flows_that_went_past_ipvs_end_when_an_address_comes_and_only_then(family):
    flows = Told()
    target = AddressTarget(flows=flows)
    wanted = state(family)
    assert target.apply(put(wanted)) == {}
    assert flows.asked == [], "nothing of UDP is served there, so nothing is looked for"
    target.apply(taken(wanted))
    flows.serve(VIP[family], 53, served=True)
    assert target.apply(put(wanted)) == {}
    assert flows.asked == [Flow(VIP[family], ANY_PORT, VIP[family], ANY_PORT)]
    flows.asked.clear()
    other = state(family, source=OTHER[family])
    target.apply([Change(key, wanted[key], value) for key, value in other.items()])
    target.apply(taken(other))
    assert flows.asked == []


def test_d04_one_address_among_five_hundred_costs_its_own_messages(family):
    target = AddressTarget()
    many: State = {}
    for n in range(500):
        many |= state(family, {4: f"10.234.{n // 250}.{n % 250 + 1}", 6: f"fd00:234::{n + 1:x}"}[family])
    target.apply(put(many))
    sent, dumps = target.sent, target.dumps
    target.apply(put(state(family)))
    assert target.dumps == dumps, "nothing is read to write one"
    if family == 4:
        assert target.sent - sent == 2, "address and route"
    sent, dumps = target.sent, target.dumps
    target.apply(taken(state(family)))
    assert (target.sent - sent, target.dumps - dumps) == (2, 0)
    assert target.observe({}) == many


def test_b25_a_thousand_addresses_go_in_batches(family):
    """Each has two messages, and IPv6 one more; what is asked for is asked once for all, but for the last few."""
    wanted: State = {}
    for n in range(1000):
        wanted |= state(family, {4: f"10.233.{n // 250}.{n % 250 + 1}", 6: f"fd00:233::{n + 1:x}"}[family])
    target = AddressTarget()
    assert target.apply(put(wanted)) == {}
    assert target.dumps <= 200, "of IPv6 as often as it takes until the kernel has made its own"
    written = {4: 2000, 6: 3000}[family]
    assert written <= target.sent - target.dumps < written + {4: 1, 6: 800}[family]
    assert target.observe({}) == wanted
    assert target.apply(taken(wanted)) == {}
    assert target.observe({}) == {}
