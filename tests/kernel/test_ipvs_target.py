"""IpvsTarget on the real kernel, read back with ipvsadm: what it writes, what it leaves alone, what it says when refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kube_router.apply.kernel.flows import Flows
from kube_router.apply.kernel.ipvs import IpvsTarget
from kube_router.model.state import Change, Key, State, Value
from kube_router.model.state.ipvs import Destination, DestinationKey, IpvsTimeouts, IpvsTimeoutsKey, VirtualServer, VirtualServerKey
from kube_router.model.state.netfilter import SetMember
from kube_router.plan.ownership import adopted_services
from lab.kernel_netns import Netns

pytestmark = pytest.mark.needs("root", "ip_vs")

TCP, UDP, SCTP = 6, 17, 132


@pytest.fixture(autouse=True)
def network(netns: Netns) -> None:
    # Its loopback is up: without any address there is no table "local", and IPVS takes no IPv4 address for unicast.
    del netns


def target(*adopted: SetMember) -> IpvsTarget:
    return IpvsTarget(adopted=lambda: adopted_services(adopted), flows=Flows())


def ipvsadm(text: str = "") -> list[str]:
    if text:
        subprocess.run(["ipvsadm", "-R"], input=text, text=True, check=True, capture_output=True)
    return sorted(subprocess.run(["ipvsadm", "-Sn"], text=True, check=True, capture_output=True).stdout.splitlines())


def server(address: str, port: int, protocol: int = TCP) -> VirtualServerKey:
    return VirtualServerKey(address, protocol, port, family=6 if ":" in address else 4)


def value(key: VirtualServerKey, **settings: int | str) -> VirtualServer:
    return VirtualServer(**{"prefix": 32 if key.family == 4 else 128} | settings)


def creation(state: State) -> list[Change]:
    return [Change(key, None, wanted) for key, wanted in state.items()]


def removal(state: State) -> list[Change]:
    return [Change(key, wanted, None) for key, wanted in reversed(state.items())]


def everything() -> State:
    """One of each: both families, all protocols, persistence, schedulers, weights and forwarding methods."""
    state: dict[Key, Value] = {}
    for address, backend in (("10.233.0.1", "10.1.0.1"), ("fd00:233::1", "fd00:64::1")):
        for protocol in (TCP, UDP, SCTP):
            key = server(address, 53, protocol)
            state[key] = value(key)
            state[DestinationKey(key, backend, 8053)] = Destination()
            state[DestinationKey(key, backend, 8054)] = Destination(weight=0)
        sticky = server(address, 443)
        state[sticky] = value(sticky, scheduler="lc", flags=1, timeout=10800)
        state[DestinationKey(sticky, backend, 443)] = Destination(weight=7, forward=2)
    marked = VirtualServerKey("", 0, 0, mark=0x1234, family=4)
    state[marked] = VirtualServer()
    state[DestinationKey(marked, "10.1.0.1", 80)] = Destination(forward=2)
    return state


EVERYTHING_SAVED = sorted(
    """\
