"""IpvsTarget over netlink's own words: how many messages, in which order, and the order that schedulers which hash live by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_router.apply.kernel.flows import Flows
from kube_router.apply.kernel.ipvs import IpvsTarget
from kube_router.apply.kernel.ipvs_order import misplaced
from kube_router.codec.conntrack import Flow
from kube_router.kit.errors import Stale
from kube_router.model.state import Change, Key, State
from kube_router.model.state.ipvs import (
    Destination,
    DestinationKey,
    IpvsTimeouts,
    IpvsTimeoutsKey,
    VirtualServer,
    VirtualServerKey,
)
from kube_router.plan.ownership import outside
from tests.ipvs_kernel import FakeIpvs

TCP, UDP = 6, 17
WEB = VirtualServerKey("10.233.0.1", TCP, 80, family=4)
DNS = VirtualServerKey("10.233.0.1", UDP, 53, family=4)
MARKED = VirtualServerKey("", 0, 0, mark=0xCE2, family=6)
TIMEOUTS = IpvsTimeoutsKey()


class Told(Flows):
    """Flows that were to be ended."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Flow] = []

    def end(self, flows: Iterable[Flow]) -> None:
        self.asked += flows


@pytest.fixture
def kernel(tmp_path: Path) -> FakeIpvs:
    return FakeIpvs(tmp_path / "expire_nodest_conn")


Adopted = Callable[[VirtualServerKey], bool]


def target(kernel: FakeIpvs, *, adopted: Adopted = lambda _: False, flows: Flows | None = None) -> IpvsTarget:
    return IpvsTarget(adopted=lambda: adopted, flows=flows, socket=kernel, table=kernel.text, expire=kernel.switch)


def at(number: int, server: VirtualServerKey = WEB) -> DestinationKey:
    return DestinationKey(server, f"10.1.0.{number}" if server.family == 4 else f"fd00:64::{number}", 8080)


def put(*keys: Key, **values: str | int) -> list[Change]:
    return [Change(key, None, VirtualServer(**values) if isinstance(key, VirtualServerKey) else Destination()) for key in keys]  # type: ignore[arg-type]


def gone(*keys: Key) -> list[Change]:
    return [Change(key, Destination(), None) for key in keys]


# -- counted ---------------------------------------------------------------------------------------------------------------


def test_d03_d05_a_change_costs_its_own_messages_whatever_else_there_is(kernel):
    ipvs = target(kernel)
    services = [VirtualServerKey(f"10.233.{n >> 8}.{n & 255}", TCP, 80, family=4) for n in range(2000)]
    ipvs.apply(put(*services))
    ipvs.apply([change for server in services for change in put(at(1, server), at(2, server))])
    assert dict(kernel.said) == {"new service": 2000, "new destination": 4000}, "no question before an answer is needed"
    kernel.said.clear()
    assert ipvs.apply([*put(at(3, services[700])), *gone(at(2, services[700]))]) == {}
    assert dict(kernel.said) == {"new destination": 1, "delete destination": 1}
    kernel.said.clear()
    ipvs.apply([Change(at(1, services[700]), Destination(), Destination(0))])
    assert dict(kernel.said) == {"set destination": 1}


def test_d06_looking_at_everything_is_one_dump_however_many_services(kernel):
    ipvs = target(kernel)
    services = [VirtualServerKey(f"10.233.{n >> 8}.{n & 255}", TCP, 80, family=4) for n in range(500)]
    marks = [VirtualServerKey("", 0, 0, mark=n + 1, family=4) for n in range(50)]
    ipvs.apply(put(*services, *marks))
    ipvs.apply(put(*(at(1, server) for server in (*services, *marks))))
    kernel.said.clear()
    found = ipvs.observe({})
    assert len(found) == 2 * 550
    assert dict(kernel.said) == {"dump services": 1}


def test_d11_connections_of_all_that_drains_are_read_without_a_message(kernel):
    ipvs = target(kernel)
    ipvs.apply(put(WEB, at(1), at(2), MARKED, at(1, MARKED)))
    kernel.open |= {at(2): 7, at(1, MARKED): 1}
    kernel.said.clear()
    assert ipvs.connections([WEB, MARKED, DNS]) == {at(1): 0, at(2): 7, at(1, MARKED): 1}
    assert not kernel.said


def test_a_first_look_that_fails_still_takes_over_what_an_earlier_run_left(kernel):
    earlier = target(kernel)
    earlier.apply(put(WEB, at(1)))
    ipvs = target(kernel, adopted=lambda key: key == WEB)
    kernel.broken = True
    with pytest.raises(Stale):
        ipvs.observe({})
    kernel.broken = False
    assert ipvs.observe({}).keys() == {WEB, at(1)}


