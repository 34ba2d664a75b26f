"""Finding a pod's network namespace by its address, and working inside."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.namespaces import Gone, Namespaces, Place, inside
from kube_router.apply.kernel.pod_ports import PodPorts
from kube_router.kit.errors import Busy
from kube_router.model.state import Change
from kube_router.model.state.direct import PodPort, PodPortKey
from lab.kernel_netns import Netns
from tests.kernel.pods import pod

pytestmark = pytest.mark.needs("root", "netns", "veth")

Make = Callable[[], Netns]


def own() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_pod_is_found_by_either_of_its_addresses_and_only_while_it_is_there(netns: Netns, namespaces: Make) -> None:
    found = Namespaces()
    with pod(netns, namespaces, "a", "10.242.0.5/24", "fd00:242::5/64") as a, pod(netns, namespaces, "b", "10.242.0.6/24"):
        with a.entered():
            there = own()
        for address in ("10.242.0.5", "fd00:242::5"):
            place = found.find(address)
            assert place is not None
            assert place.inode == there
        assert found.find("10.242.0.7") is None
        assert len(found.all()) == 2
    assert found.find("10.242.0.5") is None
    assert found.all() == []


def test_a_namespace_that_no_link_joins_to_ours_is_not_looked_into(netns: Netns, namespaces: Make) -> None:
    other = namespaces()  # such as another node of a lab, or somebody's container
    with pod(other, namespaces, "a", "10.242.0.5/24"):
        assert Namespaces().find("10.242.0.5") is None


def test_an_address_that_moved_to_another_pod_is_found_there(netns: Netns, namespaces: Make) -> None:
    found = Namespaces()
    with pod(netns, namespaces, "a", "10.242.0.5/24") as a, pod(netns, namespaces, "b") as b:
        first = found.find("10.242.0.5")
        a.run("ip address flush dev eth0")
        b.run("ip address add 10.242.0.5/24 dev eth0")
        second = Namespaces().find("10.242.0.5")
        assert first is not None
        assert second is not None
        assert first.inode != second.inode


def test_the_runtime_is_asked_first_and_believed_only_where_the_address_is(netns: Netns, namespaces: Make) -> None:
    asked: list[str] = []
    with pod(netns, namespaces, "a", "10.242.0.5/24") as a, pod(netns, namespaces, "b", "10.242.0.6/24") as b:

        def runtime(address: str) -> list[str]:
            asked.append(address)
            return ["/proc/self/ns/net", "/nowhere", b.path, a.path]

        found = Namespaces(runtime=runtime)
        place = found.find("10.242.0.5")
        assert place is not None
        assert place.path == a.path
        assert found.find("10.242.0.5") == place
        assert asked == ["10.242.0.5"], "what is known is only verified"


def test_a_runtime_that_does_not_answer_is_no_reason_to_give_up(netns: Netns, namespaces: Make) -> None:
    def runtime(address: str) -> list[str]:
        raise Busy("it is away")

    found = Namespaces(runtime=runtime)
    with pod(netns, namespaces, "a", "10.242.0.5/24"):
        assert found.find("10.242.0.5") is not None
    assert found.find("10.242.0.5") is None
    assert found.trouble == "it is away"


@pytest.mark.parametrize("fails", [False, True])
def test_a09_no_thread_that_anybody_uses_afterwards_has_been_in_a_pod(netns: Netns, namespaces: Make, *, fails: bool) -> None:
    here, threads = own(), threading.active_count()
    with pod(netns, namespaces, "a", "10.242.0.5/24"):
        place = Namespaces().find("10.242.0.5")
        assert place is not None

        def work() -> int:
            if fails:
                raise RuntimeError("in the midst of it")
            return own()

        if fails:
            with pytest.raises(RuntimeError):
                inside(place, work)
        else:
            assert inside(place, work) == place.inode != here
    assert own() == here
    assert threading.active_count() == threads


def test_a_path_that_leads_elsewhere_by_now_is_not_entered(netns: Netns, tmp_path: Path) -> None:
    for path in ("/proc/self/ns/net", str(tmp_path / "none")):
        with pytest.raises(Gone):
            inside(Place(path, 1), lambda: None)


@pytest.mark.needs("nf_tables")
@pytest.mark.parametrize(("address", "vip"), [("10.242.0.5", "203.0.113.91"), ("fd00:242::5", "2001:db8:e::91")])
def test_u109_ports_are_translated_by_a_table_of_ours_that_goes_with_the_last_of_them(netns: Netns, address: str, vip: str) -> None:
    ports = PodPorts(Commands())
    family = 6 if ":" in vip else 4
    keys = {PodPortKey(address, vip, 6, 80): PodPort(8080), PodPortKey(address, vip, 132, 81): PodPort(8081)}
    assert ports.held(address) == {}
    assert ports.apply(family, [Change(key, None, value) for key, value in keys.items()]) == ""
    assert ports.held(address) == keys
    first, second = keys
    assert ports.apply(family, [Change(first, keys[first], PodPort(9090))]) == ""
    assert ports.held(address) == keys | {first: PodPort(9090)}
    assert ports.apply(family, [Change(first, PodPort(9090), None)]) == ""
    assert ports.held(address) == {second: PodPort(8081)}
    assert ports.apply(family, [Change(second, PodPort(8081), None)]) == ""
    assert netns.run("nft list tables") == ""
