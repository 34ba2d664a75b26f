"""A kubelet's visible parts for one node: the node's condition, its pods' networks through real CNI plugins, their servers.

A pod's containers are echo servers on the ports that they declare. Two annotations of the lab's own steer a pod:
``lab/linger`` (seconds that it goes on serving after its deletion) and ``lab/unready`` (any value: it never turns Ready).
"""

from __future__ import annotations

import heapq
import os
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.api.kinds import Json
from lab.api.objects import Objects
from lab.api.problem import Problem
from lab.cni import Attachment, PluginFailed, attach, detach, read_config
from lab.echo import Echo, Listener, Server
from lab.space import Space, inside, make_network, raise_loopback, umount, write_sysctl
from lab.topology import QUIET_IPV6
from lab.waiting import SLOWNESS

LOOK = 0.1  # seconds between two looks for a CNI configuration
RETRY = 1.0  # seconds until a pod whose network failed is tried again
LINGER, UNREADY = "lab/linger", "lab/unready"


@dataclass(slots=True)
class Running:
    """A pod that runs here. ``config`` is what it was attached with, for its detachment."""

    network: str
    attachment: Attachment | None
    config: Json | None
    server: Server
    addresses: list[str] = field(default_factory=list)


def network_name(namespace: str, name: str) -> str:
    """The name under which ``ip netns`` on the node lists a pod."""
    return f"{namespace}_{name}"


def listeners(pod: Json) -> list[Listener]:
    return [
        Listener(port["containerPort"], port.get("protocol", "TCP").lower())
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
    ]


def host_ports(pod: Json) -> list[Json]:
    return [
        {
            "hostPort": port["hostPort"],
            "containerPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP").lower(),
            "hostIP": port.get("hostIP", ""),
        }
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