def test_b20_foreign_services_by_mark_and_by_address_are_neither_seen_nor_touched(kernel):
    foreign = VirtualServerKey("", 0, 0, mark=77, family=4)
    vip = VirtualServerKey("192.0.2.9", TCP, 80, family=4)
    target(kernel).apply(put(foreign, at(9, foreign), vip, at(9, vip)))
    ipvs = target(kernel, adopted=lambda key: key == WEB)
    assert ipvs.observe({}) == {}
    ipvs.apply(put(WEB, at(1)))
    ipvs.apply([*gone(at(1)), Change(WEB, VirtualServer(), None)])
    assert kernel.services.keys() == {foreign, vip}
    assert kernel.order(vip) == ["10.1.0.9"]


@pytest.mark.parametrize(("cidr", "address"), [("10.233.0.0/24", "10.233.0.1"), ("fd00:233::/64", "fd00:233::1")])
def test_what_is_found_inside_excluded_cidrs_stays_unless_a_service_wants_it(kernel, cidr, address):
    family = 6 if ":" in address else 4
    inside = VirtualServerKey(address, TCP, 80, family=family)
    beside = VirtualServerKey({4: "10.233.1.1", 6: "fd00:234::1"}[family], TCP, 80, family=family)
    mark = VirtualServerKey("", 0, 0, mark=5, family=family)
    target(kernel).apply(put(inside, at(1, inside), beside, mark))
    ipvs = target(kernel, adopted=outside((cidr,), lambda _key: True))
    assert ipvs.observe({}).keys() == {beside, mark}
    assert ipvs.observe({inside: VirtualServer()}).keys() == {inside, at(1, inside), beside, mark}
    ipvs.apply([Change(inside, VirtualServer(), None)])
    assert inside not in kernel.services, "what is served for a Service goes with it"


# -- timeouts --------------------------------------------------------------------------------------------------------------


def test_timeouts_are_set_where_they_are_demanded_and_seen_as_drift_when_others_change_them(kernel):
    ipvs = target(kernel)
    wanted: State = {TIMEOUTS: IpvsTimeouts(tcp=600, udp=30)}
    assert ipvs.observe(wanted) == {TIMEOUTS: IpvsTimeouts(tcp=900, udp=300)}
    assert ipvs.apply([Change(TIMEOUTS, ipvs.observe(wanted)[TIMEOUTS], wanted[TIMEOUTS])]) == {}
    assert kernel.timeouts == IpvsTimeouts(600, 120, 30), "what is 0 stays as the kernel has it"
    assert ipvs.observe(wanted) == wanted
    kernel.timeouts = IpvsTimeouts(600, 5, 31)
    assert ipvs.observe(wanted) == {TIMEOUTS: IpvsTimeouts(tcp=600, udp=31)}


def test_timeouts_nobody_demands_are_not_even_asked_for(kernel):
    ipvs = target(kernel)
    assert ipvs.observe({}) == {}
    assert dict(kernel.said) == {"dump services": 1}
    ipvs.apply([Change(TIMEOUTS, IpvsTimeouts(tcp=600), None)])
    assert kernel.timeouts == IpvsTimeouts(900, 120, 300)


# -- UDP flows -------------------------------------------------------------------------------------------------------------


def test_u001_u002_flows_to_a_udp_backend_end_with_it(kernel):
    flows = Told()
    ipvs = target(kernel, flows=flows)
    ipvs.apply(put(DNS, at(1, DNS)))
    flows.asked.clear()
    ipvs.apply([*put(at(2, DNS)), *gone(at(1, DNS))])
    assert Flow("10.233.0.1", 53, "10.1.0.1", 8080) in flows.asked
    assert not any(flow.backend == "10.1.0.2" for flow in flows.asked)


def test_b22_flows_that_were_there_before_a_backend_was_and_those_of_a_service_that_goes_end(kernel):
    flows = Told()
    ipvs = target(kernel, flows=flows)
    ipvs.apply(put(DNS))
    assert flows.asked == [Flow("10.233.0.1", 53)], "nobody served them"
    flows.asked.clear()
    ipvs.apply(put(at(1, DNS)))
    assert flows.asked == [Flow("10.233.0.1", 53, "10.233.0.1", 53)], "those alone that go past IPVS"
    flows.asked.clear()
    ipvs.apply([Change(DNS, VirtualServer(), None)])
    assert flows.asked == [Flow("10.233.0.1", 53)]


def test_where_udp_is_served_is_known_from_writing_and_from_looking(kernel):
    flows = Told()
    ipvs = target(kernel, flows=flows)
    ipvs.apply(put(WEB, DNS, VirtualServerKey("10.233.0.1", UDP, 54, family=4)))
    assert flows.balanced == {"10.233.0.1": {53, 54}}
    ipvs.apply([Change(DNS, VirtualServer(), None)])
    assert flows.balanced == {"10.233.0.1": {54}}
    restarted = Told()
    target(kernel, adopted=lambda _: True, flows=restarted).observe({})
    assert restarted.balanced == {"10.233.0.1": {54}}
    ipvs.apply([Change(VirtualServerKey("10.233.0.1", UDP, 54, family=4), VirtualServer(), None)])
    assert flows.balanced == {}


