"""Requests to the API server: one round of them, as bytes, with the official client's configuration and transport.

The official `kubernetes` client knows where API servers are and how to prove who we are (kubeconfig, service account,
certificates, tokens that are renewed, proxies); it gives us a urllib3 pool and the headers. Its model objects are not used:
bodies stay bytes. Several API servers may be named; a request goes to the one that answered last, then to the others.

It never waits between attempts and never decides what a refusal means: that is its callers' business.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

CONNECT_TIMEOUT: Final = 5.0  # seconds to reach one server, before the next is tried
_MOST_CONNECTIONS: Final = 32  # kept per server: one a watch, one a writer, and room
_FAULTY_SERVER: Final = frozenset({500, 502, 503, 504})  # another server may do better


class ApiError(Exception):
    """A request failed. `status` is the HTTP status, 0 when no server answered; `retry_after` in seconds, if the server said so."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {message}" if status else message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class ConfigurationError(Exception):
    """It cannot be told where the API server is or who we are; the message says what is wrong with the kubeconfig, or without it."""


class Reply:
    """An answer with status 2xx whose body is still to be read. Close it, or read it to the end."""

    def __init__(self, response: Any, server: str) -> None:
        self._response = response
        self.server = server

    def read(self) -> bytes:
        """The whole body, decompressed; ApiError when the connection ends before it does."""
        try:
            return bytes(self._response.read())
        except _transport_errors() as error:
            raise ApiError(0, _words(error)) from error
        finally:
            self.close()

    def piece(self) -> bytes:
        """What has arrived, at least a byte; b"" at the end of the body. ApiError when cut or silent for the read timeout."""
        try:
            return bytes(self._response.read1(65536))
        except _transport_errors() as error:
            raise ApiError(0, _words(error)) from error

    def interrupt(self) -> None:
        """From another thread: make a reader that waits return at once."""
        try:
            self._response.shutdown()
        except (ValueError, RuntimeError, OSError):
            return  # it has just ended by itself

    def close(self) -> None:
        """Give the connection up, or back if the body was read to its end."""
        self._response.close()


