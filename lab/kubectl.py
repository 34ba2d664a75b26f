"""A listing of the cluster's objects, in the manner of kubectl: ``python -m lab.kubectl get pods -o wide``.

It serves the words ``get``, ``apply -f`` and ``delete`` over the API's HTTP, and nothing more. Every namespace is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from calendar import timegm
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.addresses import API, API_PORT
from lab.api.__main__ import read_objects
from lab.api.kinds import BY_WORD, Json, Kind, kind_of
from lab.slices import is_ready

Row = Sequence[str]
NONE = "<none>"


def age(thing: Json, now: float) -> str:
    """How old an object is: 5s, 3m, 2h, 4d."""
    made = thing["metadata"].get("creationTimestamp")
    if not made:
        return "<unknown>"
    seconds = max(0, int(now - timegm(time.strptime(made, "%Y-%m-%dT%H:%M:%SZ"))))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _joined(values: Sequence[str]) -> str:
    return ",".join(values) or NONE


def _node(node: Json) -> Row:
    status, spec = node.get("status") or {}, node.get("spec") or {}
    ready = "Ready" if is_ready(node) else "NotReady"
    addresses = [entry["address"] for entry in status.get("addresses") or () if entry["type"] == "InternalIP"]
    return ready, _joined(addresses), _joined(spec.get("podCIDRs") or ())


def _pod(pod: Json) -> Row:
    status, containers = pod.get("status") or {}, pod["spec"].get("containers") or ()
    total = len(containers)
    phase = "Terminating" if "deletionTimestamp" in pod["metadata"] else status.get("phase", "Unknown")
    addresses = [entry["ip"] for entry in status.get("podIPs") or ()]
    return f"{total if is_ready(pod) else 0}/{total}", phase, _joined(addresses), pod["spec"].get("nodeName", NONE)


def _service(service: Json) -> Row:
    spec = service["spec"]
    ports = []
    for port in spec.get("ports") or ():
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}")
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    external = [*(spec.get("externalIPs") or ()), *(entry["ip"] for entry in ingress if entry.get("ip"))]
    return spec.get("type", ""), _joined(spec.get("clusterIPs") or ()), _joined(external), _joined(ports)


def _slice(piece: Json) -> Row:
    ports = [f"{port['port']}/{port.get('protocol', 'TCP')}" for port in piece.get("ports") or ()]
    endpoints = [
        address + ("" if (endpoint.get("conditions") or {}).get("ready", True) else " (not ready)")
        for endpoint in piece.get("endpoints") or ()
        for address in endpoint["addresses"]
    ]
    return piece["addressType"], _joined(ports), _joined(endpoints)


def _policy(policy: Json) -> Row:
    labels = (policy["spec"].get("podSelector") or {}).get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return selector or "<all pods>", _joined(policy["spec"].get("policyTypes") or ())


def _event(event: Json) -> Row:
    about = event.get("involvedObject") or event.get("regarding") or {}
    message = event.get("message") or event.get("note", "")
    return event.get("type", ""), event.get("reason", ""), f"{about.get('kind', '')}/{about.get('name', '')}", message


TABLES: Mapping[str, tuple[Row, Callable[[Json], Row]]] = {
    "Node": (("STATUS", "ADDRESSES", "POD RANGES"), _node),
    "Pod": (("READY", "STATUS", "IP", "NODE"), _pod),
    "Service": (("TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORTS"), _service),
    "EndpointSlice": (("FAMILY", "PORTS", "ENDPOINTS"), _slice),
    "NetworkPolicy": (("PODS", "TYPES"), _policy),
    "Event": (("TYPE", "REASON", "OBJECT", "MESSAGE"), _event),
}


def table(kind: Kind, things: Sequence[Json], *, now: float) -> str:
    """The listing of objects of one kind."""
    heads, columns = TABLES.get(kind.name, ((), lambda _: ()))
    first: Row = ("NAMESPACE", "NAME") if kind.namespaced else ("NAME",)
    rows: list[Row] = [(*first, *heads, "AGE")]
    for thing in things:
        metadata = thing["metadata"]
        names = (metadata["namespace"], metadata["name"]) if kind.namespaced else (metadata["name"],)
        rows.append((*names, *columns(thing), age(thing, now)))
    if len(rows) == 1:
        return "No resources found"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


class Api:
    """The API over HTTP, from wherever this runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, body: Json | None = None, *, absent_is_none: bool = False) -> Any:
        """One request; SystemExit with the server's words when it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            if absent_is_none and error.code == 404:
                return None
            raise SystemExit(f"Error from server: {json.loads(error.read()).get('message', error)}") from None
        except OSError as error:
            raise SystemExit(f"the API server at {self._url} does not answer: {error}") from None

    def path(self, kind: Kind, namespace: str = "", name: str = "") -> str:
        group = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        within = f"/namespaces/{namespace}" if kind.namespaced and namespace else ""
        return f"{group}{within}/{kind.plural}" + (f"/{name}" if name else "")


def get(api: Api, options: argparse.Namespace) -> str:
    kind = _kind(options.kind)
    listed = api.call("GET", api.path(kind))["items"]
    things = [thing for thing in listed if options.name in ("", thing["metadata"]["name"])]
    if options.name and not things:
        raise SystemExit(f'Error from server: {kind.plural} "{options.name}" not found')
    if options.output in ("json", "yaml"):
        shown = [{"apiVersion": kind.api_version, "kind": kind.name, **thing} for thing in things]
        whole: Any = shown[0] if options.name else {"apiVersion": "v1", "kind": "List", "items": shown}
        if options.output == "json":
            return json.dumps(whole, indent=2)
        import yaml  # only here: it is slow to import

        return str(yaml.safe_dump(whole, sort_keys=False)).rstrip()
    return table(kind, things, now=time.time())


def apply(api: Api, options: argparse.Namespace) -> str:
    said = []
    for thing in read_objects(Path(options.file).read_text(), name=options.file):
        kind, metadata = kind_of(thing), thing["metadata"]
        if kind.namespaced:
            metadata.setdefault("namespace", options.namespace)
        namespace = metadata.get("namespace", "")
        known = api.call("GET", api.path(kind, namespace, metadata["name"]), absent_is_none=True) is not None
        path = api.path(kind, namespace, metadata["name"] if known else "")
        api.call("PUT" if known else "POST", path, thing)
        said.append(f"{kind.plural}/{metadata['name']} {'configured' if known else 'created'}")
    return "\n".join(said)


def delete(api: Api, options: argparse.Namespace) -> str:
    kind = _kind(options.kind)
    api.call("DELETE", api.path(kind, options.namespace, options.name))
    return f"{kind.plural}/{options.name} deleted"


def _kind(word: str) -> Kind:
    if word.lower() not in BY_WORD:
        known = sorted({kind.plural for kind in BY_WORD.values()})
        raise SystemExit(f"there is no kind {word!r}; known are: {', '.join(known)}")
    return BY_WORD[word.lower()]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubectl", description="List and change the objects of the lab.")
    parser.add_argument("--server", default=os.environ.get("LAB_API", f"http://{API.address(4)}:{API_PORT}"))
    words = parser.add_subparsers(required=True, metavar="get|apply|delete")
    getting = words.add_parser("get")
    getting.set_defaults(run=get)
    getting.add_argument("kind")
    getting.add_argument("name", nargs="?", default="")
    getting.add_argument("-o", "--output", choices=("wide", "json", "yaml"), default="wide")
    getting.add_argument("-A", "--all-namespaces", action="store_true", help="always so")
    applying = words.add_parser("apply")
    applying.set_defaults(run=apply)
    applying.add_argument("-f", "--file", required=True)
    deleting = words.add_parser("delete")
    deleting.set_defaults(run=delete)
    deleting.add_argument("kind")
    deleting.add_argument("name")
    for word in (applying, deleting):
        word.add_argument("-n", "--namespace", default="default")
    options = parser.parse_args(arguments)
    print(options.run(Api(options.server), options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
