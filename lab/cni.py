"""What a container runtime does with a CNI configuration: run its plugins, one behind the other (CNI specification 1.0).

The plugins are the real ones. They run in the node's namespaces, so that what they keep (host-local's leases) is the node's.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.api.kinds import Json
from lab.space import Space

CONFIG_FOLDER = "/etc/cni/net.d"
PLUGIN_FOLDERS = "/opt/cni/bin:/usr/lib/cni"


class PluginFailed(Exception):
    """A plugin said no; the message holds its name and its words."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod to be joined to the network: the name of its container, the path of its network namespace, ports of the host."""

    container: str
    network: str
    port_mappings: Sequence[Json] = ()
    interface: str = "eth0"


def read_config(space: Space) -> Json | None:
    """The node's CNI configuration: the first usable file by name; None when there is none yet."""
    folder = space.root / CONFIG_FOLDER.lstrip("/")
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".conf", ".conflist", ".json"))
    except OSError:
        return None
    for name in names:
        try:
            config = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue  # half-written by somebody who does not rename; the next look finds it whole
        plugins = config.get("plugins") if name.endswith(".conflist") else [config]
        if plugins:
            return {"name": config.get("name", "lab"), "cniVersion": config.get("cniVersion", "0.3.1"), "plugins": plugins}
    return None


def _plugin_input(config: Json, plugin: Json, attachment: Attachment, previous: Json | None) -> Json:
    made = {**plugin, "name": config["name"], "cniVersion": config["cniVersion"]}
    capabilities = made.pop("capabilities", {})
    if capabilities.get("portMappings") and attachment.port_mappings:
        made["runtimeConfig"] = {"portMappings": list(attachment.port_mappings)}
    if previous is not None:
        made["prevResult"] = previous
    return made


def _run(space: Space, command: str, plugin: Json, attachment: Attachment) -> Json | None:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attachment.container,
        "CNI_NETNS": attachment.network,
        "CNI_IFNAME": attachment.interface,
        "CNI_PATH": PLUGIN_FOLDERS,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    process = space.call(
        lambda: subprocess.Popen(
            [_find(plugin["type"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    )
    output, errors = process.communicate(json.dumps(plugin), timeout=300)
    if process.returncode != 0:
        raise PluginFailed(f"{space.name}: CNI {command} by {plugin['type']}: {output.strip()} {errors.strip()}")
    result: Any = json.loads(output) if output.strip() else None
    return result if isinstance(result, dict) else None


def _find(name: str) -> str:
    for folder in PLUGIN_FOLDERS.split(":"):
        path = f"{folder}/{name}"
        try:
            with open(path, "rb"):
                return path
        except OSError:
            continue
    raise PluginFailed(f"the CNI plugin {name!r} is in none of {PLUGIN_FOLDERS}")


def attach(space: Space, config: Json, attachment: Attachment) -> list[str]:
    """Join a pod to the network; its addresses, without lengths. PluginFailed leaves what a later ``detach`` cleans up."""
    result: Json | None = None
    for plugin in config["plugins"]:
        result = _run(space, "ADD", _plugin_input(config, plugin, attachment, result), attachment) or result
    return [entry["address"].partition("/")[0] for entry in (result or {}).get("ips") or ()]


def detach(space: Space, config: Json, attachment: Attachment) -> None:
    """Take a pod off the network: the plugins in reverse; doing it twice is no error."""
    for plugin in reversed(config["plugins"]):
        _run(space, "DEL", _plugin_input(config, plugin, attachment, None), attachment)
