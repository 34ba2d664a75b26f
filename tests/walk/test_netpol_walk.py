"""The rendered rules say what the API says: model and walker agree on every probe of generated clusters."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings

from kube_router.model.objects import Pod
from tests.walk.clusters import clusters, probes
from tests.walk.model import allowed
from tests.walk.paths import Nodes


@given(clusters())
@settings(max_examples=80, deadline=None)
def test_rules_say_what_the_api_says(cluster):
    nodes = Nodes(cluster)
    for probe in probes(cluster):
        assert nodes.admits(probe) == allowed(cluster, probe), probe


@given(clusters(shared=True))
@settings(max_examples=50, deadline=None)
def test_an_address_of_two_pods_gets_nothing_that_one_of_them_would_not_get(cluster):
    nodes = Nodes(cluster)
    one_each = [
        cluster._replace(pods=tuple(pods))
        for pods in _choices([pod for pod in cluster.pods if pod.ips and not pod.host_network and not pod.finished])
    ]
    for probe in probes(cluster):
        if nodes.admits(probe) and not nodes.is_host(probe.source):
            assert all(allowed(single, probe) for single in one_each), probe


def _choices(pods: list[Pod]) -> list[list[Pod]]:
    """For each pod a cluster in which nobody else has its addresses; what others have beside them stays theirs."""
    alone = [[other if other is pod else _without(other, pod.ips) for other in pods] for pod in pods]
    return [[pod for pod in chosen if pod.ips] for chosen in alone]


def _without(pod: Pod, addresses: tuple[str, ...]) -> Pod:
    return msgspec.structs.replace(pod, ips=tuple(address for address in pod.ips if address not in addresses))
