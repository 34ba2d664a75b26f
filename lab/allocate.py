"""Cluster IPs, node ports and health check ports of Services, given out as the API server does when one is created."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from lab.addresses import NODE_PORTS, SERVICE_CIDRS
from lab.api.history import Change
from lab.api.kinds import Json
from lab.api.problem import Problem
from lab.api.store import Store, decode

FAMILY_NAMES = {4: "IPv4", 6: "IPv6"}
FIRST_FREE = 16  # lower host numbers are for Services that ask for one


def _family(address: str) -> int:
    return 6 if ":" in address else 4


class ServiceAllocator:
    """An admission of the store. What is in use follows the store itself, so an update or a delete needs no word."""

    def __init__(self, store: Store, *, cidrs: Sequence[str] = SERVICE_CIDRS, node_ports: range = NODE_PORTS) -> None:
        self._networks = {network.version: network for network in map(ipaddress.ip_network, cidrs)}
        self._node_ports = node_ports
        self._used: dict[str | int, str] = {}  # an address or a port -> uid of its Service
        self._next_number = dict.fromkeys(self._networks, FIRST_FREE)
        self._next_port = node_ports.start
        store.listen(self._follow)
        store.admissions.append(self.admit)

    def admit(self, thing: Json, old: Json | None) -> None:
        """Complete a Service in place; Problem 422 when it asks for what is taken or does not exist."""
        if thing.get("kind") != "Service":
            return
        spec, before = thing["spec"], (old or {}).get("spec") or {}
        owner = thing["metadata"].get("uid", "")
        if spec.get("type") == "ExternalName":
            return
        self._addresses(spec, before, owner)
        if spec["type"] in ("NodePort", "LoadBalancer") and spec.get("allocateLoadBalancerNodePorts", True):
            self._ports(spec, before, owner)
        if spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
            spec.setdefault("healthCheckNodePort", before.get("healthCheckNodePort") or self._free_port())
            self._claim(spec["healthCheckNodePort"], owner)

    def _addresses(self, spec: Json, before: Json, owner: str) -> None:
        if spec.get("clusterIP") == "None":
            spec.setdefault("clusterIPs", ["None"])
            spec.setdefault("ipFamilies", [FAMILY_NAMES[family] for family in self._networks][:1])
            spec.setdefault("ipFamilyPolicy", "SingleStack")
            return
        asked = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else before.get("clusterIPs"))
        addresses: list[str] = list(asked or [])
        policy = spec.setdefault("ipFamilyPolicy", "RequireDualStack" if len(addresses) > 1 else "SingleStack")
        families = [_family(address) for address in addresses]
        wanted = [int(name[-1]) for name in spec.get("ipFamilies") or ()] or families or [next(iter(self._networks))]
        if policy != "SingleStack":
            wanted += [family for family in self._networks if family not in wanted]
        addresses += [self._free_address(family) for family in wanted[len(addresses) :]]
        for address in addresses:
            self._claim(address, owner)
        spec["clusterIP"], spec["clusterIPs"] = addresses[0], addresses
        spec["ipFamilies"] = [FAMILY_NAMES[_family(address)] for address in addresses]

    def _ports(self, spec: Json, before: Json, owner: str) -> None:
        kept = {(port["port"], port["protocol"]): port.get("nodePort") for port in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            port["nodePort"] = port.get("nodePort") or kept.get((port["port"], port["protocol"])) or self._free_port()
            self._claim(port["nodePort"], owner)

    def _claim(self, what: str | int, owner: str) -> None:
        if self._used.get(what, owner) != owner:
            raise Problem(422, f"{what}: provided IP or port is already allocated")

    def _free_address(self, family: int) -> str:
        if family not in self._networks:
            raise Problem(422, f"the cluster has no Service range of {FAMILY_NAMES[family]}")
        network = self._networks[family]
        while True:
            number = self._next_number[family]
            if number >= network.num_addresses - 1:
                raise Problem(500, f"the range {network} is full")
            self._next_number[family] += 1
            if (address := str(network[number])) not in self._used:
                return address

    def _free_port(self) -> int:
        for _ in self._node_ports:
            port, self._next_port = self._next_port, self._next_port + 1
            if self._next_port == self._node_ports.stop:
                self._next_port = self._node_ports.start
            if port not in self._used:
                return port
        raise Problem(500, "the range of node ports is full")

    def _follow(self, change: Change) -> None:
        if change.kind.name != "Service":
            return
        if change.before is not None:
            for what in _held(decode(change.before.body)):
                self._used.pop(what, None)
        if change.after is not None:
            thing = decode(change.after.body)
            self._used |= dict.fromkeys(_held(thing), thing["metadata"]["uid"])


def _held(service: Json) -> Iterator[str | int]:
    spec = service.get("spec") or {}
    yield from (address for address in spec.get("clusterIPs") or () if address != "None")
    yield from (port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort"))
    if spec.get("healthCheckNodePort"):
        yield spec["healthCheckNodePort"]
