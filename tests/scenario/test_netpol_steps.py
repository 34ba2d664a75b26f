"""Between two states of the policies no packet meets a third one: every step of the way is checked, not only its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.control.netpol import NetpolController
from kube_router.model.objects import Kind, Name, NetworkPolicy, Pod
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import ChainKey, JumpKey
from tests.engine import Node
from tests.walk.clusters import CROWDED, NODES, clusters, directions, probes, selectors
from tests.walk.model import Cluster, Probe, may_enter, may_leave, own_node
from tests.walk.paths import Nodes, node_options, objects_of
from tests.walk.walker import FELL_THROUGH, Packet, Walker
from tests.walk.words import label, pods, policy, rule, tcp

OPTIONS = node_options("n1")


def steps(writes: Sequence[Change]) -> Iterator[list[Change]]:
    """What takes effect at once: entries one by one, a run of rules as one."""
    for of_rules, run in groupby(writes, key=lambda change: isinstance(change.key, ChainKey | JumpKey)):
        if of_rules:
            yield list(run)
        else:
            yield from ([change] for change in run)


def on_the_way(before: Cluster, after: Cluster) -> Iterator[State]:
    """States that node n1 holds from one set of policies to the other, each after one step."""
    node = Node(lambda: NetpolController(OPTIONS), objects=objects_of(before))
    node.settle()
    state = dict(node.world.state)
    yield dict(state)
    start = len(node.world.writes)
    for gone in {one.name for one in before.policies} - {one.name for one in after.policies}:
        node.feed((Kind.NETWORK_POLICY, gone))
    for new in after.policies:
        node.feed(new)
    node.settle()
    for step in steps(node.world.writes[start:]):
        for change in step:
            if change.after is None:
                state.pop(change.key, None)
            else:
                state[change.key] = change.after
        yield dict(state)
    assert state == node.world.state


def judge(state: State, cluster: Cluster) -> Callable[[Probe], bool]:
    """Whether node n1 in this state lets a packet pass the hooks that it has of its way."""
    ways = Nodes(cluster._replace(policies=()))
    walkers = {family: Walker(state, family, frozenset(NODES["n1"])) for family in (4, 6)}

    def passes(probe: Probe) -> bool:
        packet = Packet(probe.source, probe.destination, probe.protocol.lower(), probe.port)
        walker = walkers[6 if ":" in probe.source else 4]
        return all(walker.run(hop.hook, packet) in ("ACCEPT", FELL_THROUGH) for hop in ways.way(probe) if hop.node == "n1")

    return passes


def policies_named(*names: str) -> st.SearchStrategy[list[NetworkPolicy]]:
    one = st.builds(
        NetworkPolicy,
        name=st.builds(Name, st.sampled_from(CROWDED), st.sampled_from(names)),
        pods=selectors,
        ingress=directions,
        egress=directions,
    )
    return st.lists(one, max_size=2, unique_by=lambda one: one.name)


@given(clusters(), policies_named("stays"), policies_named("goes", "went"), policies_named("comes", "came"))
@settings(max_examples=25, deadline=None)
def test_while_policies_come_and_go_a_packet_meets_the_old_or_the_new_never_more_and_never_less(cluster, stay, go, come):
    cluster = cluster._replace(pods=tuple(pod for pod in cluster.pods if pod.node_name == "n1"))
    before, after = cluster._replace(policies=(*stay, *go)), cluster._replace(policies=(*stay, *come))
    asked = [probe for probe in probes(cluster) if probe.port == 80 and probe.protocol != "SCTP" and not own_node(cluster, probe)]
    for state in on_the_way(before, after):
        passes = judge(state, cluster)
        for probe in asked:
            either = all(check(before, probe) or check(after, probe) for check in (may_leave, may_enter))
            both = all(check(before, probe) and check(after, probe) for check in (may_leave, may_enter))
            verdict = passes(probe)
            assert either or not verdict, f"open on the way: {probe}"
            assert verdict or not both, f"shut on the way: {probe}"


def test_a_policy_whose_first_rule_goes_never_pairs_its_second_with_the_firsts_members():
    """Names made of rule numbers would."""
    a, b = label(app="a"), label(app="b")
    three = Cluster((), tuple(pod(n, app) for n, app in enumerate("abc", 1)), {"x": {}}, NODES)
    first, second = rule(pods(a), ports=(tcp(80),)), rule(pods(b), ports=(tcp(81),))
    before = three._replace(policies=(policy(ingress=(first, second)),))
    after = three._replace(policies=(policy(ingress=(second,)),))
    states = list(on_the_way(before, after))
    assert len(states) > 2
    for state in states:
        passes = judge(state, three)
        assert not passes(Probe("10.0.1.1", "10.0.1.3", "TCP", 81))
        assert passes(Probe("10.0.1.2", "10.0.1.3", "TCP", 81))


def pod(number: int, app: str) -> Pod:
    return Pod(Name("x", app), labels={"app": app}, node_name="n1", ips=(f"10.0.1.{number}",))