-A -f 4660 -s rr
-a -f 4660 -r 10.1.0.1:80 -i -w 1 --tun-type ipip
-A -t 10.233.0.1:53 -s rr
-a -t 10.233.0.1:53 -r 10.1.0.1:8053 -m -w 1
-a -t 10.233.0.1:53 -r 10.1.0.1:8054 -m -w 0
-A -t 10.233.0.1:443 -s lc -p 10800
-a -t 10.233.0.1:443 -r 10.1.0.1:443 -i -w 7 --tun-type ipip
-A -u 10.233.0.1:53 -s rr
-a -u 10.233.0.1:53 -r 10.1.0.1:8053 -m -w 1
-a -u 10.233.0.1:53 -r 10.1.0.1:8054 -m -w 0
-A --sctp-service 10.233.0.1:53 -s rr
-a --sctp-service 10.233.0.1:53 -r 10.1.0.1:8053 -m -w 1
-a --sctp-service 10.233.0.1:53 -r 10.1.0.1:8054 -m -w 0
-A -t [fd00:233::1]:53 -s rr
-a -t [fd00:233::1]:53 -r [fd00:64::1]:8053 -m -w 1
-a -t [fd00:233::1]:53 -r [fd00:64::1]:8054 -m -w 0
-A -t [fd00:233::1]:443 -s lc -p 10800
-a -t [fd00:233::1]:443 -r [fd00:64::1]:443 -i -w 7 --tun-type ipip
-A -u [fd00:233::1]:53 -s rr
-a -u [fd00:233::1]:53 -r [fd00:64::1]:8053 -m -w 1
-a -u [fd00:233::1]:53 -r [fd00:64::1]:8054 -m -w 0
-A --sctp-service [fd00:233::1]:53 -s rr
-a --sctp-service [fd00:233::1]:53 -r [fd00:64::1]:8053 -m -w 1
-a --sctp-service [fd00:233::1]:53 -r [fd00:64::1]:8054 -m -w 0
""".splitlines()
)


def test_ipvsadm_shows_what_was_wanted_and_it_is_observed_as_wanted():
    state = everything()
    ipvs = target()
    assert ipvs.apply(creation(state)) == {}
    assert ipvsadm() == EVERYTHING_SAVED
    assert ipvs.observe({}) == state


def test_what_ipvsadm_wrote_is_read_as_the_same():
    state = everything()
    ipvsadm("\n".join(line for line in EVERYTHING_SAVED if line.startswith("-A")) + "\n")
    ipvsadm("\n".join(line for line in EVERYTHING_SAVED if line.startswith("-a")) + "\n")
    assert target().observe(state) == state


def test_applying_twice_changes_nothing_and_removing_twice_succeeds():
    state = everything()
    ipvs = target()
    ipvs.apply(creation(state))
    assert ipvs.apply(creation(state)) == {}
    assert ipvsadm() == EVERYTHING_SAVED
    assert ipvs.apply(removal(state)) == {}
    assert ipvs.apply(removal(state)) == {}
    assert ipvsadm() == []
    assert ipvs.observe({}) == {}


def test_what_exists_is_made_equal_whatever_was_thought_of_it():
    key = server("10.233.0.1", 80)
    destination = DestinationKey(key, "10.1.0.1", 80)
    ipvs = target()
    ipvs.apply([Change(key, None, value(key, flags=1, timeout=60)), Change(destination, None, Destination(weight=0))])
    assert ipvs.apply([Change(key, None, value(key, scheduler="lc")), Change(destination, None, Destination(weight=3))]) == {}
    assert ipvsadm() == ["-A -t 10.233.0.1:80 -s lc", "-a -t 10.233.0.1:80 -r 10.1.0.1:80 -m -w 3"]
    subprocess.run(["ipvsadm", "-C"], check=True)
    changes = [Change(key, value(key), value(key, scheduler="lc")), Change(destination, Destination(0), Destination(3))]
    assert ipvs.apply(changes[:1]) == {}
    assert ipvs.apply(changes) == {}
    assert ipvsadm() == ["-A -t 10.233.0.1:80 -s lc", "-a -t 10.233.0.1:80 -r 10.1.0.1:80 -m -w 3"]


def test_the_persistence_mask_of_the_original_is_seen_as_wrong_and_put_right():
    key = server("10.233.0.1", 80)
    ipvsadm("-A -t 10.233.0.1:80 -s rr -p 10800 -M 32.0.0.0\n")
    ipvs = target(SetMember("kube-router-svip", "10.233.0.1"))
    found = ipvs.observe({})
    assert found == {key: value(key, flags=1, timeout=10800, prefix=-1)}
    wanted = value(key, flags=1, timeout=10800)
    assert ipvs.apply([Change(key, found[key], wanted)]) == {}
    assert ipvsadm() == ["-A -t 10.233.0.1:80 -s rr -p 10800"]


def test_a_service_that_goes_takes_its_destinations_along():
    key = server("10.233.0.1", 80)
    state: State = {key: value(key), DestinationKey(key, "10.1.0.1", 80): Destination()}
    ipvs = target()
    ipvs.apply(creation(state))
    assert ipvs.apply([Change(key, value(key), None)]) == {}
    assert ipvsadm() == []


def test_foreign_services_stay_unseen_also_on_our_own_node_address():
    ipvsadm("-A -t 192.168.50.50:6443 -s wrr\n-A -f 77 -s rr\n-A -t 203.0.113.9:80 -s rr\n-a -t 203.0.113.9:80 -r 10.9.9.9:80 -m -w 5\n")
    foreign = ipvsadm()
    ours = (
        SetMember("kube-router-local-ips", "192.168.50.50"),
        SetMember("kube-router-service-ips", "192.168.50.50"),
        SetMember("kube-router-ipvs-services", "192.168.50.50,tcp:30080"),
    )
    ipvs = target(*ours)
    assert ipvs.observe({}) == {}
    state = everything()
    ipvs.apply(creation(state))
    assert ipvs.observe({}) == state
    ipvs.apply(removal(state))
    assert ipvsadm() == foreign


def test_an_earlier_run_is_recognised_by_its_sets_once_and_later_foreign_services_are_not():
    ipvsadm(
        "-A -t 10.233.0.9:80 -s rr\n-A -u 192.168.50.50:30053 -s rr\n-A -t 192.168.50.50:6443 -s rr\n"
        "-A -t [fd00:233::9]:80 -s rr\n-A --sctp-service 192.168.50.50:30132 -s rr\n"
    )
    ipvs = target(
        SetMember("kube-router-svip", "10.233.0.9"),
        SetMember("inet6:kube-router-service-ips", "fd00:233::9"),
        SetMember("kube-router-service-ips", "192.168.50.50"),
        SetMember("kube-router-local-ips", "192.168.50.50"),
        SetMember("kube-router-svip-prt", "192.168.50.50,udp:30053"),
        SetMember("kube-router-ipvs-services", "192.168.50.50,sctp:30132"),
    )
    earlier = {
        server("10.233.0.9", 80),
        server("192.168.50.50", 30053, UDP),
        server("fd00:233::9", 80),
        server("192.168.50.50", 30132, SCTP),
    }
    assert ipvs.observe({}).keys() == earlier
    ipvsadm("-A -t 10.233.0.9:81 -s rr\n")
    assert ipvs.observe({}).keys() == earlier


def test_a_foreign_service_that_is_wanted_is_seen_with_its_destinations():
    ipvsadm("-A -t 10.233.0.1:80 -s wrr\n-a -t 10.233.0.1:80 -r 10.9.9.9:80 -m -w 5\n")
    key = server("10.233.0.1", 80)
    ipvs = target()
    found = ipvs.observe({key: value(key)})
    assert found == {key: value(key, scheduler="wrr"), DestinationKey(key, "10.9.9.9", 80): Destination(weight=5)}


def test_refusals_name_their_key_and_neighbours_go_on():
    good, bad = server("10.233.0.1", 80), server("10.233.0.2", 80)
    ipvs = target()
    rejected = ipvs.apply(
        creation(
            {
                bad: value(bad, scheduler="nosuch"),
                good: value(good),
                DestinationKey(bad, "10.1.0.1", 80): Destination(),
                DestinationKey(good, "10.1.0.1", 80): Destination(),
                DestinationKey(good, "fd00:64::1", 80): Destination(),
                DestinationKey(server("10.233.0.3", 80), "10.1.0.1", 80): Destination(),
            }
        )
    )
    assert rejected[bad] == "the kernel has no scheduler 'nosuch' (module ip_vs_nosuch)"
    assert rejected[DestinationKey(bad, "10.1.0.1", 80)] == "its service was refused"
    assert rejected[DestinationKey(server("10.233.0.3", 80), "10.1.0.1", 80)] == "its service does not exist"
    assert DestinationKey(good, "fd00:64::1", 80) in rejected
    assert len(rejected) == 4
    assert ipvsadm() == ["-A -t 10.233.0.1:80 -s rr", "-a -t 10.233.0.1:80 -r 10.1.0.1:80 -m -w 1"]


def test_thousands_of_refusals_in_one_batch_are_all_reported():
    absent = server("10.233.0.1", 80)
    state: State = {DestinationKey(absent, f"10.1.{n // 250}.{n % 250}", 80): Destination() for n in range(3000)}
    assert target().apply(creation(state)).keys() == state.keys()


def test_one_changed_endpoint_among_a_thousand_services_is_two_messages():
    state: dict[Key, Value] = {}
    for n in range(1000):
        key = server(f"10.233.{n // 250}.{n % 250}", 80)
        state[key] = value(key)
        state[DestinationKey(key, "10.1.0.1", 80)] = Destination()
    ipvs = target()
    ipvs.apply(creation(state))
    before = ipvs.sent
    key = server("10.233.2.7", 80)
    old, new = DestinationKey(key, "10.1.0.1", 80), DestinationKey(key, "10.1.0.2", 80)
    assert ipvs.apply([Change(new, None, Destination()), Change(old, Destination(), None)]) == {}
    assert ipvs.sent - before == 2
    assert ipvs.observe(state).keys() == state.keys() - {old} | {new}


def test_timeouts_are_what_is_demanded_and_the_others_stay():
    ipvs = target()
    key = IpvsTimeoutsKey()
    before = ipvs.observe({key: IpvsTimeouts(1, 1, 1)})[key]
    assert isinstance(before, IpvsTimeouts)
    wanted = IpvsTimeouts(tcp=601, udp=31)
    assert ipvs.apply([Change(key, None, wanted)]) == {}
    assert ipvs.observe({key: wanted}) == {key: wanted}
    shown = subprocess.run(["ipvsadm", "-L", "--timeout"], text=True, check=True, capture_output=True).stdout
    assert shown.split()[-3:] == ["601", str(before.tcp_fin), "31"]


def test_one_mark_in_both_families_is_two_services_told_apart():
    state: State = {}
    for family, backend in ((4, "10.1.0.1"), (6, "fd00:64::1")):
        marked = VirtualServerKey("", 0, 0, mark=0x20101, family=family)
        state |= {marked: value(marked, scheduler="mh"), DestinationKey(marked, backend, 80): Destination(forward=2)}
    ipvs = target()
    assert ipvs.apply(creation(state)) == {}
    dumps = ipvs.dumps
    assert ipvs.observe(state) == state
    assert ipvs.dumps - dumps == 1, "one question for all, whatever they are known by"
    counted = ipvs.connections([key for key in state if isinstance(key, VirtualServerKey)])
    assert counted == {key: 0 for key in state if isinstance(key, DestinationKey)}


@pytest.mark.parametrize("scheduler", ["sh", "dh", "mh"])
def test_b24_the_kernels_list_is_in_order_however_destinations_came(scheduler):
    Path("/proc/sys/net/ipv4/vs/expire_nodest_conn").write_text("1")
    key = server("10.233.0.1", 80)
    ipvs = target()
    ipvs.apply([Change(key, None, value(key, scheduler=scheduler))])
    for last in (3, 1, 4, 2):
        assert ipvs.apply([Change(DestinationKey(key, f"10.1.0.{last}", 80), None, Destination())]) == {}
    lines = Path("/proc/thread-self/net/ip_vs").read_text().splitlines()  # unlike ipvsadm, it does not sort them
    assert [line.split()[1] for line in lines if "Masq" in line] == [f"0A01000{last}:0050" for last in (4, 3, 2, 1)]
    assert ipvs.observe({})[key] == value(key, scheduler=scheduler)
    subprocess.run(["ipvsadm", "-d", "-t", "10.233.0.1:80", "-r", "10.1.0.2:80"], check=True)
    subprocess.run(["ipvsadm", "-a", "-t", "10.233.0.1:80", "-r", "10.1.0.2:80", "-m", "-w", "0"], check=True)
    found = ipvs.observe({})[key]
    assert found == value(key, scheduler=scheduler, ordered=False)
    assert ipvs.apply([Change(key, found, value(key, scheduler=scheduler))]) == {}
    assert ipvs.observe({})[key] == value(key, scheduler=scheduler)
    assert ipvs.observe({})[DestinationKey(key, "10.1.0.2", 80)] == Destination(weight=0)
    assert Path("/proc/sys/net/ipv4/vs/expire_nodest_conn").read_text().strip() == "1"


def test_without_the_module_it_says_what_is_missing():
    # No module is unloaded under a running machine: the family is asked for under a name that no kernel has.
    from kube_router.apply.kernel.netlink_socket import GENERIC, NetlinkSocket

    socket = NetlinkSocket(GENERIC)
    assert socket.generic_family("NOSUCH") == 0
    socket.close()