class Kubelet:
    """Runs until ``stop``; pods keep their networks then, as they do when a real kubelet stops."""

    def __init__(self, objects: Objects, space: Space, *, node: str, addresses: Sequence[str], echo: Echo) -> None:
        self.node = node
        self.running: dict[tuple[str, str], Running] = {}
        self.problems: list[str] = []
        self._objects = objects
        self._space = space
        self._addresses = list(addresses)
        self._echo = echo
        self._families = _families(addresses)
        self._ready = False
        self._due: list[tuple[float, tuple[str, str]]] = []  # pods to look at again, by time
        self._lingering: dict[tuple[str, str], float] = {}  # pods that are being deleted: when they end
        self._feed = objects.feed("pods")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kubelet-{node}", daemon=True)

    def start(self) -> Kubelet:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._feed.close()
        self._thread.join(timeout=60)

    def register(self, *, pod_cidrs: Sequence[str] = (), labels: dict[str, str] | None = None) -> None:
        """Make the Node object, as a kubelet does when it starts; ``pod_cidrs`` only where they are given by hand."""
        kinds = {"type": "Hostname", "address": self.node}
        addresses = [{"type": "InternalIP", "address": address} for address in self._addresses]
        node: Json = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "labels": {"kubernetes.io/hostname": self.node, **(labels or {})}},
            "spec": {},
            "status": {
                "addresses": [*addresses, kinds],
                "conditions": [self._condition()],
                "nodeInfo": {"kernelVersion": os.uname().release, "kubeletVersion": "v1.34.0+lab"},
            },
        }
        if pod_cidrs:
            node["spec"] = {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)}
        self._objects.create(node)

    # the loop

    def _run(self) -> None:
        while not self._stopping.is_set():
            change = self._feed.next(timeout=LOOK * SLOWNESS)
            try:
                self._look_at_config()
                if change is not None:
                    self._look_at_pod(change.last.key)
                while self._due and self._due[0][0] <= time.monotonic():
                    self._look_at_pod(heapq.heappop(self._due)[1])
            except Problem as problem:
                if problem.code not in (404, 409):  # gone or changed meanwhile: its own change follows
                    self.problems.append(traceback.format_exc())
            except Exception:  # noqa: BLE001  shown by the cluster's report; the other pods go on
                self.problems.append(traceback.format_exc())

    def _condition(self) -> Json:
        if self._ready:
            return {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the network is ready"}
        return {
            "type": "Ready",
            "status": "False",
            "reason": "KubeletNotReady",
            "message": "the network is not ready: there is no CNI configuration",
        }

    def _look_at_config(self) -> None:
        ready = read_config(self._space) is not None
        if ready == self._ready:
            return
        self._ready = ready
        with self._objects.store.lock:
            if self._objects.find("nodes", self.node) is None:
                return
            self._objects.patch("nodes", self.node, {"status": {"conditions": [self._condition()]}}, part="status")
        if ready:
            for pod in self._objects.list("pods", fields=f"spec.nodeName={self.node}"):
                self._again((pod["metadata"]["namespace"], pod["metadata"]["name"]), 0)

    def _again(self, key: tuple[str, str], seconds: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds * SLOWNESS, key))

    def _look_at_pod(self, key: tuple[str, str]) -> None:
        pod = self._objects.find("pods", key[1], key[0])
        running = self.running.get(key)
        if pod is None or pod["spec"].get("nodeName") != self.node:
            if running is not None:
                self._end(key, running)
        elif "deletionTimestamp" in pod["metadata"]:
            self._let_go(key, pod, running)
        elif running is None and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            self._begin(key, pod)

    # a pod's life

    def _begin(self, key: tuple[str, str], pod: Json) -> None:
        if pod["spec"].get("hostNetwork"):
            sockets = self._space.call(lambda: _open(listeners(pod), self._families))
            running = Running(self._space.network, None, None, self._echo.serve(key[1], sockets), self._addresses)
        else:
            config = read_config(self._space)
            if config is None:
                return  # looked at again when there is one
            try:
                running = self._attach(key, pod, config)
            except PluginFailed as error:
                self._say(pod, "FailedCreatePodSandBox", str(error))
                self._again(key, RETRY)
                return
        self.running[key] = running
        self._objects.patch("pods", key[1], {"status": self._status(pod, running)}, namespace=key[0], part="status")

    def _attach(self, key: tuple[str, str], pod: Json, config: Json) -> Running:
        path = f"/run/netns/{network_name(*key)}"
        attachment = Attachment(pod["metadata"]["uid"], path, host_ports(pod))
        self._space.call(_prepare_network, path)
        try:
            addresses = attach(self._space, config, attachment)
        except PluginFailed:
            detach(self._space, config, attachment)
            self._space.call(_remove_network, path)
            raise
        sockets = self._space.call(_open_inside, path, listeners(pod), _families(addresses))
        return Running(path, attachment, config, self._echo.serve(key[1], sockets), addresses)

    def _status(self, pod: Json, running: Running) -> Json:
        ready = "False" if UNREADY in (pod["metadata"].get("annotations") or {}) else "True"
        return {
            "phase": "Running",
            "hostIP": self._addresses[0],
            "hostIPs": [{"ip": address} for address in self._addresses],
            "podIP": running.addresses[0],
            "podIPs": [{"ip": address} for address in running.addresses],
            "conditions": [{"type": name, "status": ready} for name in ("Ready", "ContainersReady")],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "ready": ready == "True",
                    "containerID": f"containerd://{pod['metadata']['uid'].replace('-', '')}",
                }
                for container in pod["spec"].get("containers") or ()
            ],
        }

    def _let_go(self, key: tuple[str, str], pod: Json, running: Running | None) -> None:
        """A pod that is being deleted: it lingers if it must, then its network and its object go."""
        linger = float((pod["metadata"].get("annotations") or {}).get(LINGER, 0)) * SLOWNESS
        end = self._lingering.setdefault(key, time.monotonic() + linger)
        if running is not None and time.monotonic() < end:
            heapq.heappush(self._due, (end, key))
            return
        del self._lingering[key]
        if running is not None:
            self._end(key, running)
        self._objects.delete("pods", key[1], key[0], grace=0)

    def _end(self, key: tuple[str, str], running: Running) -> None:
        running.server.close()
        if running.attachment is not None and running.config is not None:
            detach(self._space, running.config, running.attachment)
            self._space.call(_remove_network, running.network)
        del self.running[key]

    def _say(self, pod: Json, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        about = {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
        self._objects.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
                "involvedObject": about,
                "reason": reason,
                "message": message,
                "type": "Warning",
                "source": {"component": "kubelet", "host": self.node},
            }
        )


def _families(addresses: Sequence[str]) -> list[int]:
    return sorted({socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses})


def _open(ports: Sequence[Listener], families: Sequence[int]) -> list[socket.socket]:
    return [made for port in ports for made in port.open(families)]


def _open_inside(path: str, ports: Sequence[Listener], families: Sequence[int]) -> list[socket.socket]:
    with inside(path):
        return _open(ports, families)


def _prepare_network(path: str) -> None:
    make_network(path)
    with inside(path):
        raise_loopback()
        for name, value in QUIET_IPV6.items():
            write_sysctl(name, value)


def _remove_network(path: str) -> None:
    umount(path)
    os.unlink(path)
