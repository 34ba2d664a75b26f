"""Long-lived processes of a node: started in its namespaces, with a log file each, and ended in the way that is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.cni import PLUGIN_FOLDERS
from lab.space import Space
from lab.waiting import SLOWNESS, wait_for

ROOT = Path(__file__).parents[1]
GOBGP_SOCKET = "/run/kube-router/gobgp.sock"
STATE_FOLDER = "/run/kube-router/state"  # under /run, of which every node has its own
CNI_FILE = "/etc/cni/net.d/10-kuberouter.conflist"


class Process:
    """A command that runs in a space until told otherwise. Its output goes to one log, however often it is restarted."""

    def __init__(self, name: str, space: Space, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.space = space
        self.command = list(command)
        self.log = log
        self._environment = dict(environment or {})
        self._running: subprocess.Popen[str] | None = None
        self._start_of_run = 0

    @property
    def pid(self) -> int:
        """The process id; RuntimeError when it does not run."""
        if self._running is None:
            raise RuntimeError(f"{self.space.name}: {self.name} was not started")
        return self._running.pid

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended: the exit status, or minus the signal; None while it runs or before it was started."""
        return None if self._running is None else self._running.poll()

    def start(self, *more: str) -> Process:
        """Start it (with more arguments at the end, this time only); RuntimeError when it runs already."""
        if self.alive:
            raise RuntimeError(f"{self.space.name}: {self.name} runs already")
        with self.log.open("a") as output:
            output.write(f"--- {' '.join([*self.command, *more])}\n")
            output.flush()
            self._start_of_run = output.tell()
            self._running = self.space.popen(
                [*self.command, *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment,
                cwd="/",
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        if self._running is not None and self.alive:
            self._running.send_signal(number)

    def wait(self, seconds: float = 10.0) -> int:
        """Wait for its end and hand back its status; subprocess.TimeoutExpired when it does not come."""
        if self._running is None:
            raise RuntimeError(f"{self.space.name}: {self.name} was not started")
        return self._running.wait(seconds * SLOWNESS)

    def stop(self, seconds: float = 10.0) -> int | None:
        """Ask it to end (SIGTERM) and wait; its status, or None when it did not run."""
        if not self.alive:
            return self.status
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self.alive:
            self.signal(signal.SIGKILL)
            self.wait()

    def pause(self) -> None:
        """Hold it still (SIGSTOP): alive to the kernel, dead to everybody else."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def output(self) -> str:
        """Everything that it has said, in all its runs, each under a line with its command."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def said(self) -> str:
        """What it has said since it was last started."""
        return self.log.read_bytes()[self._start_of_run :].decode(errors="replace") if self.log.exists() else ""

    def wait_for_output(self, text: str, *, seconds: float = 30.0) -> None:
        """Wait until it has said ``text``; NotYet with the end of its log when it does not, or has died."""
        wait_for(
            f"{self.space.name}: {self.name} says {text!r}",
            lambda: text in self.said(),
            seconds=seconds,
            so_far=lambda: f"{'alive' if self.alive else f'ended with {self.status}'}\n{self.said()[-2000:]}",
        )

    def processor_seconds(self) -> float:
        """Processor time that it has used, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of memory resident now."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


class Speaker(Process):
    """A gobgpd with an empty configuration that listens on a socket in the node's own /run."""

    def __init__(self, space: Space, *, log: Path, binary: str = "/usr/bin/gobgpd", arguments: Sequence[str] = ()) -> None:
        command = [binary, "--api-hosts", f"unix://{GOBGP_SOCKET}", "--pprof-disable", "--log-plain", *arguments]
        super().__init__("gobgpd", space, command, log=log, environment={"GOMAXPROCS": "1"})
        self.socket = space.root / GOBGP_SOCKET.lstrip("/")
        # the command of the same release, for v3 and v4 do not understand each other; Debian's is the one on the path
        tool = Path(binary).with_name("gobgp")
        self.command_line_tool = f"{tool.name if tool.parent == Path('/usr/bin') else tool} --target unix://{GOBGP_SOCKET}"

    def start(self, *more: str) -> Process:
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)  # it does not start over the socket of a killed predecessor
        return super().start(*more)

    def wait_until_listening(self, *, seconds: float = 20.0) -> None:
        """Wait for its socket; NotYet with its log when it does not come."""
        wait_for(f"{self.space.name}: gobgpd listens", self.socket.is_socket, seconds=seconds, so_far=self.output)


def router_daemon(space: Space, *, node: str, server: str, flags: Sequence[str], log: Path) -> Process:
    """The daemon of one node. ``server`` is the URL of the API server as the node reaches it."""
    command = [
        sys.executable,
        "-m",
        "kube_router.app.main",
        f"--master={server}",
        f"--gobgp-api=unix://{GOBGP_SOCKET}",
        f"--state-dir={STATE_FOLDER}",
        f"--cni-bin-dir={PLUGIN_FOLDERS}",
        *flags,
    ]
    environment = {
        "NODE_NAME": node,
        "POD_NAME": f"kube-router-{node}",
        "POD_NAMESPACE": "kube-system",
        "KUBE_ROUTER_CNI_CONF_FILE": CNI_FILE,
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONUNBUFFERED": "1",
    }
    return Process("kube-router", space, command, log=log, environment=environment)
