"""What this node answers over HTTP on behalf of Services."""

from __future__ import annotations

from kube_router.model.state import Key, Value


class HealthPortKey(Key, frozen=True):
    """The health check node port of a Service (spec.healthCheckNodePort): load balancers ask it whether to send traffic to this node."""

    port: int


class HealthPort(Value, frozen=True):
    """The Service that is answered for, and how many ready endpoints it has on this node (a pod with two addresses is one)."""

    namespace: str
    name: str
    local: int
