"""Requests through the official client's configuration and transport: kubeconfig, service account, TLS, several servers."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube_router.kit.apiserver import ApiClient, ApiError, ConfigurationError

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Answers every request as it is told, and notes it."""

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Callable[[str], Answer] = lambda path: (200, {}, b'{"ok":true}')
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers, answer = outer.answer(self.path)
                self.send_response(status)
                for name, value in ({"content-length": str(len(answer))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PATCH = _serve  # noqa: N815  http.server's names

            def log_message(self, *_: object) -> None:
                return

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._httpd.socket = context.wrap_socket(self._httpd.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if tls is None else "https"
        self.port = self._httpd.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()


@pytest.fixture
def servers() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(**options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "ca.crt", folder / "tls.key"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=60)
    return certificate, key


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kubeconfig(folder: Path, server: str, *, user: dict[str, Any] | None = None, **cluster: Any) -> str:
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "lab", "user": user or {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(body))
    return str(path)


# -- configuration --------------------------------------------------------------------------------------------------------


def test_a_kubeconfig_says_where_and_who(tmp_path: Path, servers: Callable[..., Server]) -> None:
    server = servers()
    client = ApiClient.load(kubeconfig=kubeconfig(tmp_path, server.url, user={"token": "sesame"}), agent="kube-router/test")
    assert client.servers == (server.url,)
    assert client.get("/api/v1/nodes", {"limit": "5", "labelSelector": "!a/b"}, read_timeout=5).read() == b'{"ok":true}'
    ((method, path, headers, _),) = server.requests
    assert (method, path) == ("GET", "/api/v1/nodes?limit=5&labelSelector=%21a%2Fb")
    assert (headers["authorization"], headers["user-agent"], headers["accept"]) == ("Bearer sesame", "kube-router/test", "application/json")


def test_servers_named_on_the_command_line_replace_the_kubeconfigs(tmp_path: Path, servers: Callable[..., Server]) -> None:
    server = servers()
    path = kubeconfig(tmp_path, f"http://127.0.0.1:{closed_port()}", user={"token": "sesame"})
    client = ApiClient.load(kubeconfig=path, servers=[server.url + "/"])
    client.get("/x", read_timeout=5).read()
    assert server.requests[0][2]["authorization"] == "Bearer sesame"


@pytest.mark.parametrize("text", ["", "{", "a: [", "apiVersion: v1\nkind: Config\n", None])
def test_a_kubeconfig_that_says_nothing_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be used: "):
        ApiClient.load(kubeconfig=str(path))


def test_without_any_configuration_the_fault_says_what_was_looked_for() -> None:
    with pytest.raises(ConfigurationError, match="none is given, and this is no pod with a service account: Service host/port is not set"):
        ApiClient.load()


SERVICE_ACCOUNT = """
import os, pathlib, sys
url, port, certificate = sys.argv[1:]
folder = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
folder.mkdir(parents=True)
(folder / "token").write_text("first")
(folder / "ca.crt").write_text(pathlib.Path(certificate).read_text())
os.environ.update(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=port)
from kube_router.kit.apiserver import ApiClient
client = ApiClient.load()
print(client.get("/x", read_timeout=5).read().decode(), client.servers)
print(ApiClient.load(servers=[url]).get("/y", read_timeout=5).read().decode())
assert "kubernetes.dynamic" not in sys.modules and "kubernetes.config.kube_config" not in sys.modules
"""


@pytest.mark.needs("root")
def test_a_pods_service_account_is_used_with_and_without_named_servers(
    servers: Callable[..., Server], certificate: tuple[Path, Path]
) -> None:
    server = servers(tls=certificate)
    inside = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$0" "$@"']
    command = [*inside, sys.executable, "-c", SERVICE_ACCOUNT, server.url, str(server.port), str(certificate[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"""{{"ok":true}} ('{server.url}',)""", '{"ok":true}']
    assert [headers["authorization"] for _, _, headers, _ in server.requests] == ["bearer first", "bearer first"]


def test_a_server_with_another_authoritys_certificate_is_refused_in_words(
    tmp_path: Path, servers: Callable[..., Server], certificate: tuple[Path, Path]
) -> None:
    server = servers(tls=certificate)
    with pytest.raises(ApiError, match="certificate verify failed") as caught:
        ApiClient.load(kubeconfig=kubeconfig(tmp_path, server.url)).get("/x", read_timeout=5)
    assert caught.value.status == 0
    trusting = ApiClient.load(kubeconfig=kubeconfig(tmp_path, server.url, **{"certificate-authority": str(certificate[0])}))
    assert trusting.get("/x", read_timeout=5).read() == b'{"ok":true}'


# -- answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "body", "message", "retry_after"),
    [
        (403, {}, b'{"kind":"Status","message":"nodes is forbidden"}', "403 nodes is forbidden", None),
        (410, {}, b'{"reason":"Expired"}', "410 Expired", None),
        (429, {"retry-after": "7"}, b"{}", "429 Too Many Requests", 7.0),
        (429, {"retry-after": "soon"}, b"{}", "429 Too Many Requests", None),
        (502, {}, b"<html>\n<h1>Bad Gateway</h1>", "502 <html> <h1>Bad Gateway</h1>", None),
        (500, {}, b"\xff" * 3, "500 ���", None),
        (301, {"location": "/elsewhere"}, b"", "301 Moved Permanently", None),
        (200, {"content-length": "100"}, b"short", None, None),
    ],
)
def test_a_refusal_becomes_an_error_with_the_servers_words(
    servers: Callable[..., Server], status: int, headers: dict[str, str], body: bytes, message: str | None, retry_after: float | None
) -> None:
    server = servers()
    server.answer = lambda path: (status, headers, body)
    client = ApiClient.load(servers=[server.url])
    with pytest.raises(ApiError) as caught:
        client.get("/x", read_timeout=1).read()
    assert caught.value.status == (status if message else 0)
    assert caught.value.retry_after == retry_after
    assert str(caught.value) == message or message is None
    assert len(server.requests) == 1


def test_nobody_there_is_an_error_without_a_status() -> None:
    port = closed_port()
    with pytest.raises(ApiError, match=f"http://127.0.0.1:{port}: .*Connection refused") as caught:
        ApiClient.load(servers=[f"http://127.0.0.1:{port}"]).get("/x", read_timeout=1)
    assert caught.value.status == 0


def test_a_write_goes_out_once_with_its_content_type(servers: Callable[..., Server]) -> None:
    server = servers()
    client = ApiClient.load(servers=[server.url])
    client.write("PATCH", "/x", b'{"a":1}', content_type="application/merge-patch+json", read_timeout=5)
    server.answer = lambda path: (500, {}, b"{}")
    with pytest.raises(ApiError):
        client.write("POST", "/x", b"{}", content_type="application/json", read_timeout=5)
    assert [(method, headers["content-type"], body) for method, _, headers, body in server.requests] == [
        ("PATCH", "application/merge-patch+json", b'{"a":1}'),
        ("POST", "application/json", b"{}"),
    ]


# -- several servers ------------------------------------------------------------------------------------------------------


def test_the_next_server_is_asked_when_one_is_away_or_broken_and_stays_the_first_choice(servers: Callable[..., Server]) -> None:
    broken, good = servers(), servers()
    broken.answer = lambda path: (503, {}, b"{}")
    client = ApiClient.load(servers=[f"http://127.0.0.1:{closed_port()}", broken.url, good.url])
    for path in ("/a", "/b"):
        reply = client.get(path, read_timeout=5)
        assert reply.server == good.url
        reply.read()
    assert [path for _, path, _, _ in broken.requests] == ["/a"]
    client.write("POST", "/w", b"{}", content_type="application/json", read_timeout=5)
    assert [path for _, path, _, _ in good.requests] == ["/a", "/b", "/w"]


def test_a_plain_no_is_an_answer_and_no_other_server_is_asked(servers: Callable[..., Server]) -> None:
    first, second = servers(), servers()
    first.answer = lambda path: (403, {}, b"{}")
    with pytest.raises(ApiError, match="403"):
        ApiClient.load(servers=[first.url, second.url]).get("/x", read_timeout=5)
    assert second.requests == []


def test_a_server_that_is_named_is_the_only_one_asked(servers: Callable[..., Server]) -> None:
    first, second = servers(), servers()
    second.answer = lambda path: (500, {}, b"{}")
    client = ApiClient.load(servers=[first.url, second.url])
    with pytest.raises(ApiError, match="500"):
        client.get("/x", read_timeout=5, server=second.url)
    assert first.requests == []


def test_when_all_servers_fail_the_last_ones_words_are_told(servers: Callable[..., Server]) -> None:
    first, second = servers(), servers()
    for server, word in ((first, b"one"), (second, b"two")):
        server.answer = lambda path, word=word: (500, {}, word)  # type: ignore[misc]
    with pytest.raises(ApiError, match="500 two"):
        ApiClient.load(servers=[first.url, second.url]).get("/x", read_timeout=5)


# -- cost -----------------------------------------------------------------------------------------------------------------


def test_loading_does_not_import_the_whole_official_client() -> None:
    code = (
        "import sys; from kube_router.kit.apiserver import ApiClient; ApiClient.load(servers=['http://127.0.0.1:1']);"
        "print(sorted(m for m in sys.modules if m.startswith(('kubernetes.dynamic', 'pydantic', 'oauthlib', 'websocket', 'yaml'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_official_client_can_still_be_imported_by_its_parts() -> None:
    code = (
        "from kube_router.kit.apiserver import ApiClient; ApiClient.load(servers=['http://127.0.0.1:1']);"
        "from kubernetes import client; print(client.CoreV1Api.__name__, client.Configuration.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["CoreV1Api", "Configuration"]
