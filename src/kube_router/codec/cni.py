"""Text of a CNI network configuration: our part of it read and rewritten, everything else kept as it stands.

Our part is the pod ranges (and, where we manage it, the MTU) of the plugin of type "bridge". Both forms are known: a list
(`.conflist`, with "plugins") and a single plugin (`.conf`). CNI specification 1.0, section 1; host-local and bridge plugin docs.

An MTU that we write is written twice, the second time under `MTU_MARK`, which no plugin reads: one without its equal twin was
chosen by somebody, and is theirs.
"""

from __future__ import annotations

import json
from typing import Any, Final

from kube_router.kit.net import canonical_network
from kube_router.model.state.links import CniConfig

VERSION: Final = "0.3.1"  # oldest that knows `ranges`, so that every runtime in use reads it
NETWORK: Final = "kubernetes"
MTU_MARK: Final = "kube-router.io/mtu"
ALWAYS_NEEDED: Final = ("loopback",)  # runtimes call it for every pod, whatever the configuration says
_OF_A_RANGE: Final = ("subnet", "rangeStart", "rangeEnd", "gateway")


class BadConfigError(ValueError):
    """The text is no CNI configuration that we can edit; the message says where and what would be right."""


def fresh(wish: CniConfig, *, as_list: bool) -> str:
    """A whole configuration where there was no file."""
    plugin: dict[str, Any] = {"type": "bridge", "bridge": wish.bridge, "isDefaultGateway": True, "hairpinMode": True}
    head = {"cniVersion": VERSION, "name": NETWORK}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    conf = {**head, "plugins": [plugin, portmap]} if as_list else {**head, **plugin}
    return edited(json.dumps(conf), wish)


def read(text: str) -> CniConfig:
    """Our part of a configuration: ranges in order of appearance, each once a set; MTU 0 when it is not ours. Raises BadConfigError."""
    plugin = _bridge(_load(text))
    ipam = plugin.get("ipam")
    ranges = [subnet for group in _groups(ipam if isinstance(ipam, dict) else {}) for subnet in dict.fromkeys(_subnets(group))]
    return CniConfig(tuple(ranges), _mtu(plugin) if _is_marked(plugin) else 0, str(plugin.get("bridge", "cni0")))


def mtu_of(text: str) -> tuple[int, bool]:
    """The MTU that a configuration names (0: none), and whether we wrote it. Raises BadConfigError."""
    plugin = _bridge(_load(text))
    return _mtu(plugin), _is_marked(plugin)


def edited(text: str, wish: CniConfig) -> str:
    """The configuration with our part as wished: ranges of other subnets and second ones of a subnet go, missing ones are appended,
    those that are right stay with whatever else they say (rangeStart, gateway). Keys that are not ours keep value and order.
    Raises BadConfigError."""
    conf = _load(text)
    plugin = _bridge(conf)
    ipam = plugin.setdefault("ipam", {"type": "host-local"})
    if not isinstance(ipam, dict):
        raise BadConfigError('plugin "bridge": "ipam" must be an object, such as {"type": "host-local"}')
    ipam.setdefault("type", "host-local")
    present: set[str] = set()
    kept: list[list[dict[str, Any]]] = []
    for group in _groups(ipam):
        subnets = _subnets(group)
        right = [entry for entry, subnet in zip(group, subnets, strict=True) if subnet in wish.ranges and subnet not in present]
        present.update(subnet for subnet in subnets if subnet in wish.ranges)
        kept += [right] if right else []
    ipam["ranges"] = [*kept, *([{"subnet": cidr}] for cidr in wish.ranges if cidr not in present)]
    for legacy in _OF_A_RANGE:
        ipam.pop(legacy, None)
    plugin["bridge"] = wish.bridge
    if wish.mtu:
        plugin["mtu"] = plugin[MTU_MARK] = wish.mtu
    return json.dumps(conf, indent=2) + "\n"


def meets(text: str, wish: CniConfig) -> bool:
    """Whether editing would change nothing of our part. Raises BadConfigError."""
    found = read(text)
    return sorted(found.ranges) == sorted(wish.ranges) and found.bridge == wish.bridge and wish.mtu in (0, found.mtu)


def plugin_types(text: str) -> tuple[str, ...]:
    """Types of all plugins that the configuration needs, IPAM included. Raises BadConfigError."""
    conf = _load(text)
    plugins = _plugins(conf)
    types = [str(plugin.get("type", "")) for plugin in plugins]
    ipams = [str(plugin["ipam"].get("type", "")) for plugin in plugins if isinstance(plugin.get("ipam"), dict)]
    return tuple(dict.fromkeys(name for name in (*types, *ipams) if name))


def _load(text: str) -> dict[str, Any]:
    try:
        conf = json.loads(text)
    except ValueError as fault:
        raise BadConfigError(f"not JSON: {fault}") from fault
    if not isinstance(conf, dict):
        raise BadConfigError("not a JSON object")
    return conf


def _plugins(conf: dict[str, Any]) -> list[dict[str, Any]]:
    plugins = conf.get("plugins") if "plugins" in conf else [conf]
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
        raise BadConfigError('"plugins" must be a list of objects')
    return plugins


def _bridge(conf: dict[str, Any]) -> dict[str, Any]:
    for plugin in _plugins(conf):
        if plugin.get("type") == "bridge":
            return plugin
    raise BadConfigError('holds no plugin of type "bridge"; add one, or set --enable-cni=false to leave this file alone')


def _groups(ipam: dict[str, Any]) -> list[list[dict[str, Any]]]:
    groups = ipam.get("ranges") or []
    legacy = [[{k: ipam[k] for k in _OF_A_RANGE if k in ipam}]] if "subnet" in ipam else []
    if not isinstance(groups, list) or not all(isinstance(g, list) and all(isinstance(r, dict) for r in g) for g in groups):
        raise BadConfigError('"ipam.ranges" must be a list of lists of objects')
    return [*legacy, *groups]


def _subnets(group: list[dict[str, Any]]) -> list[str]:
    subnets = []
    for entry in group:
        text = str(entry.get("subnet", ""))
        try:
            subnets.append(canonical_network(text))
        except ValueError:
            subnets.append(text)  # not a range: never ours, so its group goes
    return subnets


def _mtu(plugin: dict[str, Any]) -> int:
    mtu = plugin.get("mtu")
    return mtu if isinstance(mtu, int) and not isinstance(mtu, bool) and mtu > 0 else 0


def _is_marked(plugin: dict[str, Any]) -> bool:
    return _mtu(plugin) != 0 and plugin.get(MTU_MARK) == plugin["mtu"]