class ApiClient:
    """Requests from any thread. Make one with `load`, which reads files but does not touch the network."""

    def __init__(self, configuration: Any, servers: Sequence[str], *, agent: str = "kube-router") -> None:
        rest = _client_module("kubernetes.client.rest")
        configuration.connection_pool_maxsize = _MOST_CONNECTIONS
        configuration.socket_options = _socket_options()
        self._configuration = configuration
        self._pool = rest.RESTClientObject(configuration).pool_manager
        self._agent = agent
        self._lock = threading.Lock()  # around the configuration: renewing a token rewrites it
        self._servers = tuple(dict.fromkeys(server.rstrip("/") for server in servers))
        self._current = 0

    @classmethod
    def load(cls, *, kubeconfig: str = "", servers: Sequence[str] = (), agent: str = "kube-router") -> ApiClient:
        """From a kubeconfig file, else from the pod's service account; `servers` replace the address found there.

        With servers named and neither a kubeconfig nor a service account, requests carry no credentials.
        """
        configuration = _client_module("kubernetes.client.configuration").Configuration()
        if kubeconfig:
            _load_kubeconfig(kubeconfig, configuration)
        elif not servers or _in_pod():
            _load_service_account(configuration)
        if servers:
            configuration.host = servers[0]
        return cls(configuration, servers or (configuration.host,), agent=agent)

    @property
    def servers(self) -> tuple[str, ...]:
        """Base URLs, in the order given."""
        return self._servers

    def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        read_timeout: float,
        server: str = "",
        compressed: bool = False,
    ) -> Reply:
        """GET; the first server that does not fail answers, or the one named."""
        headers = {"accept": "application/json"} | ({"accept-encoding": "gzip"} if compressed else {})
        start = self._current
        order = [server] if server else [*self._servers[start:], *self._servers[:start]]
        for last, base in ((base == order[-1], base) for base in order):
            try:
                reply = self._send("GET", base, path, query or {}, headers=headers, body=None, read_timeout=read_timeout)
            except ApiError as error:
                if last or (error.status and error.status not in _FAULTY_SERVER):
                    raise
            else:
                if not server:
                    self._current = self._servers.index(base)
                return reply
        raise AssertionError("no server to ask")

    def write(self, method: str, path: str, body: bytes, *, content_type: str, read_timeout: float) -> bytes:
        """POST, PUT or PATCH to the server that answered last, once: whether a write that failed was done is not known here."""
        headers = {"accept": "application/json", "content-type": content_type}
        base = self._servers[self._current]
        return self._send(method, base, path, {}, headers=headers, body=body, read_timeout=read_timeout).read()

    def close(self) -> None:
        """Drop idle connections."""
        self._pool.clear()

    def _send(
        self,
        method: str,
        base: str,
        path: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        read_timeout: float,
    ) -> Reply:
        from urllib3 import Timeout

        url = f"{base}{path}?{urlencode(query)}" if query else f"{base}{path}"
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers={**headers, "user-agent": self._agent, **self._credentials()},
                timeout=Timeout(connect=CONNECT_TIMEOUT, read=read_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except _transport_errors() as error:
            raise ApiError(0, f"{base}: {_words(error)}") from error
        if 200 <= response.status < 300:
            return Reply(response, base)
        raise _refusal(response)

    def _credentials(self) -> dict[str, str]:
        try:
            with self._lock:
                settings = self._configuration.auth_settings()
        except Exception as error:  # anything: it runs credential plugins and reads files that are being replaced
            raise ApiError(0, f"no credentials: {_words(error)}") from error
        return {setting["key"]: setting["value"] for setting in settings.values() if setting["value"]}


def _refusal(response: Any) -> ApiError:
    """The error that a response with another status than 2xx comes to."""
    from msgspec import MsgspecError, json

    try:
        body = response.read()
    except _transport_errors():
        body = b""
    finally:
        response.close()
    try:
        status = json.decode(body)
        message = str(status.get("message") or status.get("reason") or "") if isinstance(status, dict) else ""
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        message = " ".join(body[:200].decode(errors="replace").split())
    after = str(response.headers.get("retry-after") or "")
    return ApiError(
        response.status,
        message or str(response.reason or "refused"),
        retry_after=float(after) if after.isascii() and after.isdigit() else None,
    )


def _words(error: BaseException) -> str:
    """What a transport error says, without the objects that urllib3 puts before it."""
    text = str(error).rpartition(": Failed to establish")[2] if "Failed to establish" in str(error) else str(error)
    return " ".join(text.split()).removeprefix("a new connection: ") or type(error).__name__


def _transport_errors() -> tuple[type[BaseException], ...]:
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    return (HTTPError, HTTPException, OSError)


def _socket_options() -> list[tuple[int, int, int]]:
    """Keep-alive, so that a server that vanished without a word (power, cable) is noticed in half a minute."""
    import socket

    from urllib3.connection import HTTPConnection

    return [
        *HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    ]


# -- configuration ------------------------------------------------------------------------------------------------------


def _client_module(name: str) -> Any:
    """A module of the official client, without what its packages import on top.

    `import kubernetes` loads every part of it (dynamic client, websockets, OAuth, model validation): 20 MB and half a second
    of each node's start, for parts that we do not use. So its package is registered without running its `__init__`;
    submodules are then found as ever, and a process that has imported it in full keeps it so.
    """
    for package in ("kubernetes", "kubernetes.config", "kubernetes.utils"):
        if package not in sys.modules:
            spec = importlib.util.find_spec(package)
            if spec is None:
                raise ConfigurationError("the Python package kubernetes is not installed")
            sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(name)


def _in_pod() -> bool:
    from os import environ
    from os.path import isfile

    account = _client_module("kubernetes.config.incluster_config")
    return bool(environ.get(account.SERVICE_HOST_ENV_NAME)) and isfile(account.SERVICE_TOKEN_FILENAME)


def _load_service_account(configuration: Any) -> None:
    account = _client_module("kubernetes.config.incluster_config")
    try:
        account.load_incluster_config(client_configuration=configuration)
    except (account.ConfigException, OSError) as error:
        raise ConfigurationError(f"none is given, and this is no pod with a service account: {error}") from error


def _load_kubeconfig(path: str, configuration: Any) -> None:
    loader = _client_module("kubernetes.config.kube_config")
    from yaml import YAMLError

    try:
        loader.load_kube_config(config_file=path, client_configuration=configuration, persist_config=False)
    except (loader.ConfigException, OSError, YAMLError, TypeError, KeyError, ValueError) as error:
        raise ConfigurationError(f"cannot be used: {_words(error)}") from error
