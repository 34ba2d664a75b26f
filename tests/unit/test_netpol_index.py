"""What policies mean for a node: classes, policies in use, what is touched by which change."""

from __future__ import annotations

from kube_router.cache.cache import Cache
from kube_router.cache.policies import NamedPort, PolicyClass, PolicyIndex, Touched, Use
from kube_router.control.netpol import NetpolController
from kube_router.model.objects import ContainerPort, Kind, Name, Namespace, NetworkPolicy, Object, Pod
from tests.walk.words import ALL, EVERY, in_ns, label, pods, policy, rule, tcp


class Indexed:
    """An index that follows a cache."""

    def __init__(self, *objects: Object) -> None:
        self.cache = Cache()
        self.feed = self.cache.feed(NetpolController.reads)
        self.index = PolicyIndex("n1")
        self.tell(*objects)

    def tell(self, *objects: Object) -> Touched:
        for value in objects:
            self.cache.put(value)
        return self.index.refresh(self.feed.take(), self.cache.view)

    def lose(self, kind: Kind, name: Name) -> Touched:
        self.cache.remove(kind, name)
        return self.index.refresh(self.feed.take(), self.cache.view)


def pod(name: str, ip: str, node: str = "n1", ns: str = "x", **fields: object) -> Pod:
    return Pod(Name(ns, name), labels={"app": name.partition("-")[0]}, node_name=node, ips=(ip,), **fields)


def ingress_class(*names: str) -> PolicyClass:
    return PolicyClass("ingress", tuple(Name("x", name) for name in names))


WEB = policy(label(app="web"), name="web", ingress=ALL)
EACH = policy(name="each", ingress=())


def test_pods_with_the_same_policies_are_of_one_class():
    many = Indexed(WEB, EACH, *(pod(f"web-{n}", f"10.0.0.{n}") for n in range(1, 9)), pod("db", "10.0.0.9"))
    assert set(many.index.classes("ingress")) == {ingress_class("each", "web"), ingress_class("each")}
    assert not set(many.index.classes("egress"))
    assert many.index.class_of("ingress", "10.0.0.3") == ingress_class("each", "web")
    assert many.index.class_of("egress", "10.0.0.3") is None


def test_policies_of_other_nodes_pods_are_out_of_sight():
    node = Indexed(WEB, pod("web-1", "10.0.0.1", node="n2"), pod("db", "10.0.0.2"))
    assert not node.index.facts()["classes"]
    assert not node.index.in_use(Use("ingress", WEB.name))


def test_a_pod_that_joins_a_known_class_touches_itself_alone():
    node = Indexed(WEB, EACH, pod("web-1", "10.0.0.1"), pod("web-2", "10.0.0.2"))
    touched = node.tell(pod("web-3", "10.0.0.3"))
    assert touched == Touched(pods={Name("x", "web-3")})
    touched = node.lose(Kind.POD, Name("x", "web-3"))
    assert touched == Touched(pods={Name("x", "web-3")})


def test_a_class_comes_with_its_first_pod_and_goes_with_its_last():
    node = Indexed(WEB, EACH, pod("db", "10.0.0.9"))
    touched = node.tell(pod("web-1", "10.0.0.1"))
    assert touched.classes == {ingress_class("each", "web")}
    assert touched.uses == {Use("ingress", WEB.name)}
    touched = node.lose(Kind.POD, Name("x", "web-1"))
    assert touched.classes == {ingress_class("each", "web")}
    assert not node.index.in_use(Use("ingress", WEB.name))


def test_a_changed_rule_touches_its_policy_and_no_class():
    node = Indexed(WEB, pod("web-1", "10.0.0.1"))
    touched = node.tell(policy(label(app="web"), name="web", ingress=(rule(ports=(tcp(80),)),)))
    assert (touched.uses, touched.classes, touched.pods) == ({Use("ingress", WEB.name)}, set(), set())


def test_a_new_peer_touches_the_pods_that_it_picks():
    node = Indexed(WEB, pod("web-1", "10.0.0.1"), pod("a-1", "10.0.0.2"), pod("b-1", "10.0.0.3", node="n2"))
    touched = node.tell(policy(label(app="web"), name="web", ingress=(rule(pods(label(app="b"))),)))
    assert touched.pods == {Name("x", "b-1")}
    touched = node.tell(WEB)
    assert touched.pods == {Name("x", "b-1")}


def test_a_second_policy_with_the_same_peers_touches_no_pod_that_they_pick():
    peers = (rule(pods(label(app="b"))),)
    one, two = (policy(label(app="web"), name=name, ingress=peers) for name in ("one", "two"))
    node = Indexed(one, pod("web-1", "10.0.0.1"), *(pod(f"b-{n}", f"10.0.1.{n}") for n in range(1, 9)))
    assert node.tell(two).pods == {Name("x", "web-1")}  # whose class changes
    assert node.lose(Kind.NETWORK_POLICY, one.name).pods == {Name("x", "web-1")}
    assert len(node.index.facts()["askers"]) == 1


