"""Health check node ports, over real sockets on loopback."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kube_router.apply.listeners.health_ports import HealthPortTarget, response
from kube_router.model.state import Change
from kube_router.model.state.listeners import HealthPort, HealthPortKey

WEB = HealthPort("shop", "web", 2)
BODY = """\
{
\t"service": {
\t\t"namespace": "shop",
\t\t"name": "web"
\t},
\t"localEndpoints": 2,
\t"serviceProxyHealthy": true
}"""


class Alive:
    """Whether the proxy is at work, as the test says."""

    yes = True

    def __call__(self) -> bool:
        return self.yes


@pytest.fixture
def alive() -> Alive:
    return Alive()


@pytest.fixture
def target(alive: Alive) -> Iterator[HealthPortTarget]:
    made = HealthPortTarget(alive)
    yield made
    made.close()


def free_port() -> HealthPortKey:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as found:
        return HealthPortKey(found.getsockname()[1])


def put(key: HealthPortKey, says: HealthPort, before: HealthPort | None = None) -> Change:
    return Change(key, before, says)


def ask(key: HealthPortKey, path: str = "/healthz", *, host: str = "127.0.0.1") -> tuple[int, dict[str, str], str]:
    """Status, headers, body."""
    connection = http.client.HTTPConnection(host, key.port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def is_closed(key: HealthPortKey) -> bool:
    try:
        ask(key)
    except ConnectionRefusedError:
        return True
    return False


def test_body_and_headers_are_those_of_kube_proxy_on_any_path_of_both_families(target):
    key = free_port()
    assert target.apply([put(key, WEB)]) == {}
    for host in ("127.0.0.1", "::1"):
        for path in ("/", "/healthz", "/anything"):
            status, headers, body = ask(key, path, host=host)
            assert status == 200
            assert headers["Content-Type"] == "application/json"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
            assert body == BODY


@pytest.mark.parametrize(("local", "status"), [(0, 503), (1, 200), (127, 200), (128, 200), (256, 200), (70_000, 200)])
def test_a11_any_number_of_local_endpoints_is_counted_and_none_refuses(local, status):
    answer = response(HealthPort("shop", "web", local), alive=True)
    assert answer.status == status
    assert json.loads(answer.body)["localEndpoints"] == local
    assert dict(answer.headers)["X-Load-Balancing-Endpoint-Weight"] == str(local)


def test_a11_a_port_answers_for_the_service_that_has_it_now(target):
    key, other = free_port(), free_port()
    target.apply([put(key, WEB)])
    target.apply([put(key, HealthPort("shop", "other", 0), WEB)])
    assert ask(key)[0] == 503
    assert json.loads(ask(key)[2])["service"] == {"namespace": "shop", "name": "other"}
    target.apply([Change(key, WEB, None), put(other, WEB)])
    assert is_closed(key)
    assert ask(other)[0] == 200
    target.apply([put(key, WEB)])
    assert ask(key)[0] == 200


def test_a11_a_port_that_is_taken_is_refused_alone_and_opened_once_it_is_free(target):
    key, other = free_port(), free_port()
    with socket.create_server(("::", key.port), family=socket.AF_INET6, dualstack_ipv6=True):
        refused = target.apply([put(key, WEB), put(other, WEB)])
        assert list(refused) == [key]
        assert "in use" in refused[key]
        assert f"port {key.port}" in refused[key]
        assert target.observe({}) == {other: WEB}
    assert target.apply([put(key, WEB)]) == {}
    assert ask(key)[0] == 200


def test_a_loop_that_hangs_is_told_to_load_balancers(target, alive):
    key = free_port()
    target.apply([put(key, WEB)])
    alive.yes = False
    status, _, body = ask(key)
    assert status == 503
    assert json.loads(body)["serviceProxyHealthy"] is False
    assert json.loads(body)["localEndpoints"] == 2
    alive.yes = True
    assert ask(key)[0] == 200


def test_applying_twice_changes_nothing_and_what_is_open_is_observed(target):
    key = free_port()
    for _ in range(2):
        assert target.apply([put(key, WEB)]) == {}
        assert target.observe({}) == {key: WEB}
    for _ in range(2):
        assert target.apply([Change(key, WEB, None)]) == {}
        assert target.observe({}) == {}
        assert is_closed(key)


def test_a_client_that_never_asks_holds_up_no_pass(target):
    key = free_port()
    target.apply([put(key, WEB)])
    with socket.create_connection(("127.0.0.1", key.port)):
        began = time.monotonic()
        target.apply([Change(key, WEB, None)])
        assert time.monotonic() - began < 0.5
        assert is_closed(key)


def test_without_a_port_there_is_no_thread_and_with_many_there_is_one():
    def threads() -> int:
        return sum(thread.name == "health ports" for thread in threading.enumerate())

    before = threads()
    target = HealthPortTarget(lambda: True)
    assert target.apply([Change(free_port(), WEB, None)]) == {}
    assert threads() == before
    target.apply([put(free_port(), WEB) for _ in range(20)])
    assert threads() == before + 1
    target.close()
    target.close()
    assert threads() == before
