"""The gobgpd in memory answers as the real ones do: one script of calls, the same outcomes expected of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube_router.apply.gobgp.client import Client, Refused
from kube_router.codec.gobgp import paths, policies, speaker
from kube_router.kit.errors import Busy, Stale
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    DefinedSetKey,
    Neighbor,
    NeighborKey,
    Path,
    PathKey,
    Speaker,
    Statement,
)
from tests.gobgpd import FakeGobgpd
from tests.speakers import Speaker as Gobgpd

Step = tuple[str, Callable[[Any], dict[str, Any]], str]

GLOBAL = Speaker(64512, "10.0.0.1", 1790, ("127.0.0.1",))
PREFIXES = DefinedSetKey("prefix", "p")
NEIGHBORS = DefinedSetKey("neighbor", "n")
STATEMENT = Statement("pn", "p", "n", accept=True)
PEER = (NeighborKey("127.0.0.2"), Neighbor(64512, "127.0.0.1", port=1790))
PATH = (PathKey("10.1.0.0/24"), Path("10.0.0.1"))
EXPORT = AssignmentKey("export")


def start(api: Any) -> dict[str, Any]:
    return {"global": getattr(speaker.start_request(api, GLOBAL), "global")}


def members(key: DefinedSetKey, *entries: str) -> Callable[[Any], dict[str, Any]]:
    return lambda api: {"defined_set": policies.defined_set(api, key, entries)}


def whole(key: DefinedSetKey) -> Callable[[Any], dict[str, Any]]:
    return lambda api: {"defined_set": policies.defined_set(api, key), "all": True}


def path(api: Any) -> dict[str, Any]:
    return {"table_type": api.table_global, "path": paths.path(api, *PATH)}


def unpath(api: Any) -> dict[str, Any]:
    return path(api) | {"family": speaker.family(api, 4)}


def bare_unpath(api: Any) -> dict[str, Any]:
    return unpath(api) | {"path": paths.prefix(api, PATH[0])}


def peer(api: Any) -> dict[str, Any]:
    return {"peer": speaker.peer(api, *PEER)}


def statement(api: Any) -> dict[str, Any]:
    return {"statement": policies.statement(api, STATEMENT)}


def policy(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda api: {"policy": policies.policy(api, name, (STATEMENT,)), "refer_existing_statements": True}


def gone(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda api: {"policy": policies.policy(api, name), "all": True}


def assigned(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda api: {"assignment": policies.assignment(api, EXPORT, Assignment(names, default_accept=False))}


def nothing(api: Any) -> dict[str, Any]:
    return {}


SCRIPT: list[Step] = [
    ("AddPeer", peer, "Stale"),
    ("AddPath", path, "Stale"),
    ("AddDefinedSet", members(NEIGHBORS), "Refused"),
    ("DeleteDefinedSet", whole(NEIGHBORS), "Refused"),
    ("AddStatement", statement, "Refused"),
    ("SetPolicyAssignment", assigned("x1"), "Refused"),
    ("StartBgp", start, "ok"),
    ("StartBgp", start, "Refused"),
    ("AddDefinedSet", members(PREFIXES), "ok"),
    ("AddDefinedSet", members(PREFIXES, "10.1.0.0/24 24..24"), "ok"),
    ("AddStatement", statement, "Refused"),
    ("AddDefinedSet", members(NEIGHBORS, "127.0.0.2/32", "127.0.0.3/32"), "ok"),
    ("AddDefinedSet", members(NEIGHBORS, "127.0.0.2/32"), "ok"),
    ("DeleteDefinedSet", members(NEIGHBORS, "127.0.0.3/32"), "ok"),
    ("AddPolicy", policy("x0"), "Refused"),
    ("AddStatement", statement, "ok"),
    ("AddPolicy", policy("x0"), "ok"),
    ("AddStatement", statement, "Refused"),
    ("AddPolicy", policy("x1"), "ok"),
    ("AddPolicy", policy("x2"), "ok"),
    ("SetPolicyAssignment", assigned("x9"), "Refused"),
    ("SetPolicyAssignment", assigned("x1"), "ok"),
    ("DeletePolicy", gone("x1"), "Refused"),
    ("SetPolicyAssignment", assigned("x2"), "ok"),
    ("DeletePolicy", gone("x1"), "ok"),
    ("DeletePolicy", gone("x1"), "Refused"),
    ("DeleteDefinedSet", whole(PREFIXES), "Refused"),
    ("AddPeer", peer, "ok"),
    ("AddPeer", peer, "Refused"),
    ("AddPath", path, "ok"),
    ("AddPath", path, "ok"),
    ("DeletePath", bare_unpath, "Refused"),
    ("DeletePath", unpath, "ok"),
    ("DeletePath", unpath, "ok"),
    ("ResetPeer", lambda api: {"address": "127.0.0.2", "soft": True, "direction": api.reset_out}, "ok"),
    ("ResetPeer", lambda api: {"address": "127.0.0.9", "soft": True, "direction": api.reset_in}, "Refused"),
    ("DeletePeer", lambda api: {"address": "127.0.0.2"}, "ok"),
    ("DeletePeer", lambda api: {"address": "127.0.0.2"}, "Refused"),
    ("SetPolicyAssignment", assigned(), "ok"),
    ("DeletePolicy", gone("x2"), "ok"),
    ("DeletePolicy", gone("x0"), "ok"),
    ("DeleteDefinedSet", whole(PREFIXES), "ok"),
    ("DeleteDefinedSet", whole(PREFIXES), "Refused"),
    ("StopBgp", nothing, "ok"),
]


def outcome(client: Any, step: Step) -> str:
    method, fields, _ = step
    try:
        client.send(method, **fields(client.generation()))
    except (Refused, Stale, Busy) as failure:
        return type(failure).__name__
    return "ok"


def listings(client: Any) -> Iterator[str]:
    """What the speaker holds, after each step that succeeded."""
    api = client.generation()
    for of in (api.set_prefix, api.set_neighbor):
        for reply in client.list("ListDefinedSet", defined_type=of):
            yield f"set {policies.defined_set_of(api, reply.defined_set)}"
    for reply in client.list("ListStatement"):
        yield f"statement {policies.statement_of(api, reply.statement)}"
    for reply in client.list("ListPolicy"):
        yield f"policy {reply.policy.name} {[policies.statement_of(api, s) for s in reply.policy.statements]}"
    for reply in client.list("ListPolicyAssignment"):
        yield f"assignment {policies.assignment_of(reply.assignment)}"
    for reply in client.list("ListPeer"):
        yield f"peer {speaker.neighbor_of(reply.peer)}"
    for reply in client.list("ListPath", table_type=api.table_global, family=speaker.family(api, 4)):
        yield f"path {list(paths.own_paths(api, reply.destination))}"


def play(client: Any) -> list[tuple[str, str, list[str]]]:
    story = []
    for step in SCRIPT:
        result = outcome(client, step)
        held = sorted(listings(client)) if result == "ok" and step[0] != "StopBgp" else []
        story.append((step[0], result, held))
    return story


@pytest.mark.parametrize("generation", ["v3", "v4"])
def test_the_gobgpd_in_memory_answers_as_scripted(generation: str) -> None:
    assert [result for _, result, _ in play(FakeGobgpd(generation))] == [expected for _, _, expected in SCRIPT]


@pytest.mark.needs("root")
def test_a_real_gobgpd_answers_as_scripted_and_holds_what_the_one_in_memory_holds(gobgpd: Gobgpd) -> None:
    real = play(Client(gobgpd.target))
    assert [result for _, result, _ in real] == [expected for _, _, expected in SCRIPT]
    assert real == play(FakeGobgpd(gobgpd.generation))


@pytest.mark.needs("root")
def test_after_a_stop_v3_may_be_started_again_and_v4_may_not(gobgpd: Gobgpd) -> None:
    for client in (Client(gobgpd.target), FakeGobgpd(gobgpd.generation)):
        fields = start(client.generation())
        client.send("StartBgp", **fields)
        client.send("StopBgp")
        assert outcome(client, ("StartBgp", start, "")) == ("ok" if gobgpd.generation == "v3" else "Busy")
