"""What goes on while connections are held: Services that nobody asked about change, and a Service's endpoints roll."""

from __future__ import annotations

import threading
from typing import Any

from lab.cluster import Cluster
from lab.manifests import service, service_address
from lab.waiting import SLOWNESS

MANY = 50
CHANGES_A_SECOND = 50 / SLOWNESS
ROLLING = 20  # endpoints of the Service that rolls; one goes and one comes with each change


class Churn:
    """Changes one Service after another, and the endpoints of "rolling", until ``stop``; a context. ``changes`` counts."""

    def __init__(self, cluster: Cluster) -> None:
        self.changes = 0
        self.trouble: list[BaseException] = []
        self._cluster = cluster
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)

    def __enter__(self) -> Churn:
        self._cluster.apply(service("rolling", selector={}, address=service_address(99)))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; the last state of every Service stays."""
        self._stopping.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(1 / CHANGES_A_SECOND):
                self._change(self.changes)
                self.changes += 1
        except BaseException as trouble:  # noqa: BLE001  the test shows it
            self.trouble.append(trouble)

    def _change(self, number: int) -> None:
        """Another port for one Service, so that its virtual server goes and another comes; and one endpoint for another."""
        which, turn = number % MANY, number // MANY
        port = 1000 + turn % 7
        self._cluster.apply(
            service(f"churn-{which}", ports=[f"{port}>8080"], selector={}, address=service_address(100 + which)),
            endpoints(f"churn-{which}", ["10.99.1.1"], 8080),
            endpoints("rolling", [f"10.99.2.{(number + n) % 250 + 1}" for n in range(ROLLING)], 8080),
        )


def endpoints(of: str, addresses: list[str], port: int) -> dict[str, Any]:
    """A slice by hand: addresses that are nobody's."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{of}-byhand", "namespace": "default", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    }
