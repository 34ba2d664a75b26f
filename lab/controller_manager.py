"""The small parts of a controller manager and a scheduler that a node network depends on.

Pod ranges for nodes, pods onto ready nodes, EndpointSlices from Services and pods, and the emptying of deleted namespaces.
One thread; every change leads to the object that it touches and no further.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence

from lab.api.history import Change
from lab.api.kinds import Json
from lab.api.objects import Objects
from lab.api.problem import Problem
from lab.slices import MANAGED_BY, endpoint_slices

ZONE = "topology.kubernetes.io/zone"
Ranges = Callable[[str], Sequence[str]]
"""The pod ranges of a node by its name; empty for a node that gets none."""


def node_is_ready(node: Json) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


class ControllerManager:
    """Runs until ``stop``. ``problems`` holds what went wrong, for whoever wonders."""

    def __init__(self, objects: Objects, *, ranges: Ranges) -> None:
        self.problems: list[str] = []
        self._objects = objects
        self._ranges = ranges
        self._feed = objects.feed("nodes", "pods", "services", "namespaces")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controller-manager", daemon=True)

    def start(self) -> ControllerManager:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._feed.close()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            change = self._feed.next()
            # what has come together is done together, so that a burst of pods makes one slice write a Service
            changes = [change]
            while (more := self._feed.next(timeout=0)) is not None:
                changes.append(more)
            try:
                self._reconcile([one for one in changes if one is not None])
            except Problem as problem:
                if problem.code not in (404, 409):  # gone or changed meanwhile: its own change follows
                    self.problems.append(traceback.format_exc())
            except Exception:  # noqa: BLE001  shown by the cluster's report; the next change gets its chance
                self.problems.append(traceback.format_exc())

    def _reconcile(self, changes: Sequence[Change]) -> None:
        kinds = {change.kind.name for change in changes}
        for change in changes:
            if change.kind.name == "Node" and change.after is not None:
                self._give_ranges(change.after.name)
            if change.kind.name == "Namespace" and change.after is None:
                self._empty(change.last.name)
        if kinds & {"Node", "Pod"}:
            self._schedule()
        self._slices(changes)

    # nodes and pods

    def _give_ranges(self, name: str) -> None:
        node = self._objects.find("nodes", name)
        if node is None or (node.get("spec") or {}).get("podCIDR"):
            return
        if cidrs := list(self._ranges(name)):
            self._objects.patch("nodes", name, {"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})

    def _schedule(self) -> None:
        """Bind pods without a node to the ready node that has the fewest, in the order of their names."""
        waiting = self._objects.list("pods", fields="spec.nodeName=")
        if not waiting:
            return
        nodes = [node for node in self._objects.list("nodes") if node_is_ready(node)]
        load = Counter({node["metadata"]["name"]: 0 for node in nodes})
        for pod in self._objects.list("pods", fields="spec.nodeName!="):
            if pod["spec"]["nodeName"] in load:
                load[pod["spec"]["nodeName"]] += 1
        for pod in waiting:
            if load:
                metadata, node = pod["metadata"], min(load, key=lambda name: (load[name], name))
                load[node] += 1
                patch = {"spec": {"nodeName": node}}
                self._objects.patch("pods", metadata["name"], patch, namespace=metadata["namespace"])

    # Services

    def _slices(self, changes: Sequence[Change]) -> None:
        touched: set[tuple[str, str]] = set()
        changed_pods = [change for change in changes if change.kind.name == "Pod"]
        for change in changes:
            if change.kind.name == "Service":
                touched.add(change.last.key)
        if changed_pods:
            namespaces = {change.last.namespace for change in changed_pods}
            for service in (one for namespace in namespaces for one in self._objects.list("services", namespace)):
                selector = service["spec"].get("selector") or {}
                states = [state for change in changed_pods for state in (change.before, change.after) if state]
                if selector and any(
                    state.namespace == service["metadata"]["namespace"] and selector.items() <= state.labels.items() for state in states
                ):
                    touched.add((service["metadata"]["namespace"], service["metadata"]["name"]))
        for namespace, name in sorted(touched):
            self._write_slices(namespace, name)

    def _write_slices(self, namespace: str, name: str) -> None:
        service = self._objects.find("services", name, namespace)
        wanted: dict[str, Json] = {}
        if service is not None:
            zones = {
                node["metadata"]["name"]: zone
                for node in self._objects.list("nodes")
                if (zone := (node["metadata"].get("labels") or {}).get(ZONE))
            }
            made = endpoint_slices(service, self._objects.list("pods", namespace), zones)
            wanted = {piece["metadata"]["name"]: piece for piece in made}
        labels = f"kubernetes.io/service-name={name},endpointslice.kubernetes.io/managed-by={MANAGED_BY}"
        for piece in self._objects.list("endpointslices", namespace, labels=labels):
            if piece["metadata"]["name"] not in wanted:
                self._objects.delete("endpointslices", piece["metadata"]["name"], namespace)
        for piece in wanted.values():
            self._objects.apply(piece)

    # namespaces

    def _empty(self, namespace: str) -> None:
        for word in ("networkpolicies", "services", "endpointslices", "configmaps", "pods"):
            for thing in self._objects.list(word, namespace):
                self._objects.delete(word, thing["metadata"]["name"], namespace)
