"""Where the program begins: what is run, what is said, and the exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from kube_router.app.main import World, start
from kube_router.config.faults import Fault, StartRefused
from kube_router.config.options import Options
from kube_router.config.usage import usage

HEAVY = {"kubernetes", "grpc", "pyroute2", "prometheus_client", "structlog", "msgspec", "asyncio", "yaml", "rich", "iptc"}


@dataclass
class Outside:
    """A world in which the daemon and the cleanup only note that they were called."""

    user: int = 0
    daemon: Callable[[Options], int] = lambda _options: 0
    calls: list[str] = field(default_factory=list)
    stderr: io.StringIO = field(default_factory=io.StringIO)

    def start(self, *arguments: str) -> int:
        def daemon(options: Options) -> int:
            self.calls.append("daemon")
            return self.daemon(options)

        def cleanup(options: Options) -> int:
            self.calls.append("cleanup")
            return 0

        return start(arguments, World({}, _no_file, lambda: self.user, self.stderr, daemon, cleanup))


def _no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def test_the_daemon_runs_and_its_status_is_the_exit_status() -> None:
    outside = Outside(daemon=lambda _options: 7)
    assert outside.start("--enable-ipv6") == 7
    assert outside.calls == ["daemon"]


def test_the_daemon_gets_the_options() -> None:
    seen: list[Options] = []
    Outside(daemon=lambda options: seen.append(options) or 0).start("--enable-ipv6", "--bgp-port=1179")
    assert (seen[0].families, seen[0].bgp_port) == ((4, 6), 1179)


def test_cleanup_runs_instead_of_the_daemon() -> None:
    outside = Outside()
    assert outside.start("--cleanup-config") == 0
    assert outside.calls == ["cleanup"]


@pytest.mark.parametrize("flag", ["--help", "-h", "--version", "-V"])
def test_help_and_version_need_no_root_and_run_nothing(flag: str) -> None:
    outside = Outside(user=1000)
    assert outside.start(flag) == 0
    assert outside.calls == []
    said = outside.stderr.getvalue()
    assert said == usage("kube-router") if "h" in flag else said.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--cleanup-config"]])
def test_without_root_nothing_is_run(arguments: list[str]) -> None:
    outside = Outside(user=1000)
    assert outside.start(*arguments) == 1
    assert outside.calls == []
    assert "root" in outside.stderr.getvalue()


def test_faults_are_all_told_before_anything_else_is_asked() -> None:
    outside = Outside(user=1000)
    assert outside.start("--run-firewal=true", "--bgp-holdtime=x", "--cluster-asn=9999999999", "--help") == 2
    assert outside.calls == []
    for flag in ("--run-firewal=true", "--bgp-holdtime=x", "--cluster-asn=9999999999"):
        assert f"  {flag}: " in outside.stderr.getvalue()


def test_with_all_controllers_off_there_is_nothing_to_run() -> None:
    outside = Outside()
    assert outside.start("--run-router=false", "--run-firewall=false", "--run-service-proxy=false") == 0
    assert outside.calls == []
    assert "nothing to run" in outside.stderr.getvalue()


def refuse(_options: Options) -> int:
    raise StartRefused((Fault("--enable-ipv6", "true", "no address"), Fault("--router-id", None, "needed")))


def test_faults_found_at_start_up_are_all_told_with_the_exit_status_in_the_last_line() -> None:
    outside = Outside(daemon=refuse)
    assert outside.start("--log-format=json") == 2
    events = [json.loads(line)["event"] for line in outside.stderr.getvalue().splitlines()]
    assert events[1:] == [
        "not started: --enable-ipv6=true: no address",
        "not started: --router-id: needed",
        "ended by the faults above, exit status 2",
    ]


def fail(_options: Options) -> int:
    raise RuntimeError("a loop crashed")


def test_an_error_that_nobody_caught_is_told_with_cause_and_exit_status() -> None:
    outside = Outside(daemon=fail)
    assert outside.start("--log-format=json") == 1
    last = json.loads(outside.stderr.getvalue().splitlines()[-1])
    assert last["event"] == "ended by an error, exit status 1: RuntimeError: a loop crashed"
    assert "Traceback" in last["exception"]


def run_program(*arguments: str, script: str = "from kube_router.app.main import main; sys.exit(main())") -> tuple[int, str, str]:
    command = [sys.executable, "-c", f"import sys; {script}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--run-firewal"], ["--peer-router-asns=1"]])
def test_nothing_heavy_is_imported_to_answer_a_person(arguments: list[str]) -> None:
    script = "from kube_router.app.main import main; main(); print(*sys.modules)"
    _, out, _ = run_program(*arguments, script=script)
    assert HEAVY & {name.partition(".")[0] for name in out.split()} == set()


def test_the_help_is_on_stderr_with_status_0() -> None:
    assert run_program("--help") == (0, "", usage("kube-router"))


def test_the_faults_of_the_real_process_are_on_stderr_with_status_2() -> None:
    status, out, err = run_program("--run-firewal=true", "--bgp-holdtime=x", "--cluster-asn=9999999999")
    assert (status, out) == (2, "")
    assert err.splitlines()[0] == "kube-router: not started, 3 faults:"


def test_help_costs_little_more_than_starting_the_interpreter() -> None:
    def seconds(*arguments: str) -> float:
        start_time = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL, check=True, timeout=60)
        return time.perf_counter() - start_time

    code = "import sys; from kube_router.app.main import main; sys.exit(main())"
    bare = min(seconds("-c", "pass") for _ in range(5))
    helped = min(seconds("-c", code, "--help") for _ in range(5))
    assert helped < max(0.3, 8 * bare)


def test_the_module_can_be_run_by_name() -> None:
    command = [sys.executable, "-m", "kube_router.app.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    assert done.returncode == 0
    assert " version " in done.stderr
