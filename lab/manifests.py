"""Objects for the lab in a few words: pods, Services, policies. Pure; what is not said is left to the API's defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lab.addresses import API, API_PORT, API_SERVICE, DNS_SERVICE, SERVICE_CIDRS
from lab.api.kinds import Json

_PORT = re.compile(r"^(?:(?P<name>[a-z][-a-z0-9]*)=)?(?P<port>\d+)(?:>(?P<target>[-a-z0-9]+))?(?:/(?P<protocol>\w+))?$")


def _port(text: str) -> tuple[str, int, str, str]:
    found = _PORT.match(text)
    if found is None:
        raise ValueError(f"a port is [NAME=]PORT[>TARGET][/PROTOCOL], not {text!r}")
    return found["name"] or "", int(found["port"]), found["target"] or "", (found["protocol"] or "tcp").upper()


def pod(
    name: str,
    *,
    namespace: str = "default",
    node: str = "",
    ports: Sequence[str] = ("8080",),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    host_network: bool = False,
) -> Json:
    """A pod that answers on ``ports``: "8080", "dns=53/udp". Without ``node`` the scheduler chooses one."""
    numbered = []
    for text in ports:
        port_name, number, _, protocol = _port(text)
        numbered.append({"containerPort": number, "protocol": protocol, **({"name": port_name} if port_name else {})})
    spec: Json = {"containers": [{"name": "main", "image": "lab/echo", "ports": numbered}]}
    if node:
        spec["nodeName"] = node
    if host_network:
        spec["hostNetwork"] = True
    metadata: Json = {"name": name, "namespace": namespace, "labels": dict(labels or {"app": name})}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(
    name: str,
    *,
    namespace: str = "default",
    ports: Sequence[str] = ("80>8080",),
    selector: Mapping[str, str] | None = None,
    address: str = "",
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Json:
    """A Service on ``ports``: "80>8080", "dns=53/udp". It selects ``app: NAME`` unless told otherwise; {} selects nothing."""
    made: Json = {"ports": [], **spec}
    for text in ports:
        port_name, number, target, protocol = _port(text)
        port: Json = {"port": number, "protocol": protocol}
        if port_name:
            port["name"] = port_name
        if target:
            port["targetPort"] = int(target) if target.isdigit() else target
        made["ports"].append(port)
    chosen = {"app": name} if selector is None else dict(selector)
    if chosen:
        made["selector"] = chosen
    if address:
        made["clusterIP"] = address
    metadata: Json = {"name": name, "namespace": namespace}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": made}


def policy(name: str, *, namespace: str = "default", pods: Mapping[str, str] | None = None, **spec: Any) -> Json:
    """A NetworkPolicy for the pods with the labels ``pods`` (None: all): ``ingress``, ``egress`` and ``policyTypes`` as given."""
    selector = {"matchLabels": dict(pods)} if pods else {}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": selector, **spec},
    }


def namespace(name: str, labels: Mapping[str, str] | None = None) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}


def service_address(number: int, family: int = 4) -> str:
    """The address with a host number in the Service range."""
    prefix = SERVICE_CIDRS[0 if family == 4 else 1].partition("/")[0]
    return f"{prefix.rpartition('.')[0]}.{number}" if family == 4 else f"{prefix}{number:x}"


def api_service() -> list[Json]:
    """The Service ``kubernetes`` and its slice, whose endpoint is the API server."""
    metadata = {"namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}
    return [
        service(
            "kubernetes",
            ports=[f"https=443>{API_PORT}"],
            selector={},
            address=service_address(API_SERVICE),
        ),
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", **metadata},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [API.address(4)], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
        },
    ]


def dns(replicas: int = 2) -> list[Json]:
    """The cluster's DNS as far as a network sees it: pods and a Service on the ports of CoreDNS."""
    labels = {"k8s-app": "kube-dns"}
    ports = ["dns=53/udp", "dns-tcp=53/tcp", "metrics=9153/tcp"]
    pods = [pod(f"coredns-{n}", namespace="kube-system", ports=ports, labels=labels) for n in range(1, replicas + 1)]
    address = service_address(DNS_SERVICE)
    return [*pods, service("kube-dns", namespace="kube-system", ports=ports, selector=labels, address=address)]