def test_a_namespaces_label_touches_the_pods_for_whom_it_decides():
    by_team = policy(label(app="web"), name="web", ingress=(rule(in_ns(label(team="red"), label(app="b"))),))
    node = Indexed(
        by_team, Namespace(Name("", "y"), {}), pod("web-1", "10.0.0.1"), pod("a-1", "10.0.0.2", ns="y"), pod("b-1", "10.0.0.3", ns="y")
    )
    assert node.tell(Namespace(Name("", "y"), {"team": "red"})).pods == {Name("y", "b-1")}
    assert not node.tell(Namespace(Name("", "y"), {"team": "red", "more": "labels"})).pods
    assert node.lose(Kind.NAMESPACE, Name("", "y")).pods == {Name("y", "b-1")}


def test_a_namespaces_label_touches_those_who_share_an_address_with_a_pod_for_whom_it_decides():
    by_team = policy(label(app="web"), name="web", ingress=(rule(in_ns(EVERY, label(app="b"))),))
    twins = pod("b-1", "10.0.0.3", ns="y"), pod("b-1", "10.0.0.3", ns="z")
    node = Indexed(by_team, Namespace(Name("", "y"), {}), Namespace(Name("", "z"), {}), pod("web-1", "10.0.0.1"), *twins)
    assert node.lose(Kind.NAMESPACE, Name("", "y")).pods == {Name("y", "b-1"), Name("z", "b-1")}


def test_of_a_namespace_that_is_not_known_nothing_is_a_peer_by_namespace():
    everyone = policy(label(app="web"), name="web", ingress=(rule(in_ns(EVERY)),))
    node = Indexed(everyone, pod("web-1", "10.0.0.1"))
    stranger = pod("b-1", "10.0.0.3", ns="nowhere")
    assert node.index.picking("ingress", stranger, None) == []
    assert len(node.index.picking("ingress", stranger, {})) == 1


def test_pods_that_finished_wait_for_an_address_or_use_their_nodes_are_no_targets():
    node = Indexed(
        EACH,
        pod("done", "10.0.0.1", phase="Succeeded"),
        pod("failed", "10.0.0.2", phase="Failed"),
        pod("host", "192.0.2.1", host_network=True),
        Pod(Name("x", "waiting"), node_name="n1"),
        pod("starting", "10.0.0.3", phase="Pending"),
    )
    assert node.index.facts()["local"] == {Name("x", "starting"): ("10.0.0.3",)}


def test_an_address_that_passes_from_pod_to_pod_changes_its_class_with_the_pod():
    node = Indexed(WEB, EACH, pod("web-1", "10.0.0.1"))
    node.cache.remove(Kind.POD, Name("x", "web-1"))
    node.tell(pod("db", "10.0.0.1"))
    assert node.index.class_of("ingress", "10.0.0.1") == ingress_class("each")


def test_two_pods_with_one_address_share_what_both_are_allowed():
    only_web, only_db = WEB, policy(label(app="db"), name="db", ingress=ALL)
    node = Indexed(only_web, only_db, pod("web-1", "10.0.0.1"), pod("db", "10.0.0.1"))
    assert node.index.class_of("ingress", "10.0.0.1") == ingress_class()
    touched = node.tell(EACH)
    assert node.index.class_of("ingress", "10.0.0.1") == ingress_class("each")
    assert touched.pods == {Name("x", "web-1"), Name("x", "db")}
    touched = node.lose(Kind.POD, Name("x", "db"))
    assert node.index.class_of("ingress", "10.0.0.1") == ingress_class("each", "web")
    assert Name("x", "web-1") in touched.pods


def test_a_port_name_is_followed_while_a_rule_asks_for_it():
    named: NetworkPolicy = policy(label(app="web"), name="web", ingress=(rule(ports=(tcp("http"),)),))
    port = NamedPort("ingress", "TCP", "http")
    node = Indexed(named, pod("web-1", "10.0.0.1"))
    assert node.index.asked(port)
    assert not node.index.bearers(port)
    touched = node.tell(pod("web-2", "10.0.0.2", ports=(ContainerPort("http", "TCP", 80),)))
    assert touched.uses == {Use("ingress", named.name)}, "its name is no longer unresolved"
    assert node.index.bearers(port) == {Name("x", "web-2")}
    touched = node.tell(WEB)
    assert not node.index.asked(port)
    assert Name("x", "web-2") in touched.pods
