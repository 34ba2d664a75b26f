"""Port translation in a pod as text for nft and back: one table of ours for each family, whose map holds what is translated.

    table ip kube-router { map ports { address . protocol . port : address . port }
                           chain prerouting { what comes over the tunnel is looked up and sent to that port }
                           chain output { so is what the pod sends to itself } }

The address stays: the process sees the Service's address, as it does without translation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kube_router.kit.net import Family
from kube_router.model.names import POD_TUNNELS, PROTOCOLS
from kube_router.model.state import State
from kube_router.model.state.direct import PodPort, PodPortKey

TABLE: Final = "kube-router"
_IP: Final[dict[Family, str]] = {4: "ip", 6: "ip6"}
_TYPE: Final[dict[Family, str]] = {4: "ipv4_addr", 6: "ipv6_addr"}
_NUMBERS: Final = {name: number for number, name in PROTOCOLS.items()}


def ruleset(family: Family, ports: Iterable[tuple[PodPortKey, PodPort]]) -> str:
    """The whole table, in place of one that is there; none when there is nothing to translate."""
    ip, kind = _IP[family], _TYPE[family]
    entries = [f"{key.vip} . {PROTOCOLS[key.protocol]} . {key.port} : {key.vip} . {value.to}" for key, value in sorted(ports, key=_by_key)]
    lines = [f"table {ip} {TABLE}", f"delete table {ip} {TABLE}"]  # the first makes it, so that the second finds it
    dnat = f"dnat {ip} addr . port to {ip} daddr . meta l4proto . th dport map @ports"
    if entries:
        lines += [
            f"table {ip} {TABLE} {{",
            f"  map ports {{ type {kind} . inet_proto . inet_service : {kind} . inet_service; elements = {{ {', '.join(entries)} }}; }}",
            "  chain prerouting {",
            "    type nat hook prerouting priority -100; policy accept;",
            f'    iifname "{POD_TUNNELS[family]}" {dnat}',
            "  }",
            "  chain output {",  # the pod that reaches itself: the address is its own
            "    type nat hook output priority -100; policy accept;",
            f"    {dnat}",
            "  }",
            "}",
        ]
    return "\n".join(lines) + "\n"


def question(family: Family) -> list[str]:
    """The command that lists the map as JSON."""
    return ["nft", "--json", "--numeric", "list", "map", _IP[family], TABLE, "ports"]


def parse(pod: str, text: str) -> State:
    """What the answer says is translated in the pod. ValueError when it is not what nft prints of such a map."""
    try:
        answer: Any = msgspec.json.decode(text)
        elements = [element for entry in answer["nftables"] if "map" in entry for element in entry["map"].get("elem", ())]
        found: State = {}
        for key, value in elements:
            found.update([_element(pod, key["concat"], value["concat"])])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"not the answer of nft about a map: {fault}") from fault
    return found


def _element(pod: str, key: list[Any], value: list[Any]) -> tuple[PodPortKey, PodPort]:
    vip, protocol, port = key
    number = _NUMBERS[protocol] if protocol in _NUMBERS else int(protocol)
    return PodPortKey(pod, str(vip), number, int(port)), PodPort(int(value[1]))


def _by_key(entry: tuple[PodPortKey, PodPort]) -> PodPortKey:
    return entry[0]
