"""What kube-router 2.11 was recorded to make of the Services of a small cluster, and what we make of the same objects and links.

Ours differs only where the original is at fault, and each difference is spelled out:
- its netmask of IPv4 affinity is 32.0.0.0, so that clients fall into few buckets (B1);
- its sets lack the node ports of the secondary family (B18);
- its IPVS service of default/kubernetes is empty here, for it had no slice at that time;
- it refuses clients inside the cluster under policy Local, whom we serve by mark.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kube_router.cache.cache import Cache
from kube_router.codec.objects import decode_item
from kube_router.config.options import defaults
from kube_router.control.proxy import ProxyController
from kube_router.model.names import is_tunnel
from kube_router.model.objects import Interface, Kind, Name
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.listeners import HealthPortKey
from kube_router.model.state.netfilter import SetMember

DATA = Path(__file__).parent.parent / "data" / "original-2.11"
PROTOCOLS = {"-t": 6, "-u": 17}
AFFINITY_V4, API = VirtualServerKey("10.233.0.51", 6, 80, family=4), VirtualServerKey("10.233.0.1", 6, 443, family=4)
IN_CLUSTER = 0x20000  # bit of marks that the original has no use for


def recorded(name: str) -> str:
    return (DATA / "default" / f"{name}.txt").read_text()


def recorded_links() -> list[Interface]:
    """Links as the watch tells them: without tunnels of ours, and without what we put on the dummy ourselves."""
    found: dict[str, list[str]] = {}
    for line in recorded("addr").splitlines():
        if head := re.match(r"\d+: ([^:@]+)", line):
            current = found.setdefault(head[1], [])
        elif address := re.match(r" +inet6? (\S+)", line):
            current.append(address[1])
    return [
        Interface(Name("", name), addresses=() if name == "kube-dummy-if" else tuple(addresses))
        for name, addresses in found.items()
        if not is_tunnel(name)
    ]


@pytest.fixture(scope="module")
def ours() -> dict[Key, Value]:
    options = defaults(
        node_name="node1",
        enable_ipv6=True,
        service_cluster_ip_range=("10.233.0.0/18", "fd00:233::/112"),
        service_external_ip_range=("203.0.113.0/24",),
        loadbalancer_ip_range=("198.51.100.0/24",),
    )
    cache, controller = Cache(), ProxyController(options, kernel=(6, 1))
    feed = cache.feed(controller.reads)
    of = {kind.value: kind for kind in (Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE)}
    for item in json.loads((DATA / "cluster.json").read_text())["items"]:
        if item["kind"] in of:
            decoded = decode_item(of[item["kind"]], json.dumps(item).encode())
            assert not decoded.faults
            cache.put(decoded.object)
    for link in recorded_links():
        cache.put(link)
    state: dict[Key, Value] = {}
    for touched in set(controller.touched(feed.take(), cache.view)):
        desired = controller.want(touched, cache.view)
        assert all(note.quiet for note in desired.notes)
        state |= desired.state
    return state


def server_of(option: str, text: str) -> VirtualServerKey:
    if option == "-f":
        return VirtualServerKey("", 0, 0, mark=int(text), family=4)
    address, _, port = text.rpartition(":")
    return VirtualServerKey(address.strip("[]"), PROTOCOLS[option], int(port), family=6 if "[" in address else 4)


def recorded_ipvs() -> dict[Key, Value]:
    state: dict[Key, Value] = {}
    for line in recorded("ipvsadm-save").splitlines():
        words = line.split()
        server = server_of(words[1], words[2])
        option = dict(zip(words[3::2], words[4::2], strict=False))
        if words[0] == "-A":
            timeout = int(option.get("-p", "0"))
            mask = option.get("-M", "")
            prefix = -1 if mask == "32.0.0.0" else {4: 32, 6: 128}[server.family]
            state[server] = VirtualServer(option["-s"], int(bool(timeout)), timeout, prefix)
        else:
            address, _, port = words[4].rpartition(":")
            state[DestinationKey(server, address.strip("[]"), int(port))] = Destination(forward=2 if "-i" in words else 0)
    return state


def test_ipvs_services_and_destinations_are_the_recorded_ones(ours: dict[Key, Value]) -> None:
    theirs = recorded_ipvs()
    mine = {key: value for key, value in ours.items() if isinstance(key, VirtualServerKey | DestinationKey) and not is_in_cluster(key)}
    assert theirs.pop(AFFINITY_V4) == VirtualServer("rr", 1, 10800, prefix=-1)
    assert mine.pop(AFFINITY_V4) == VirtualServer("rr", 1, 10800, prefix=32)
    assert mine.pop(DestinationKey(API, "192.168.50.50", 6443)) == Destination()
    assert mine == theirs


def is_in_cluster(key: Key) -> bool:
    mark = key.mark if isinstance(key, VirtualServerKey) else key.server.mark if isinstance(key, DestinationKey) else 0
    return bool(mark & IN_CLUSTER)


def test_addresses_and_their_local_routes_are_the_recorded_ones(ours: dict[Key, Value]) -> None:
    route = r"^local (\S+) dev kube-dummy-if table local proto kernel (?:scope host )?src (\S+)"
    routes = re.findall(route, recorded("route"), re.MULTILINE)
    assert len(routes) > 15
    theirs = {AddressKey("kube-dummy-if", f"{vip}/{128 if ':' in vip else 32}"): Address("link", source) for vip, source in routes}
    assert {key: value for key, value in ours.items() if isinstance(key, AddressKey)} == theirs
    on_link = re.findall(r" inet6? (\S+) scope (?:link|global)", recorded("addr").partition("kube-dummy-if:")[2])
    assert {key.prefix for key in theirs} == {prefix for prefix in on_link if not prefix.startswith("fe80")}


RENAMED = {"kube-router-svip": "kube-router-service-ips", "kube-router-svip-prt": "kube-router-ipvs-services"}


@pytest.mark.parametrize("name", ["kube-router-svip", "kube-router-svip-prt", "kube-router-local-ips"])
@pytest.mark.parametrize("prefix", ["", "inet6:"])
def test_entries_of_the_sets_are_the_recorded_ones(ours: dict[Key, Value], prefix: str, name: str) -> None:
    theirs = set(re.findall(rf"^add {prefix}{name} (\S+)", recorded("ipset-save"), re.MULTILINE))
    mine = {key.entry for key in ours if isinstance(key, SetMember) and key.set == prefix + RENAMED.get(name, name)}
    second = {"kube-router-svip": {"fd00:50::50"}, "kube-router-svip-prt": {"fd00:50::50,tcp:30080", "fd00:50::50,tcp:30081"}}
    assert mine - theirs == (second.get(name, set()) if prefix else set())
    assert {entry for entry in theirs - mine if not entry.startswith("fe80")} == set(), "link-local addresses are nobody's VIP"


def test_health_check_ports_are_those_that_were_listened_on(ours: dict[Key, Value]) -> None:
    items = json.loads((DATA / "cluster.json").read_text())["items"]
    (service,) = [item for item in items if (item["kind"], item["metadata"]["name"]) == ("Service", "lb")]
    port = service["spec"]["healthCheckNodePort"]
    assert f":{port} " in recorded("listen")
    found = {key.port: value for key, value in ours.items() if isinstance(key, HealthPortKey)}
    assert found.keys() == {port}
    assert found[port].local == 1
