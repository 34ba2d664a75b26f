"""A namespace to live in: a thread that has left for a network (and mount, and UTS) namespace of its own.

Linux gives every *thread* its own namespaces, so one process can live in many nodes at once without a fork. What the thread
starts lives where the thread does, and dies when it ends. Nothing has a name outside of this process: when it goes, however it
goes, the kernel takes links, addresses, rules, mounts and child processes with it. There is nothing to sweep.

    with Space("lab", files=True) as lab:            # away from the host, for good
        node = lab.child("node1", files=True)        # made inside of lab
        node.call(os.listdir, "/sys/class/net")      # runs in node1
        node.run(["ip", "link"])                     # so does this
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lab.waiting import SLOWNESS

_P = ParamSpec("_P")
_T = TypeVar("_T")

# <sched.h> and <sys/mount.h>; the os module has them from Python 3.12 on
CLONE_NEWNS, CLONE_FS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x00000200, 0x04000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED, MS_NOSUID = 0x1000, 0x4000, 1 << 18, 1 << 20, 0x2
MNT_DETACH = 2
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1  # <linux/sockios.h>, <net/if.h>

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` for new ones; of the calling thread only."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace behind an open file."""
    _checked(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    _checked(result, f"mount {source} on {target}")


def umount(target: str) -> None:
    """Take a mount away at once; whoever still uses it keeps it."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def write_sysctl(name: str, value: str | int) -> None:
    """Set a sysctl of the calling thread's network namespace; dots or, for names with dots in them, slashes."""
    path = name if "/" in name else name.replace(".", "/")
    Path("/proc/sys", path).write_text(str(value))


class CommandFailed(Exception):
    """A command in a namespace ended badly; the message holds what it said."""


class Space:
    """A thread in namespaces of its own. ``files`` adds a mount and a UTS namespace to the network namespace.

    With ``files`` it has an empty /run; with ``machine`` too, which a child with files has, writable copies (overlays) of
    /etc and /var/lib without anything of CNI, and a host name: what runs there believes in a machine of its own and leaves
    no trace elsewhere. All methods may be called from any thread.
    """

    def __init__(self, name: str, *, files: bool = False, machine: bool = False) -> None:
        self.name = name
        self.files = files or machine
        self._machine = machine
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name=f"space-{name}", daemon=True)
        self._children: list[Space] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._thread.start()
        self.thread_id = self.call(threading.get_native_id)
        self.call(self._enter)

    # life

    def __enter__(self) -> Space:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave: processes started here are killed, and what nobody holds any more disappears."""
        for child in reversed(self._children):
            child.close()
        self._children.clear()
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()
        if self._thread.is_alive():
            self._work.put(None)
            self._thread.join(timeout=30)

    def child(self, name: str, *, files: bool = False) -> Space:
        """A space made from inside of this one: it sees this one's files, and its network namespace by name."""
        child = self.call(lambda: Space(name, machine=files))
        self._children.append(child)
        if self.files:
            self.call(bind_network, child.network, f"/run/netns/{name}")
        return child

    def _live(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _enter(self) -> None:
        unshare(CLONE_NEWNET | (CLONE_NEWNS | CLONE_NEWUTS if self.files else CLONE_FS))
        if self.files:
            mount("none", "/", flags=MS_REC | MS_PRIVATE)
            mount("tmpfs", "/run", "tmpfs", options="mode=755")
            mount("sysfs", "/sys", "sysfs")  # shows the links of the namespace that it was mounted in
            Path("/run/netns").mkdir()
        if self._machine:
            # not in the lab's own space below: the kernel stacks at most two overlays, and the first may be there already
            for folder in ("/etc", "/var/lib"):
                _overlay(folder)
            for folder in ("/etc/cni", "/var/lib/cni"):
                os.makedirs(folder, exist_ok=True)
                mount("tmpfs", folder, "tmpfs", options="mode=755")
            socket.sethostname(self.name)
        raise_loopback()

    # places, as seen from any thread of this process

    @property
    def root(self) -> Path:
        """This space's file system, reachable from outside of it."""
        return Path(f"/proc/{os.getpid()}/task/{self.thread_id}/root")

    @property
    def network(self) -> str:
        """The file that stands for this space's network namespace."""
        return f"/proc/{os.getpid()}/task/{self.thread_id}/ns/net"

    # work

    def call(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """Run a quick function in here and hand back what it returns or raises."""
        if threading.current_thread() is self._thread:
            return function(*arguments, **named)
        future: Future[_T] = Future()

        def work() -> None:
            try:
                future.set_result(function(*arguments, **named))
            except BaseException as error:  # noqa: BLE001  handed to the caller, who decides
                future.set_exception(error)

        self._work.put(work)
        return future.result(timeout=120 * SLOWNESS)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command in here; it is killed when this space closes or this process dies, however it dies."""
        # the kernel sends this signal when the thread that started the process ends
        guarded = ["setpriv", "--pdeathsig", "KILL", *command]
        process = self.call(lambda: subprocess.Popen(guarded, text=True, **options))
        self._processes = [other for other in self._processes if other.poll() is None] + [process]
        return process

    def run(self, command: Sequence[str], *, text: str = "", check: bool = True, timeout: float = 120.0, **options: Any) -> str:
        """Run a command in here to its end and hand back its output; CommandFailed unless it succeeds.

        ``timeout`` is in seconds, times slowness.
        """
        process: subprocess.Popen[str] = self.call(
            lambda: subprocess.Popen(
                command,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if check else None,
                **options,
            )
        )
        try:
            output, _ = process.communicate(text, timeout=timeout * SLOWNESS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise CommandFailed(f"{self.name}: {' '.join(command)}: not done after {timeout:g} s\n{output}") from None
        if check and process.returncode != 0:
            raise CommandFailed(f"{self.name}: {' '.join(command)}: status {process.returncode}\n{output}")
        return output

    def ip(self, lines: Sequence[str]) -> None:
        """Run many lines of the ``ip`` command as one process."""
        if lines:
            self.run(["ip", "-batch", "-"], text="\n".join([*lines, ""]))

    def sysctl(self, values: Mapping[str, str | int]) -> None:
        """Set sysctls of this network namespace."""
        for name, value in values.items():
            self.call(write_sysctl, name, value)


def raise_loopback() -> None:
    """Bring ``lo`` of the calling thread's network namespace up, without the price of a process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def _overlay(folder: str) -> None:
    """Make a folder writable without a trace: changes go to memory."""
    upper, work = f"/run/.overlay{folder}/upper", f"/run/.overlay{folder}/work"
    os.makedirs(upper)
    os.makedirs(work)
    mount("overlay", folder, "overlay", options=f"lowerdir={folder},upperdir={upper},workdir={work}")


def bind_network(source: str, target: str) -> None:
    """Give a network namespace a name in the calling thread's file system, as ``ip netns`` does."""
    os.close(os.open(target, os.O_CREAT | os.O_RDONLY, 0o444))
    mount(source, target, flags=MS_BIND)


def make_network(target: str) -> None:
    """Make a new network namespace with the name ``target`` (a path) in the calling thread's file system.

    The thread itself comes back to where it was.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        unshare(CLONE_NEWNET)
        try:
            bind_network("/proc/thread-self/ns/net", target)
        finally:
            setns(here, CLONE_NEWNET)
    finally:
        os.close(here)


@contextlib.contextmanager
def inside(network: str) -> Iterator[None]:
    """Let the calling thread visit the network namespace behind a path."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(network, os.O_RDONLY)
    try:
        setns(there, CLONE_NEWNET)
        yield
        setns(here, CLONE_NEWNET)
    finally:
        os.close(here)
        os.close(there)


def together(calls: Iterable[Callable[[], object]]) -> None:
    """Make independent calls at once, since each waits for a process; the first error of any is raised at the end."""
    waiting = list(calls)
    with ThreadPoolExecutor(max_workers=max(1, min(4, len(waiting)))) as pool:
        for future in [pool.submit(call) for call in waiting]:
            future.result()