def test_flows_of_tcp_are_let_be(kernel):
    flows = Told()
    ipvs = target(kernel, flows=flows)
    ipvs.apply(put(WEB, at(1)))
    ipvs.apply([*gone(at(1)), Change(WEB, VirtualServer(), None)])
    assert flows.asked == []


# -- the order of destinations ---------------------------------------------------------------------------------------------

IN_ORDER = ["10.1.0.4", "10.1.0.3", "10.1.0.2", "10.1.0.1"]  # head of the list first: the kernel adds there


@pytest.mark.parametrize("scheduler", ["sh", "dh", "mh"])
def test_b24_whatever_the_order_in_which_backends_come_the_list_is_the_same(kernel, scheduler):
    ipvs = target(kernel)
    ipvs.apply(put(WEB, scheduler=scheduler))
    for number in (3, 1, 4, 2):
        ipvs.apply(put(at(number)))
    assert kernel.order(WEB) == IN_ORDER
    ipvs.apply(gone(at(2)))
    ipvs.apply(put(at(2)))
    assert kernel.order(WEB) == IN_ORDER


def test_b24_a_cold_start_has_the_order_without_a_question(kernel):
    target(kernel).apply(put(WEB, at(1), at(2), at(3), at(4), scheduler="mh"))
    assert kernel.order(WEB) == IN_ORDER
    assert dict(kernel.said) == {"new service": 1, "new destination": 4}


def test_b24_connections_of_backends_that_change_place_go_on(kernel):
    ipvs = target(kernel)
    ipvs.apply(put(WEB, at(2), at(3), at(4), scheduler="mh"))
    kernel.open |= {at(2): 1, at(3): 1, at(4): 1}
    ipvs.apply(put(at(1)))
    assert kernel.order(WEB) == IN_ORDER
    assert kernel.open == {at(2): 1, at(3): 1, at(4): 1}
    assert kernel.switch.read_text() == "1", "and whose backend goes is balanced anew, as before"
    ipvs.apply(gone(at(3)))
    assert kernel.open == {at(2): 1, at(4): 1}


def test_b24_only_what_stands_behind_a_newcomer_is_moved(kernel):
    ipvs = target(kernel)
    ipvs.apply(put(WEB, *(at(n) for n in range(100, 150)), scheduler="mh"))
    kernel.said.clear()
    ipvs.apply(put(at(151)))
    assert dict(kernel.said) == {"new destination": 1, "dump destinations": 1}
    kernel.said.clear()
    ipvs.apply(gone(at(147)))
    ipvs.apply(put(at(147)))
    assert dict(kernel.said) == {"delete destination": 1 + 3, "new destination": 1 + 3, "dump destinations": 1}, "148, 149, 151"


def test_b24_another_order_is_seen_at_a_restart_and_put_right_and_weights_stay(kernel):
    target(kernel).apply(put(WEB, at(4), at(1), scheduler="sh"))
    target(kernel).apply([*put(at(3)), Change(at(1), Destination(), Destination(0)), *put(at(2))])
    assert kernel.order(WEB) != IN_ORDER
    ipvs = target(kernel, adopted=lambda _: True)
    found = ipvs.observe({})
    wanted = VirtualServer("sh")
    assert found[WEB] == VirtualServer("sh", ordered=False)
    assert ipvs.apply([Change(WEB, found[WEB], wanted)]) == {}
    assert kernel.order(WEB) == IN_ORDER
    assert ipvs.observe({}) == found | {WEB: wanted}
    assert found[at(1)] == Destination(0)


def test_order_is_nothing_to_schedulers_that_do_not_hash(kernel):
    ipvs = target(kernel)
    ipvs.apply(put(WEB, at(4), at(1), at(3), at(2)))
    kernel.said.clear()
    assert ipvs.observe({})[WEB] == VirtualServer()
    ipvs.apply(put(at(5)))
    assert dict(kernel.said) == {"dump services": 1, "new destination": 1}
    changed = [Change(WEB, VirtualServer(), VirtualServer("mh"))]
    assert ipvs.apply(changed) == {}
    assert kernel.order(WEB) == ["10.1.0.5", *IN_ORDER], "until it does"


def test_b24_a_failure_half_way_is_said_so_that_the_service_is_looked_at_again(kernel):
    ipvs = target(kernel)
    ipvs.apply(put(WEB, at(2), at(3), scheduler="mh"))
    kernel.switch.unlink()
    kernel.switch.mkdir()
    with pytest.raises(Stale, match="expire_nodest_conn"):
        ipvs.apply(put(at(1)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(1, 8)))
def test_moving_what_is_misplaced_to_the_head_puts_any_list_in_order(order):
    head_first: list[Key] = [at(number) for number in order]
    moved = misplaced(head_first)
    kept = [key for key in head_first if key not in moved]
    assert list(reversed(moved)) + kept == sorted(head_first, reverse=True)
    assert moved == sorted(moved)
    assert not moved or kept == [] or moved[0] > kept[0]
