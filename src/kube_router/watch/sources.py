"""Where each kind of object is listed and watched, narrowed at the server to what we can use.

- Services of another proxy (label `service.kubernetes.io/service-proxy-name`) are left out. "Absent or kube-router" cannot be
  said in one selector, so there are two sources.
- Headless Services have no address to serve: left out by field selector, and by label where their owner says so. Their slices,
  which churn most in many clusters, bear the label since Kubernetes puts it there itself.
- Pods of other nodes are for whoever judges traffic between pods; others name their node and get its pods alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kube_router.model.objects import Kind

PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
OUR_PROXY_NAME: Final = "kube-router"
NODES_PATH: Final = "/api/v1/nodes"


class Source(NamedTuple):
    """One collection at the API server, with label and field selector."""

    kind: Kind
    path: str
    labels: str = ""
    fields: str = ""

    def query(self, **more: str) -> dict[str, str]:
        """Query parameters of a request for it."""
        selectors = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {key: value for key, value in selectors.items() if value} | more


_SERVICES: Final = "/api/v1/services"
_SOURCES: Final[dict[Kind, tuple[Source, ...]]] = {
    Kind.NODE: (Source(Kind.NODE, NODES_PATH),),
    Kind.POD: (Source(Kind.POD, "/api/v1/pods"),),
    Kind.NAMESPACE: (Source(Kind.NAMESPACE, "/api/v1/namespaces"),),
    Kind.SERVICE: (
        Source(Kind.SERVICE, _SERVICES, labels=f"!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}", fields="spec.clusterIP!=None"),
        Source(Kind.SERVICE, _SERVICES, labels=f"{PROXY_NAME_LABEL}={OUR_PROXY_NAME},!{HEADLESS_LABEL}", fields="spec.clusterIP!=None"),
    ),
    Kind.ENDPOINT_SLICE: (Source(Kind.ENDPOINT_SLICE, "/apis/discovery.k8s.io/v1/endpointslices", labels=f"!{HEADLESS_LABEL}"),),
    Kind.NETWORK_POLICY: (Source(Kind.NETWORK_POLICY, "/apis/networking.k8s.io/v1/networkpolicies"),),
}


def sources(kind: Kind, *, pods_of: str = "") -> tuple[Source, ...]:
    """All sources of a kind, which together hold every object of it that concerns us; KeyError for kinds the API does not have.

    `pods_of` names the one node whose pods matter; "" for those of all.
    """
    if kind is Kind.POD and pods_of:
        return (_SOURCES[Kind.POD][0]._replace(fields=f"spec.nodeName={pods_of}"),)
    return _SOURCES[kind]
