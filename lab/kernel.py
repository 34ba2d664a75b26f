"""The lab kernel: run a command under Debian's kernel, on any machine, without hardware virtualisation.

Many machines (containers, small virtual machines) have no IPVS, dummy, IPIP or FOU. Debian's kernel has them all, so
virtme-ng boots it under QEMU over the live root file system and the command runs inside, as root. What is different
inside:

- `/` is the host's, read-only; `/etc /usr /var /opt /home /srv /tmp` take writes that vanish with the kernel;
  `/run` and `/var/lib/cni` are empty; the working folder (`Boot.work`) is the one place that both sides see.
- Everything is about 13 times slower than native; a boot takes 20 to 45 s. Boot once for many tests.
- There is no network but loopback, unless `Boot.network` asks for it (then 10.0.2.2 is the host's loopback).

The exit status comes back in a file, because virtme-ng does not always hand it back. This module refuses to guess:
a kernel that did not report a status has failed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab import kernel_disk, kernel_features
from lab.kernel_disk import Disk

REPOSITORY = Path(__file__).resolve().parent.parent
_LOOKED_UP = ("protocols", "services", "nsswitch.conf", "resolv.conf", "hosts", "gai.conf")
_DISK_MODULES = ("virtio_blk", "squashfs")
INSIDE = "LAB_KERNEL"  # set, to the kernel's release, in the environment of everything that runs inside

# No mitigations: they guard nothing here and cost much under emulation. Expedited grace periods: a namespace is torn
# down in milliseconds instead of tens of them. No watchdogs: a starved emulated processor is not a fault. The TSC is
# QEMU's own clock, so it can be trusted, and reading the time stays out of the kernel.
KERNEL_OPTIONS = (
    "mitigations=off rcupdate.rcu_expedited=1 rcupdate.rcu_cpu_stall_suppress=1 nowatchdog tsc=reliable"
    # Drivers of hardware that nobody uses here, which udev would load (each costs up to some seconds).
    " module_blacklist=kvm,kvm_amd,kvm_intel,ahci,libata,sr_mod,iTCO_wdt,i6300esb,lpc_ich,i2c_i801,psmouse,evdev,pcspkr"
    ",button,powernow_k8,acpi_cpufreq,aesni_intel,cryptd,qemu_fw_cfg"
)


class NoLabKernel(Exception):
    """The lab kernel cannot be started; the message says what to install."""


class LabKernelFailed(Exception):
    """The kernel started, but ended without saying how the command ended (time ran out, or it crashed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """How to start the lab kernel. Memory in QEMU's spelling, timeout in seconds for boot and command together.

    `gentle` leaves it only what others do not need of the processors; setting `stop` ends it.
    """

    work: Path
    timeout: float = 1800.0
    memory: str = "4G"
    processors: int = 2
    network: bool = False
    interactive: bool = False
    gentle: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit status of the command, seconds until it started, seconds in all."""

    status: int
    boot_seconds: float
    total_seconds: float


def inside() -> bool:
    """Whether this process runs in the lab kernel."""
    return INSIDE in os.environ


def find() -> Path:
    """The newest installed kernel image whose modules hold IPVS.

    Raises NoLabKernel when there is none, or when a tool to start it is missing.
    """
    images = [image for image in Path("/boot").glob("vmlinuz-*") if any(modules(image).glob("kernel/net/netfilter/ipvs/ip_vs.ko*"))]
    lacking = [tool for tool in ("qemu-system-x86_64", "modprobe") if shutil.which(tool, path=_path()) is None]
    if not images:
        lacking.append("linux-image-amd64 with its modules")
    if not _vng().exists():
        lacking.append(f"virtme-ng in {_vng().parent}")
    if lacking:
        raise NoLabKernel(f"the lab kernel needs {', '.join(lacking)}; `make setup` installs them")
    return max(images, key=lambda image: version_key(release(image)))


def release(image: Path) -> str:
    """The release of a kernel image, as `uname -r` says it inside."""
    return image.name.removeprefix("vmlinuz-")


def modules(image: Path) -> Path:
    """The folder that holds an image's modules."""
    return Path("/lib/modules") / release(image)


def run(command: Sequence[str], boot: Boot, *, echo: Callable[[bytes], None] | None = None) -> Outcome:
    """Run `command` in the lab kernel, in the repository's folder, and wait for its end.

    Output goes to `echo` as it comes (default: this process' standard output). With `boot.interactive` the command
    has this terminal. Raises NoLabKernel or LabKernelFailed; the command's own failure is a status, not an error.
    """
    image = find()
    boot.work.mkdir(parents=True, exist_ok=True)
    script, status, started = (boot.work / name for name in ("inside.sh", "status", "started"))
    for old in (status, started):
        old.unlink(missing_ok=True)
    with _alone():
        # packed only now: whoever ran meanwhile has put the files in place of those of before
        disks = [kernel_disk.packages(), kernel_disk.repository(boot.work)] if kernel_disk.is_possible() else []
        script.write_text(guest_script(command, boot, release(image), disks))
        begin = time.monotonic()
        boots = _Watch(started, begin)
        gently = ["nice", "-n", "19"] if boot.gentle else []
        process = _start([*gently, *_vng_command(image, script, boot, disks)], interactive=boot.interactive)
        if boot.gentle:
            _lower(process)
        try:
            expired = _pump(process, boot, echo or _to_stdout)
        finally:
            _end(process)
            boots.stop()
    total = time.monotonic() - begin
    try:
        return Outcome(int(status.read_text()), boots.seconds or total, total)
    except (OSError, ValueError):
        reason = f"it was ended after {boot.timeout:.0f} s" if expired else "it stopped by itself"
        phase = "before the command was started" if boots.seconds is None else "while the command was running"
        raise LabKernelFailed(f"no exit status from the lab kernel: {reason}, {phase}") from None


def guest_script(command: Sequence[str], boot: Boot, kernel: str, disks: Sequence[Disk] = ()) -> str:
    """The shell script that runs inside: a clean world, the modules, the command, its status into a file."""
    passed = {
        "PATH": _path(),
        "HOME": "/run/home",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
        "PYTHONDONTWRITEBYTECODE": "1",
        INSIDE: kernel,
        **boot.environment,
    }
    work = shlex.quote(str(boot.work))
    line = shlex.join(command)
    mounts = [text for number, disk in enumerate(disks) for text in disk.guest_lines(f"/dev/vd{'abc'[number]}", f"/run/disk{number}")]
    if boot.interactive:  # a pseudo-terminal: the guest's standard input is a virtio port
        line = f"script --quiet --return --command {shlex.quote(line)} /dev/null"
    return "\n".join(
        [
            *(f"export {name}={shlex.quote(value)}" for name, value in passed.items()),
            f"cd {shlex.quote(str(REPOSITORY))}",
            "mkdir -p /run/home /run/netns",
            "for folder in /var/lib/cni /etc/cni /opt/cni; do",
            "  mkdir -p $folder && mount -t tmpfs tmpfs $folder",
            "done",
            # The C library opens these for every line of `ipset restore` and `ipvsadm -R`: milliseconds each over 9p.
            "mkdir -p /run/etc && mount -t tmpfs tmpfs /run/etc",
            f"for file in {' '.join(_LOOKED_UP)}; do",
            "  test -f /etc/$file && cp /etc/$file /run/etc/ && mount --bind /run/etc/$file /etc/$file",
            "done",
            "ip link set lo up",
            f"modprobe --quiet --all {' '.join((*kernel_features.MODULES, *_network_modules(boot), *_DISK_MODULES))}",
            *mounts,
            f"cd {shlex.quote(str(REPOSITORY))}",  # again: what the folder was is now below a mount
            f"touch {work}/started",
            line,
            f"status=$?; dmesg --level=emerg,alert,crit,err,warn >{work}/dmesg 2>&1",
            f"echo $status >{work}/status.new && mv {work}/status.new {work}/status && sync",
            "",
        ]
    )


def _vng_command(image: Path, script: Path, boot: Boot, disks: Sequence[Disk]) -> list[str]:
    command = [str(_vng()), "--disable-kvm", "--run", str(image), "--name", "lab"]
    command += ["--cpus", str(boot.processors), "--memory", boot.memory, "--user", "root"]
    command += ["--rwdir", str(boot.work), "--append", KERNEL_OPTIONS]
    if boot.network:
        command += ["--network", "user"]
    command += [f"--qemu-opts={disk.qemu_options()}" for disk in disks]
    return [*command, "--", f"bash {shlex.quote(str(script))}"]


@contextmanager
def _alone() -> Iterator[None]:
    """One lab kernel at a time: two emulated ones on two cores starve each other past every timeout. LAB_KERNEL_LOCK names
    another lock, for one that ends at once."""
    lock = Path(os.environ.get("LAB_KERNEL_LOCK") or kernel_disk.CACHE / "lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("lab kernel: another one runs, waiting for its end", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(command: Sequence[str], *, interactive: bool) -> subprocess.Popen[bytes]:
    # Output must be a pipe: QEMU opens it anew for each port, and would overwrite the beginning of a file.
    # A session of its own, so that ending it ends QEMU too; but a shell for people must stay in the terminal's.
    return subprocess.Popen(
        command,
        env={**os.environ, "PATH": _path()},
        stdin=None if interactive else subprocess.DEVNULL,
        stdout=None if interactive else subprocess.PIPE,
        stderr=None if interactive else subprocess.STDOUT,
        start_new_session=not interactive,
    )


def _pump(process: subprocess.Popen[bytes], boot: Boot, echo: Callable[[bytes], None]) -> bool:
    """Pass on output until the end; True when the time ran out first."""
    ended, expired = threading.Event(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + boot.timeout
        while not ended.wait(0.5):
            if time.monotonic() > deadline:
                expired.set()
            if expired.is_set() or boot.stop.is_set():
                _end(process)
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        if process.stdout is not None:
            descriptor = process.stdout.fileno()
            while chunk := os.read(descriptor, 65536):
                echo(chunk)
        process.wait()
    finally:
        ended.set()
        watching.join()
    return expired.is_set()


def _lower(process: subprocess.Popen[bytes]) -> None:
    """Its session's priority too: the kernel weighs sessions before the processes in them (sched(7), autogroups)."""
    with suppress(OSError):  # a kernel without autogroups
        Path(f"/proc/{process.pid}/autogroup").write_text("19")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    own_session = os.getsid(process.pid) == process.pid
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            if own_session:
                os.killpg(process.pid, sign)
            else:
                process.send_signal(sign)
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
        return


class _Watch:
    """Notes when the file appears that the guest writes just before the command."""

    def __init__(self, path: Path, begin: float) -> None:
        self.seconds: float | None = None
        self._path, self._begin, self._stopped = path, begin, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopped.wait(0.2) or self._path.exists():
            if self._path.exists():
                self.seconds = time.monotonic() - self._begin
                return

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def _to_stdout(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _vng() -> Path:
    return Path(sys.executable).parent / "vng"  # not resolved: the virtual environment's, not the base Python's


def _path() -> str:
    return ":".join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"])


def _network_modules(boot: Boot) -> tuple[str, ...]:
    return ("virtio_net",) if boot.network else ()


def version_key(text: str) -> tuple[tuple[int, str], ...]:
    """Sorts kernel releases by their numbers."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in text.replace("-", ".").split("."))


def work_folder(purpose: str) -> Path:
    """A fresh folder under .cache for one boot; both sides see it."""
    base = REPOSITORY / ".cache" / "lab-kernel"
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=base))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m lab.kernel COMMAND...` runs a command in the lab kernel; `--needs a,b` prefers this kernel if it can."""
    parser = argparse.ArgumentParser(prog="lab.kernel", description="Run a command in the lab kernel.")
    parser.add_argument("--needs", default="", help="features, comma-separated: run in place when they are all here")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds, boot included")
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--network", action="store_true", help="user network: the host's loopback is 10.0.2.2")
    parser.add_argument("--interactive", action="store_true", help="give the command this terminal")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command given")
    needs = frozenset(filter(None, options.needs.split(",")))
    if needs and not kernel_features.missing(needs):
        return subprocess.run(command, check=False).returncode
    work = work_folder("run")
    boot = Boot(
        work=work,
        timeout=options.timeout,
        memory=options.memory,
        network=options.network,
        interactive=options.interactive,
    )
    try:
        print(f"lab kernel: starting {release(find())} under emulation (20 to 45 s)", file=sys.stderr, flush=True)
        outcome = run(command, boot)
    except (NoLabKernel, LabKernelFailed) as problem:
        print(f"lab kernel: {problem}", file=sys.stderr)
        return 125
    shutil.rmtree(work, ignore_errors=True)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
